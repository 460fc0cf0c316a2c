"""The service's settings: read from `AGGREGATOR_*` when constructed, never at import.

Each field carries one sentence of help; the README's table, `usage-meter config` and the error messages are made
from it. A secret is never part of a repr or of `config`'s output.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from aggregator.errors import SettingsError
from aggregator.page.look import Look
from aggregator.retention import Retention

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PREFIX = "AGGREGATOR_"
STORE_SCHEMES = ("chdb", "clickhouse", "http", "https")
REDIS_SCHEMES = ("redis", "rediss", "unix")
EMBEDDED = "embedded"


def _setting(default: Any, help: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"help": help, "secret": secret})


def _default_store_url() -> str:
    return f"chdb://{Path.cwd() / 'usage-data'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the service listens, reads and stores."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis or Valkey that the apps write to: `redis://`, `rediss://`, `unix://`, "
        "or `embedded` to start one beside the store.",
    )
    store_url: str = field(
        default_factory=_default_store_url,
        metadata={
            "help": "`chdb:///directory` (embedded, one process), or a ClickHouse server: "
            "`http(s)://user:password@host:8123/database`, `clickhouse://…`. Default: `./usage-data`.",
            "secret": False,
        },
    )
    secret: str = _setting(
        "",
        "Signs the tokens (at least 32 characters). Without it the service answers only on loopback, as operator.",
        secret=True,
    )
    previous_secret: str = _setting(
        "", "The secret before this one: its tokens stay valid while you replace them.", secret=True
    )
    host: str = _setting("127.0.0.1", "Address to listen on; other than loopback only with a secret.")
    port: int = _setting(8080, "Port to listen on.")
    company: str = _setting("usage-meter", "The name on the pages.")
    logo: str = _setting("", "Path of an SVG or PNG file (at most 256 KiB): the logo on the pages.")
    accent: str = _setting(
        "", "The pages' colour, `#rrggbb`; made darker or lighter where text could not be read in it."
    )
    frame_ancestors: str = _setting(
        "", "Origins that may show the pages in a frame, divided by spaces, such as `https://app.example.com`."
    )
    trace_url: str = _setting("", "Where a call's trace is seen: `https://traces.example.com/trace/{trace_id}`.")
    retention_raw: int | None = _setting(
        None, "Days for which single calls are kept, such as `90` or `90d`; unset keeps them for ever."
    )
    retention_15m: int | None = _setting(None, "The same for the rollups by quarters of an hour.")
    retention_hourly: int | None = _setting(None, "The same for those by hours.")
    retention_daily: int | None = _setting(None, "The same for those by days.")
    retention_monthly: int | None = _setting(None, "The same for those by months.")

    def __post_init__(self) -> None:
        _check_url(
            "store_url", self.store_url, STORE_SCHEMES, "chdb:///directory or http://user:password@host:8123/database"
        )
        if self.redis_url != EMBEDDED:
            _check_url(
                "redis_url", self.redis_url, REDIS_SCHEMES, "redis://host:6379/0, rediss://…, unix:///path or embedded"
            )
        if self.secret and len(self.secret) < 32:
            raise SettingsError(
                f"{PREFIX}SECRET has {len(self.secret)} characters: must be at least 32, chosen at random"
            )
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"{PREFIX}PORT is {self.port}: must be 0 (any free one) to 65535")
        if not self.secret and not is_loopback(self.host):
            raise SettingsError(
                f"{PREFIX}HOST is {self.host}, and {PREFIX}SECRET is not set: without a secret everybody who reaches "
                "the service is an operator, so it listens on 127.0.0.1 only; set a secret of at least 32 characters"
            )
        _ = self.look, self.retention  # which check themselves

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> "Settings":
        """From the environment; an override that is not None wins. Raises SettingsError that names the variable."""
        return cls(**{name: value for name, (value, _) in explained(environ, **overrides).items() if value is not None})

    def check_role(self, role: str) -> None:
        """Half a service shares its store and its Redis with the other half. Raises SettingsError."""
        if role == "all":
            return
        for name, value, is_own, right in (
            (
                "STORE_URL",
                self.store_url,
                self.is_embedded_store,
                "a ClickHouse server, http://user:password@host:8123/db",
            ),
            ("REDIS_URL", self.redis_url, self.redis_url == EMBEDDED, "a Redis, redis://host:6379/0"),
        ):
            if is_own:
                raise SettingsError(
                    f"--role {role} is one of two processes, and {PREFIX}{name} is '{value}', which belongs to one: "
                    f"set it to {right}, or leave --role out"
                )

    @property
    def directory(self) -> Path:
        """Where everything embedded keeps its files: the chDB store's, else `./usage-data`."""
        if self.is_embedded_store:
            return Path(urlsplit(self.store_url).path)
        return Path.cwd() / "usage-data"

    @property
    def retention(self) -> Retention:
        """How long each table keeps what it has. Raises SettingsError."""
        return Retention(
            raw=self.retention_raw,
            quarter_hourly=self.retention_15m,
            hourly=self.retention_hourly,
            daily=self.retention_daily,
            monthly=self.retention_monthly,
        )

    @property
    def look(self) -> Look:
        """How the pages look. Raises SettingsError."""
        return Look(
            name=self.company,
            logo=self.logo,
            accent=self.accent,
            frame_ancestors=self.frame_ancestors,
            trace_url=self.trace_url,
        )

    @property
    def is_embedded_store(self) -> bool:
        return urlsplit(self.store_url).scheme == "chdb"


def explained(
    environ: Mapping[str, str], settings: "type[DataclassInstance]" = Settings, **overrides: Any
) -> dict[str, tuple[Any, str]]:
    """Each setting's value and where it came from: `option`, `environment` or `default` (its value then is None)."""
    found: dict[str, tuple[Any, str]] = {}
    for one in fields(settings):
        variable = PREFIX + one.name.upper()
        if overrides.get(one.name) is not None:
            found[one.name] = (overrides[one.name], "option")
        elif environ.get(variable, "") != "":
            found[one.name] = (_parsed(variable, environ[variable], one.type), "environment")
        else:
            found[one.name] = (None, "default")
    return found


def displayed(settings: "DataclassInstance", name: str) -> str:
    """A setting's value as it may be printed: secrets only as set or not, URLs without their password."""
    value = getattr(settings, name)
    if settings.__dataclass_fields__[name].metadata["secret"]:
        return "(set)" if value else "(not set)"
    return without_password(value) if name.endswith("url") else str(value)


def _parsed(variable: str, text: str, type: Any) -> Any:
    if type == int | None:
        if not re.fullmatch(r"[0-9]{1,6}d?", text):
            raise SettingsError(f"{variable} is '{text}': must be a number of days, such as 90 or 90d")
        return int(text.rstrip("d"))
    if type is not int:
        return text
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{variable} is '{text}': must be a whole number") from None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(name: str, url: str, schemes: tuple[str, ...], right: str) -> None:
    try:
        parts = urlsplit(url)
        missing = parts.scheme not in schemes or not (
            parts.netloc if parts.scheme not in ("chdb", "unix") else parts.path.strip("/")
        )
        _ = parts.port
    except ValueError:
        missing = True
    if missing or (parts.scheme == "chdb" and parts.netloc):
        raise SettingsError(f"{PREFIX}{name.upper()} is '{without_password(url)}': must look like {right}")


def without_password(url: str) -> str:
    """The URL as it may be shown or logged."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
    except ValueError:
        return "(not a URL)"
