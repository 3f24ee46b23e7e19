"""Settings come from the environment, once, and a wrong one is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from secretflow_task.cli import environment
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting


def test_the_defaults_suit_a_laptop() -> None:
    settings = Settings()
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.parties == () and settings.queues == ("secretflow_queue",)
    assert settings.ports == range(20000, 30000)
    assert (
        settings.concurrency,
        settings.job_timeout_seconds,
        settings.prepare_timeout_seconds,
    ) == (
        2,
        3600,
        120,
    )
    assert (settings.stream_maxlen, settings.status_list) == (1_000_000, False)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_field_has_a_description(name: str) -> None:
    assert re.fullmatch(r"[A-Z][^\n]+\.", Settings.model_fields[name].description or "")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_counts_as_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    monkeypatch.setenv(f"SFWORKER_{name.upper()}", "")
    assert Settings() == before


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NAME", "node-7", "node-7"),
        ("DATA_ROOT", "/data", Path("/data")),
        ("STATE_DIR", "/state", Path("/state")),
        ("CONCURRENCY", "8", 8),
        ("JOB_TIMEOUT_SECONDS", "1.5", 1.5),
        ("JOB_TIMEOUTS_SECONDS", "psi=600, ss_xgb=0.5", {"psi": 600, "ss_xgb": 0.5}),
        ("STATUS_LIST", "true", True),
        ("LOG_JSON", "1", True),
    ],
)
def test_a_field_is_one_variable(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SFWORKER_{name}", text)
    assert getattr(Settings(), name.lower()) == value


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_field_that_is_a_time_names_its_unit(name: str) -> None:
    is_time = any(
        word in name
        for word in (
            "timeout",
            "grace",
            "drain",
            "silence",
            "join",
            "settle",
            "heartbeat",
            "lost",
            "clock",
        )
    )
    assert is_time is name.endswith("_seconds")


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_PARTIES", " alice, bob ,,")
    monkeypatch.setenv("SFWORKER_ALLOWED_ROOTS", "/models,/data/in")
    monkeypatch.setenv("SFWORKER_QUEUES", "a,b")
    settings = Settings()
    assert settings.parties == ("alice", "bob")
    assert settings.allowed_roots == ("/models", "/data/in")
    assert settings.queues == ("a", "b")


@pytest.mark.parametrize("text", ["al ice", "alice,alice", "../bob", "1st", "a" * 33, "a\nb", "é"])
def test_a_party_name_that_is_no_file_name_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFWORKER_PARTIES", text)
    with pytest.raises(ValidationError, match="name each party once|is not a name of a party"):
        Settings()


@pytest.mark.parametrize(
    ("text", "ports"), [("1024-1025", range(1024, 1026)), ("31000-32767", range(31000, 32768))]
)
def test_a_port_range_includes_both_ends(
    text: str, ports: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFWORKER_PORT_RANGE", text)
    assert Settings().ports == ports


@pytest.mark.parametrize(
    "text", ["20000", "20000-", "30000-20000", "80-90", "32000-33000", "1-2-3", "a-b"]
)
def test_a_wrong_port_range_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_PORT_RANGE", text)
    with pytest.raises(ValidationError, match="first-last, both from 1024 to 32767"):
        Settings()


@pytest.mark.parametrize("text", ["/tmp/a b", "/tmp/$(id)", "/tmp/é", "/tmp/a;b", "/tmp/'"])
def test_a_work_folder_that_a_shell_would_take_apart_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFWORKER_WORK_DIR", text)
    with pytest.raises(ValidationError, match="only letters, digits"):
        Settings()


def test_folders_that_a_job_uses_are_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFWORKER_WORK_DIR", "work")
    monkeypatch.setenv("SFWORKER_STATE_DIR", "state")
    settings = Settings()
    assert settings.work_dir == tmp_path / "work"
    assert settings.state_dir == tmp_path / "state"


def test_the_state_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Settings().state_dir == Path("/state/sfworker")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert Settings().state_dir == Path.cwd() / "state/sfworker"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings().state_dir == Path("/home/someone/.local/state/sfworker")


def test_the_log_level_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_LOG_LEVEL", "warning")
    assert Settings().log_level == "WARNING"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "loud"),
        ("CONCURRENCY", "0"),
        ("JOB_TIMEOUT_SECONDS", "-1"),
        ("STREAM_MAXLEN", "9"),
        ("LOG_JSON", "?"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SFWORKER_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [problem["loc"] for problem in caught.value.errors()] == [(name.lower(),)]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().concurrency = 5  # type: ignore[misc]


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(ValidationError, match="concurency"):
        Settings(concurency=5)  # type: ignore[call-arg]


def test_the_password_of_redis_is_not_shown() -> None:
    settings = Settings(redis_url="redis://user:hunter2@host/0")  # type: ignore[arg-type]
    assert "hunter2" not in repr(settings) and "hunter2" not in str(settings)
    assert "hunter2" not in settings.model_dump_json()


PEER = {"peers_file": "parties.yaml", "peer_certificate": "a.crt", "peer_key": "a.key"}


@pytest.mark.parametrize("listen", ["0.0.0.0:9443", "[::]:9443", "alice.example:1"])
def test_a_peer_link_has_an_address_and_its_files(listen: str) -> None:
    assert Settings(peer_listen=listen, **PEER).peer_listen == listen  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", sorted(PEER))
def test_a_peer_link_without_one_of_its_files_is_refused(missing: str) -> None:
    some = {name: value for name, value in PEER.items() if name != missing}
    with pytest.raises(ValidationError, match=f"SFWORKER_{missing.upper()}"):
        Settings(peer_listen="0.0.0.0:9443", **some)  # type: ignore[arg-type]


@pytest.mark.parametrize("listen", ["9443", "0.0.0.0", "0.0.0.0:port", "::1:9443", "a b:1"])
def test_what_is_no_address_to_listen_on_is_refused(listen: str) -> None:
    with pytest.raises(ValidationError, match="address:port"):
        Settings(peer_listen=listen, **PEER)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="address:port"):
        Settings(metrics_listen=listen)


def test_only_semi2k_can_be_allowed_between_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_UNSAFE_PROTOCOLS", "SEMI2K")
    assert Settings().unsafe_protocols == ("SEMI2K",)
    with pytest.raises(ValidationError, match="only SEMI2K"):
        Settings(unsafe_protocols=("REF2K",))


@pytest.mark.parametrize(
    "url",
    ["sqlite:///status.db", "sqlite:////var/lib/s.db", "postgresql://u:p@h/d", "postgres://h/d"],
)
def test_a_database_is_sqlite_or_postgresql(url: str) -> None:
    settings = Settings(database_url=url)  # type: ignore[arg-type]
    assert settings.database_url.get_secret_value() == url
    assert url not in repr(settings)


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "status.db", "sqlite://", "sqlite:///", "postgresql:h"]
)
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="postgresql://user@host/database"):
        Settings(database_url=url)  # type: ignore[arg-type]


def test_a_peer_is_not_lost_between_two_signs_of_life() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Settings(heartbeat_seconds=5.0, peer_lost_seconds=6.0)


def test_a_secret_comes_from_a_file_unless_the_environment_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sfworker_redis_url").write_text("redis://:hidden@redis:6379/0\n")
    (tmp_path / "redis.conf").write_text("of another program")
    read = environment.settings(tmp_path)
    assert (
        read.redis_url.get_secret_value() == "redis://:hidden@redis:6379/0"
        and "hidden" not in repr(read)
    )
    assert (
        environment.settings(tmp_path / "none").redis_url.get_secret_value()
        == "redis://127.0.0.1:6379/0"
    )
    monkeypatch.setenv("SFWORKER_REDIS_URL", "redis://other:6379/0")
    assert environment.settings(tmp_path).redis_url.get_secret_value() == "redis://other:6379/0"


@pytest.mark.parametrize("content", [b"redis://closed", b"\xff\xfe"])
def test_a_secret_that_cannot_be_read_is_a_bad_setting(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sfworker_redis_url").write_bytes(content)
    reason = "not readable text"
    if content.isascii():
        reason = "Permission denied"

        def closed(*_args: object, **_kwargs: object) -> str:
            raise PermissionError(13, reason)

        monkeypatch.setattr(Path, "read_text", closed)  # root may read everything
    with pytest.raises(BadSetting, match=f"SFWORKER_REDIS_URL: .*{tmp_path}: .*{reason}"):
        environment.settings(tmp_path)


def test_a_misspelt_file_of_a_secret_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sfworker_redis_url", "sfworker_database_ur", "redis.conf"):
        (tmp_path / name).write_text("redis://hidden\n")
    environment.settings(tmp_path)
    (said,) = capsys.readouterr().err.splitlines()
    assert (
        f"{tmp_path}/sfworker_database_ur is ignored, did you mean 'SFWORKER_DATABASE_URL'?" in said
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PEER_LISTEN": "::1:9443"}, "SFWORKER_PEER_LISTEN: must be address:port, such as "),
        ({"METRICS_LISTEN": "h:65536"}, "SFWORKER_METRICS_LISTEN: must be address:port, such as "),
        ({"PEER_LISTEN": "[::]:9443"}, "SFWORKER_PEER_LISTEN also needs SFWORKER_PEERS_FILE."),
        ({"PARTIES": "bob,bob"}, "SFWORKER_PARTIES: must name each party once."),
        ({"PARTIES": "bob,4u"}, "SFWORKER_PARTIES: '4u' is not a name of a party: "),
        ({"CONCURRENCY": "many"}, "SFWORKER_CONCURRENCY: input should be a valid integer"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_variable(
    variables: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SFWORKER_{name}", value)
    with pytest.raises(BadSetting) as caught:
        environment.settings(tmp_path)
    assert caught.value.message.startswith(said)
