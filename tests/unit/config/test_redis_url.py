"""One reading of SFWORKER_REDIS_URL: every form that runs, and what is wrong with all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from secretflow_task.cli import environment
from secretflow_task.cli.exits import Exit, exit_code
from secretflow_task.config.redis_url import RedisAddress, read_redis_url
from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.link.peer.certificates import make_certificate

SECRET = "s3cr3t"
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate and its key."""
    identity, _ = make_certificate("redis", tmp_path_factory.mktemp("tls"))
    return {"cert": str(identity.certificate), "key": str(identity.key)}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress(hosts=(("h", 6379),))),
        ("redis:///3", RedisAddress(hosts=(("localhost", 6379),), database=3)),
        ("redis://h:1/2?db=2", RedisAddress(hosts=(("h", 1),), database=2)),
        ("redis://[::1]:7/0", RedisAddress(hosts=(("::1", 7),))),
        ("redis://:p%40w@h", RedisAddress(hosts=(("h", 6379),), password="p@w")),
        ("redis://u:p@h", RedisAddress(hosts=(("h", 6379),), username="u", password="p")),
        ("redis://u@h", RedisAddress(hosts=(("h", 6379),), username="u")),
        ("unix:///run/r.sock?db=4", RedisAddress(socket="/run/r.sock", database=4)),
        ("unix://u:p@/r.sock", RedisAddress(socket="/r.sock", username="u", password="p")),
        (
            "redis+socket:///run/r.sock?virtual_host=4",
            RedisAddress(socket="/run/r.sock", database=4),
        ),
        ("rediss://h", RedisAddress(hosts=(("h", 6379),), tls=VERIFIED)),
        (
            "sentinel://:p@a/1;sentinel://b:2/1?master_name=m&sentinel_password=s",
            RedisAddress(
                hosts=(("a", 26379), ("b", 2)),
                database=1,
                master="m",
                password="p",
                sentinel_password="s",
            ),
        ),
        (
            "sentinel://a?master_name=m&ssl=true",
            RedisAddress(hosts=(("a", 26379),), master="m", tls=VERIFIED),
        ),
    ],
)
def test_what_redis_py_and_celery_take_is_read(url: str, address: RedisAddress) -> None:
    assert read_redis_url(url) == address


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("CERT_REQUIRED", "required"),
        ("required", "required"),
        ("CERT_OPTIONAL", "optional"),
        ("optional", "optional"),
        ("CERT_NONE", "none"),
        ("none", "none"),
    ],
)
def test_both_spellings_of_what_tls_checks_mean_the_same(spelling: str, meant: str) -> None:
    tls = read_redis_url(f"rediss://h?ssl_cert_reqs={spelling}").tls
    assert tls == {"ssl_cert_reqs": meant, "ssl_check_hostname": meant != "none"}


def test_the_files_of_tls_and_the_name_in_the_certificate(files: dict[str, str]) -> None:
    url = "rediss://h?ssl_ca_certs={cert}&ssl_certfile={cert}&ssl_keyfile={key}"
    assert read_redis_url(url.format_map(files) + "&ssl_check_hostname=false").tls == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": False,
        "ssl_ca_certs": files["cert"],
        "ssl_certfile": files["cert"],
        "ssl_keyfile": files["key"],
    }


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "scheme"),
        ("h:6379/0", "scheme"),
        ("http://:s3cr3t@h", "scheme"),
        ("redis:h", "scheme"),
        ("redis://:s3cr3t@h/abc", "database"),
        ("redis://:s3cr3t@h/-1", "database"),
        ("redis://:s3cr3t@h/0/1", "database"),
        ("redis://:s3cr3t@h/1?db=2", "database"),
        ("redis://:s3cr3t@h/99999999999999999999", "database"),
        ("unix:///r.sock?virtual_host=x", "database"),
        ("redis://:s3cr3t@h:0", "port"),
        ("redis://:s3cr3t@h:65536", "port"),
        ("redis://:s3cr3t@h:abc", "port"),
        ("redis://:s3cr3t@", "host"),
        ("redis://:s3cr3t#x@h", "#"),
        ("redis://:s3cr3t/x@h/0", "port"),
        ("redis://:1?s3cr3t=x@h/0", "option"),
        ("redis://:s3cr3t@h;redis://g", "several"),
        ("redis://:s3cr3t@h;g:1", "scheme"),
        ("redis://:s3cr3t@h?timeout=3", "option"),
        ("rediss://:s3cr3t@h?ssl_ca_cert=/x", "did you mean 'ssl_ca_certs'?"),
        ("redis://:s3cr3t@h?ssl_ca_certs=/x", "rediss://"),
        ("redis://:s3cr3t@h?master_name=m", "sentinel://"),
        ("rediss://:s3cr3t@h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://:s3cr3t@h?ssl_check_hostname=maybe", "ssl_check_hostname"),
        ("rediss://:s3cr3t@h?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname"),
        ("rediss://:s3cr3t@h?ssl_ca_certs=/s3cr3t", "ssl_ca_certs"),
        ("rediss://:s3cr3t@h?ssl_ca_certs=/dev/null", "ssl_ca_certs"),
        ("rediss://:s3cr3t@h?ssl_ca_path=/s3cr3t", "ssl_ca_path"),
        ("rediss://:s3cr3t@h?ssl_keyfile={key}", "ssl_certfile"),
        ("rediss://:s3cr3t@h?ssl_certfile={key}", "ssl_certfile"),
        ("rediss://:s3cr3t@h?ssl_ca_certs={key}", "ssl_ca_certs"),
        ("unix://:s3cr3t@h/r.sock", "path"),
        ("unix://:s3cr3t@", "path"),
        ("sentinel://:s3cr3t@a:1;sentinel://b", "master_name"),
        ("sentinel://:s3cr3t@a/1;sentinel://b/2?master_name=m", "database"),
        ("sentinel://:s3cr3t@a?master_name=m;sentinel://b?master_name=n", "master_name"),
    ],
)
def test_everything_else_is_refused_with_the_part_that_is_wrong_and_no_secret(
    url: str, part: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFWORKER_REDIS_URL", (url or " ").format_map(files))
    with pytest.raises(BadSetting) as refused:
        environment.settings(tmp_path / "none")
    assert exit_code(refused.value) == Exit.BAD_REQUEST
    said = refused.value.message
    assert said.startswith("SFWORKER_REDIS_URL: ") and part in said
    assert SECRET not in said


def test_what_is_shown_of_an_address_has_no_secret() -> None:
    urls = {
        "redis://u:s3cr3t@h/1": "redis://h:6379/1",
        "rediss://u:s3cr3t@[::1]": "rediss://[::1]:6379/0",
        "unix://u:s3cr3t@/r.sock": "unix:///r.sock?db=0",
        "sentinel://:s3cr3t@a;sentinel://b?master_name=m&sentinel_password=s3cr3t": (
            "sentinel://a:26379,b:26379/0?master_name=m"
        ),
    }
    for url, shown in urls.items():
        address = read_redis_url(url)
        assert address.shown == shown
        assert SECRET not in repr(address)
