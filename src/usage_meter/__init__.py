"""Metering for any ASGI or WSGI app: records every call once, never gets in the way. See the README."""

from usage_meter.caller import Caller
from usage_meter.current import usage
from usage_meter.event import UsageEvent
from usage_meter.meter import Meter

__all__ = ["Caller", "Meter", "UsageEvent", "usage"]
