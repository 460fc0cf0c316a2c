"""The files that a page loads: our own CSS and JavaScript, the colours, and Vega out of its wheel. All from this host.

Each has its content's fingerprint in its address, so that browsers keep it for a year and never keep an old one.
"""

import gzip
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from pathlib import Path

from aggregator.page import colors
from aggregator.page.drawing import Drawing
from aggregator.page.look import Look

VEGA = "vega.js"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
_LOGO = "logo"


@dataclass(frozen=True, slots=True)
class Asset:
    """A body, deflated (gzip), and its media type."""

    deflated: bytes
    media_type: str
    fingerprint: str


class Assets:
    """Reads our files once, when made; Vega's script takes seconds to make, which `drawing` does meanwhile."""

    def __init__(self, drawing: Drawing, look: Look) -> None:
        self._drawing = drawing
        files = {one.name: one.read_bytes() for one in resources.files("aggregator.page").joinpath("static").iterdir()}
        files["colors.css"] = colors.stylesheet(look.accent).encode()
        self.logo = _LOGO + Path(look.logo).suffix.lower() if look.logo else "icon.svg"
        if look.logo:
            files[self.logo] = Path(look.logo).read_bytes()
        self._assets = {name: _asset(name, body) for name, body in files.items()}

    def url(self, name: str) -> str:
        """The address of a file; `logo` is the company's, or ours."""
        name = self.logo if name == _LOGO else name
        fingerprint = self._drawing.fingerprint if name == VEGA else self._assets[name].fingerprint
        return f"/static/{name}?v={fingerprint}"

    def get(self, name: str) -> Asset | None:
        if name == VEGA:
            return Asset(self._drawing.script, _TYPES["js"], self._drawing.fingerprint)
        return self._assets.get(name)


def _asset(name: str, body: bytes) -> Asset:
    fingerprint = blake2b(body, digest_size=8).hexdigest()
    return Asset(gzip.compress(body, mtime=0), _TYPES[name.rpartition(".")[2]], fingerprint)
