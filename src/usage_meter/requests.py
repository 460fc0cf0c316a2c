"""Webhooks sent by requests: each request of a session is an attempt, recorded with what came of it.

    session.mount("https://", UsageMeterAdapter(meter))          # or around an adapter of your own

Within `with meter.webhook(...)` the request belongs to that attempt, which has a route, a caller and a number. What
an adapter retries by itself (`max_retries`) is one attempt, with the answer to the last.
"""

from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter, HTTPAdapter

from usage_meter.call import Metered
from usage_meter.webhook import Exchange, content_length


class UsageMeterAdapter(BaseAdapter):
    """Around another adapter, by default requests' own. Unless it streams, the answer is read here to its end."""

    def __init__(self, meter: Metered, adapter: BaseAdapter | None = None) -> None:
        super().__init__()
        self._meter = meter
        self._adapter = adapter or HTTPAdapter()

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: dict[str, str] | None = None,
    ) -> Response:
        exchange = Exchange(self._meter, request.method or "", request.url, request.headers)
        try:
            response = self._adapter.send(request, stream, timeout, verify, cert, proxies)
            exchange.answered(response.status_code)
            exchange.received(content_length(response.headers) if stream else len(response.content))
        except BaseException as error:
            exchange.ended(error)
            raise
        exchange.ended()
        return response

    def close(self) -> None:
        self._adapter.close()
