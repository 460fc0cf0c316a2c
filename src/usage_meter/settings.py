"""What an app may set, each setting also from the environment as `USAGE_METER_<NAME>`.

Read when constructed, never at import. A bad value is an error that names the variable, the value and what would be
right: settings are configuration, so this may raise, unlike everything that runs with traffic.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from usage_meter.keys import MAX_SHARDS

PREFIX = "USAGE_METER_"
MIB = 1024 * 1024
LEAST_JOURNAL_BYTES = 16 * MIB  # a few segments: below this an outage of a second already drops events
SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


class MeterSettingsError(ValueError):
    """A setting that cannot be used; the message names the variable, the value and what would be right."""

    def __init__(self, name: str, value: object, right: str) -> None:
        super().__init__(f"{PREFIX}{name.upper()} is {value!r}: must be {right}")


def own_journal_dir() -> Path:
    """The default: a directory of this user's own under the temporary one, so that users of one machine do not meet.

    Asked when a process opens its journal, since a server may start as root and then become somebody else.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"usage-meter-{user}"


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """Everything that an app may set. Secrets are in no repr."""

    redis_url: str = field(
        default="redis://127.0.0.1:6379/0",
        repr=False,  # may hold a password; `redis_address` is fit to be shown
        metadata={"help": "Redis or Valkey to send to; `redis+cluster://` for a cluster, `rediss` for TLS."},
    )
    redis_timeout: float = field(
        default=5.0,
        metadata={"help": "Seconds that the sending thread waits for an answer of Redis; no call ever waits for it."},
    )
    journal_dir: Path | None = field(
        default=None,
        metadata={"help": "Directory of the journals; by default one of the user's own under the temporary one."},
    )
    journal_max_bytes: int = field(
        default=512 * MIB,
        metadata={"help": "Disk for the journals in that directory; beyond it the oldest are dropped, and counted."},
    )
    key_secret: str = field(
        default="",
        repr=False,
        metadata={"help": "Secret with which API keys are hashed; the same in every process that should agree."},
    )
    workspace: str = field(
        default="default",
        metadata={"help": "The workspace of a call when nobody says whose it is."},
    )
    shards: int = field(
        default=1,
        metadata={"help": f"Streams to spread workspaces over (1 to {MAX_SHARDS}); more than 1 is for a cluster."},
    )
    distinct_values: int = field(
        default=1000,
        metadata={"help": "New values of one dimension per minute and process; further ones become `__other__`."},
    )

    def __post_init__(self) -> None:
        parts = _split(self.redis_url)
        if parts.scheme not in SCHEMES or not (parts.netloc or parts.path):
            right = f"a URL such as redis://host:6379/0 ({', '.join(SCHEMES)})"
            raise MeterSettingsError("redis_url", self.redis_address, right)
        if not 0 < self.redis_timeout <= 600:
            raise MeterSettingsError("redis_timeout", self.redis_timeout, "seconds, more than 0 and at most 600")
        if self.journal_max_bytes < LEAST_JOURNAL_BYTES:
            right = f"a number of bytes, at least {LEAST_JOURNAL_BYTES}"
            raise MeterSettingsError("journal_max_bytes", self.journal_max_bytes, right)
        if not self.workspace:
            raise MeterSettingsError("workspace", self.workspace, "a name")
        if not 1 <= self.shards <= MAX_SHARDS:
            raise MeterSettingsError("shards", self.shards, f"a whole number, 1 to {MAX_SHARDS}")
        if self.distinct_values < 1:
            raise MeterSettingsError("distinct_values", self.distinct_values, "a whole number, at least 1")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> Self:
        """The settings of `environ`; an override that is not None wins. Raises MeterSettingsError."""
        values: dict[str, Any] = {}
        for setting in fields(cls):
            given = overrides.pop(setting.name, None)
            if given is None:
                given = environ.get(PREFIX + setting.name.upper()) or None  # an empty variable is as good as none
            if given is not None:
                values[setting.name] = _parsed(setting.name, given)
        if overrides:
            raise TypeError(f"no such setting: {', '.join(sorted(overrides))}")
        return cls(**values)

    @property
    def redis_address(self) -> str:
        """The URL without its password: fit for a log line."""
        parts = _split(self.redis_url)
        host = parts.netloc.rpartition("@")[2]
        hidden = f"***@{host}" if "@" in parts.netloc else host
        return urlunsplit((parts.scheme, hidden, parts.path, "", ""))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that do not pair
        return SplitResult("", "", "(not a URL)", "", "")


def _parsed(name: str, given: object) -> object:
    """`given` as the type of the setting: numbers and paths come as text from the environment."""
    if name in ("shards", "distinct_values", "journal_max_bytes"):
        return _number(name, given, int, "a whole number")
    if name == "redis_timeout":
        return _number(name, given, float, "a number of seconds")
    if name == "journal_dir":
        return Path(str(given)).expanduser()
    return str(given)


def _number(name: str, given: object, kind: type[int] | type[float], right: str) -> int | float:
    try:
        return kind(str(given))
    except ValueError:
        raise MeterSettingsError(name, given, right) from None
