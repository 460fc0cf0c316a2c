"""A page as bytes: templates in, HTML out, and the headers that keep it safe. Everything in a template is escaped.

Nothing of a page comes from another host, nothing is evaluated as code, and only those whom the company names may
frame it.
"""

import gzip
from collections.abc import Mapping
from typing import Any

import jinja2
import msgspec
from fastapi import Request, Response
from markupsafe import Markup

from aggregator.page.assets import Asset, Assets
from aggregator.page.look import Look

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
YEAR_SECONDS = 31_536_000  # how long a browser keeps what has its fingerprint in its address
_COMPRESSED_FROM = 1024  # bytes below which deflating an answer costs more than it saves
_COMPRESSED = ("text/", "image/svg", "application/json")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
)
# An image opened by itself is a document too: it may show itself and nothing else.
IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Rendering:
    """Renders with one company's look."""

    def __init__(self, assets: Assets, look: Look) -> None:
        self._assets = assets
        self.headers = {
            "Content-Security-Policy": POLICY.format(ancestors=look.frame_ancestors or "'none'"),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Vary": "Cookie, Accept-Encoding",
        }
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("aggregator.page"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.globals |= {"asset": assets.url, "look": look}
        self._templates.filters["data"] = data

    def html(self, request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
        body = self._templates.get_template(template).render(context)
        return self.sent(request, body.encode(), HTML, status)

    def image(self, request: Request, body: bytes, media_type: str) -> Response:
        return self.sent(request, body, media_type, 200, {"Content-Security-Policy": IMAGE_POLICY})

    def text(self, request: Request, text: str, status: int) -> Response:
        return self.sent(request, text.encode(), TEXT, status)

    def sent(
        self, request: Request, body: bytes, media_type: str, status: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        found = self.headers | dict(headers or {})
        if len(body) >= _COMPRESSED_FROM and _takes_gzip(request) and media_type.startswith(_COMPRESSED):
            body, found["Content-Encoding"] = gzip.compress(body, 5), "gzip"
        return Response(body, status, found, media_type)

    def static(self, request: Request, name: str) -> Response:
        """A file of the page's own, or Vega; kept by browsers when its address carries its fingerprint."""
        asset = self._assets.get(name)
        if asset is None:
            return self.text(request, "not found", 404)
        return self._static(request, asset)

    def _static(self, request: Request, asset: Asset) -> Response:
        fresh = request.query_params.get("v") == asset.fingerprint
        headers = self.headers | {
            "Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable" if fresh else "no-cache",
            "Vary": "Accept-Encoding",
        }
        if asset.media_type.startswith("image/"):
            headers["Content-Security-Policy"] = IMAGE_POLICY
        if _takes_gzip(request):
            return Response(asset.deflated, 200, headers | {"Content-Encoding": "gzip"}, asset.media_type)
        return Response(gzip.decompress(asset.deflated), 200, headers, asset.media_type)


def data(value: object) -> Markup:
    """JSON for a data block inside HTML: no character of it can end the block or begin markup."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # escaped right above


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
