"""`SFWORKER_REDIS_URL`: the one reading of it, for Celery's connections and for all others."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from secretflow_task.utils.spelling import did_you_mean

_SCHEMES = ("redis", "rediss", "unix", "redis+socket", "sentinel")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_FILES, "ssl_ca_path", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL = ("master_name", "sentinel_username", "sentinel_password", "ssl")
_DATABASE = ("db", "virtual_host")  # redis-py's name, and Celery's for a unix socket
_OPTIONS = (*_DATABASE, *_SENTINEL, *_TLS)
# The spellings of Celery and of redis-py.
_CERTIFICATE = {
    "cert_required": ssl.CERT_REQUIRED,
    "required": ssl.CERT_REQUIRED,
    "cert_optional": ssl.CERT_OPTIONAL,
    "optional": ssl.CERT_OPTIONAL,
    "cert_none": ssl.CERT_NONE,
    "none": ssl.CERT_NONE,
}
_YES = ("true", "yes", "on", "1")
_NO = ("false", "no", "off", "0")
_PORTS = {"sentinel": 26379}
_LARGEST_DATABASE = 2**31 - 1
_ESCAPE = "write / # ? % @ : and ; in a user or password as %2F %23 %3F %25 %40 %3A and %3B"


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and who we are there.

    Attributes:
        hosts: name and port of the server, or of each Sentinel; empty with a unix socket.
        socket: the file of a unix socket.
        master: the name by which the Sentinels know the master; empty without Sentinels.
        tls: redis-py's options of TLS; None for a connection without.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    master: str = ""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address as a URL without secrets, for logs."""
        if self.socket:
            return f"unix://{self.socket}?db={self.database}"
        hosts = ",".join(
            f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in self.hosts
        )
        if self.master:
            return f"sentinel://{hosts}/{self.database}?master_name={self.master}"
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{hosts}/{self.database}"


def read_redis_url(url: str) -> RedisAddress:
    """Read a URL of redis-py or of Celery.

    Raises:
        ValueError: a part of it is wrong. It names the part, and quotes nothing, which might be a
            piece of the password.
    """
    parts = [_split(part) for part in url.strip().split(";")]
    schemes = {part.scheme for part in parts}
    if len(schemes) > 1:
        raise ValueError(f"its addresses have different schemes; {_ESCAPE}")
    (scheme,) = schemes
    if len(parts) > 1 and scheme != "sentinel":
        raise ValueError(f"only Sentinels (sentinel://) can be several; {_ESCAPE}")
    options = _options(parts, scheme)
    username, password = _credentials(parts)
    address = RedisAddress(
        database=_database(parts, scheme, options),
        username=username,
        password=password,
        tls=_tls(scheme, options),
    )
    if scheme in ("unix", "redis+socket"):
        return replace(address, socket=_socket(parts[0]))
    address = replace(address, hosts=tuple(_host(part) for part in parts))
    if scheme != "sentinel":
        return address
    if not options.get("master_name"):
        raise ValueError("Sentinels need the name of the master: add ?master_name=NAME")
    return replace(
        address,
        master=options["master_name"],
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _split(text: str) -> SplitResult:
    try:
        part = urlsplit(text.strip())
        _ = part.port
    except ValueError:
        raise ValueError(f"the host or the port is wrong; {_ESCAPE}") from None
    if part.scheme not in _SCHEMES or "://" not in text:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f"the scheme is none of {known}")
    if part.fragment:
        raise ValueError(f"it has a part after #; {_ESCAPE}")
    return part


def _host(part: SplitResult) -> tuple[str, int]:
    if not part.hostname and (part.username or part.password):
        raise ValueError(f"the host is missing after the @; {_ESCAPE}")
    if part.port == 0:
        raise ValueError("the port is no number from 1 to 65535")
    return part.hostname or "localhost", part.port or _PORTS.get(part.scheme, 6379)


def _socket(part: SplitResult) -> str:
    path = unquote(part.path)
    if part.hostname or not path.startswith("/") or path == "/":
        raise ValueError("the path of the unix socket is not absolute: unix:///folder/redis.sock")
    return path


def _credentials(parts: list[SplitResult]) -> tuple[str | None, str | None]:
    """Those of the first address that has some."""
    for part in parts:
        if part.username or part.password:
            return unquote(part.username or "") or None, unquote(part.password or "") or None
    return None, None


def _options(parts: list[SplitResult], scheme: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        for name, value in parse_qsl(part.query, keep_blank_values=True):
            if name not in _OPTIONS:
                guess = did_you_mean(name, list(_OPTIONS), likeness=0.75)
                raise ValueError(
                    f"an option after the ? is unknown{guess or '.'} "
                    f"There are {', '.join(_OPTIONS)}; {_ESCAPE}"
                )
            if options.setdefault(name, value) != value:
                raise ValueError(f"{name} is given twice")
    for name in options:
        if name in _SENTINEL and scheme != "sentinel":
            raise ValueError(f"{name} is an option of sentinel:// only")
    return options


def _database(parts: list[SplitResult], scheme: str, options: Mapping[str, str]) -> int:
    given = {options[name] for name in _DATABASE if name in options}
    if scheme not in ("unix", "redis+socket"):
        given |= {part.path.strip("/") for part in parts} - {""}
    if len(given) > 1:
        raise ValueError("the database is given twice")
    text = given.pop() if given else "0"
    if not (text.isascii() and text.isdigit()) or int(text[:12]) > _LARGEST_DATABASE:
        raise ValueError(f"the database after the host is no number; {_ESCAPE}")
    return int(text)


def _tls(scheme: str, options: Mapping[str, str]) -> dict[str, Any] | None:
    """What redis-py takes; the name in the certificate is compared unless that is switched off."""
    if scheme != "rediss" and not _switch(options, "ssl", False):
        for name in options:
            if name in _TLS:
                raise ValueError(
                    f"{name} is for TLS: begin with rediss://, or add ssl=true to Sentinels"
                )
        return None
    asked = options.get("ssl_cert_reqs", "required").lower()
    if asked not in _CERTIFICATE:
        raise ValueError("ssl_cert_reqs is none of required, optional, none")
    verifies = _CERTIFICATE[asked] is not ssl.CERT_NONE
    checks_name = _switch(options, "ssl_check_hostname", verifies)
    if checks_name and not verifies:
        raise ValueError("ssl_check_hostname needs ssl_cert_reqs=required")
    tls: dict[str, Any] = {"ssl_cert_reqs": asked.removeprefix("cert_")}
    tls["ssl_check_hostname"] = checks_name
    for name in ("ssl_ca_path", "ssl_password", *_FILES):
        if name in options:
            tls[name] = options[name]
    _check_files(tls)
    return tls


def _check_files(tls: Mapping[str, Any]) -> None:
    """Load the certificates and the key once: later each connection would fail with a riddle."""
    for name in _FILES:
        if name in tls and not Path(tls[name]).is_file():
            raise ValueError(f"the file of {name} does not exist, or may not be seen")
    if "ssl_ca_path" in tls and not Path(tls["ssl_ca_path"]).is_dir():
        raise ValueError("the folder of ssl_ca_path does not exist, or may not be seen")
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    context = ssl.create_default_context()
    try:
        if "ssl_ca_certs" in tls:
            context.load_verify_locations(tls["ssl_ca_certs"])
    except (OSError, ValueError):
        raise ValueError("the file of ssl_ca_certs cannot be read, or has no certificate") from None
    try:
        if "ssl_certfile" in tls:
            # A text, also an empty one: OpenSSL would ask on the terminal.
            password = tls.get("ssl_password", "")
            context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"), password)
    except (OSError, ValueError):
        raise ValueError(
            "ssl_certfile and ssl_keyfile cannot be read, or are no certificate and its key"
        ) from None


def _switch(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in (*_YES, *_NO):
        raise ValueError(f"{name} is neither true nor false")
    return text.lower() in _YES
