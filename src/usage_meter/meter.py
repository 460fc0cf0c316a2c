"""What an app makes once: its settings, who its callers are, and the recorder behind them."""

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from usage_meter.call import Observer
from usage_meter.caller import Caller, Callers, Identify
from usage_meter.cardinality import CardinalityGuard
from usage_meter.event import UsageEvent
from usage_meter.recorder import Recorder
from usage_meter.settings import MeterSettings
from usage_meter.webhook import Webhook

_check = msgspec.msgpack.Decoder(UsageEvent).decode


class Meter:
    """Every argument also from `USAGE_METER_*`; raises MeterSettingsError for a bad one, and nothing afterwards.

    Opens nothing until the first record, so it may be made before a fork. Closed at the interpreter's exit.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        identify: Identify | None = None,
        *,
        key_secret: str | None = None,
        workspace: str | None = None,
        shards: int | None = None,
        distinct_values: int | None = None,
        journal_dir: Path | str | None = None,
        journal_max_bytes: int | None = None,
        redis_timeout: float | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = MeterSettings.from_env(
            environ,
            redis_url=redis_url,
            key_secret=key_secret,
            workspace=workspace,
            shards=shards,
            distinct_values=distinct_values,
            journal_dir=journal_dir,
            journal_max_bytes=journal_max_bytes,
            redis_timeout=redis_timeout,
        )
        self.identify = identify
        self.observer: Observer | None = None
        self.recorder = Recorder(self.settings)
        self.guard = CardinalityGuard(self.settings.distinct_values)
        self.callers = Callers(self.settings.key_secret, self.settings.workspace, self.guard)
        weakref.finalize(self, self.recorder.close)  # runs at exit, or when nobody holds the meter any longer

    def record(self, event: UsageEvent) -> bool:
        """Record what is not HTTP: a job, a gRPC call. Never raises; false when the event was dropped, and counted.

        An event with a field outside the contract is dropped: it would spoil the whole entry that it travels in.
        """
        try:
            _check(msgspec.msgpack.encode(event))
        except UnicodeEncodeError:
            pass  # the recorder mends it
        except Exception as error:  # the guarded step: anything may have been given here
            self.recorder.failed("a recorded event", error)
            self.recorder.count_dropped("invalid")
            return False
        return self.recorder.record(event)

    def webhook(
        self,
        url: object,
        *,
        route: str = "",
        method: str = "POST",
        caller: Caller | None = None,
        attempt: int = 1,
        request_id: str = "",
        **values: object,
    ) -> Webhook:
        """An outgoing delivery: enter it (`with` or `async with`) for each attempt, and say what was `answered`.

        `route` is the template to group it by, by default the URL's host and path. `caller` is whose webhook it is,
        by default the caller of the current call, as `request_id` is that call's. `attempt` is the number of the first
        attempt; `values` are as for `usage.set`. Never raises.
        """
        return Webhook(
            self,
            url,
            route=route,
            method=method,
            caller=caller,
            attempt=attempt,
            request_id=request_id,
            values=values,
        )

    def close(self, timeout: float = 5.0) -> bool:
        """Send what is left, for at most `timeout` seconds; true when Redis has everything."""
        return self.recorder.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
