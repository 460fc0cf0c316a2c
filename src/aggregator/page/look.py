"""How a company makes the pages its own: name, logo, accent colour, who may frame them, and where its traces are."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from aggregator.errors import SettingsError

TRACE = "{trace_id}"
LOGO_TYPES = (".svg", ".png")
MAX_LOGO_BYTES = 256 * 1024  # it is loaded with every first view
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_ANCESTOR = re.compile(r"https?://[\w.*-]+(:\d+|:\*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Checked when made. Raises SettingsError that names the setting and says what would be right."""

    name: str = "usage-meter"
    logo: str = ""
    """Path of an SVG or PNG file on this machine: a page loads nothing from another host."""
    accent: str = ""
    """`#rrggbb`; darkened or lightened where text in it could not be read."""
    frame_ancestors: str = ""
    """Origins, divided by spaces, that may show the pages in a frame."""
    trace_url: str = ""
    """Where a trace is seen, with `{trace_id}` in the place of its id."""

    def __post_init__(self) -> None:
        if self.accent and not _COLOR.fullmatch(self.accent):
            raise SettingsError(f"AGGREGATOR_ACCENT is '{self.accent}': must look like #4f46e5")
        if self.logo:
            self._check_logo(Path(self.logo))
        for origin in self.frame_ancestors.split():
            if origin != "'self'" and not _ANCESTOR.fullmatch(origin):
                raise SettingsError(
                    f"AGGREGATOR_FRAME_ANCESTORS has '{origin}': must be origins such as https://app.example.com"
                )
        if self.trace_url and (TRACE not in self.trace_url or urlsplit(self.trace_url).scheme not in ("http", "https")):
            raise SettingsError(
                f"AGGREGATOR_TRACE_URL is '{self.trace_url}': must look like https://traces.example.com/trace/{TRACE}"
            )

    @staticmethod
    def _check_logo(path: Path) -> None:
        if path.suffix.lower() not in LOGO_TYPES or not path.is_file() or path.stat().st_size > MAX_LOGO_BYTES:
            raise SettingsError(
                f"AGGREGATOR_LOGO is '{path}': must be the path of an SVG or PNG file of at most "
                f"{MAX_LOGO_BYTES // 1024} KiB"
            )

    @property
    def may_be_framed(self) -> bool:
        return bool(self.frame_ancestors.strip())

    def trace_href(self, trace_id: str) -> str:
        """Where this trace is seen; empty without the setting or a trace."""
        return self.trace_url.replace(TRACE, quote(trace_id, safe="")) if self.trace_url and trace_id else ""
