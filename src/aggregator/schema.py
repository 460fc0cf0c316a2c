"""The schema's versions: which statements bring a store forward to the tables that this release knows. Pure.

`schema.sql` holds numbered sections, applied in order when a store is opened. Each of their statements may be run
again: a store that was left in the middle of a section (a crash, or two services that open it at once) is brought
forward from that section's beginning. A store without a version is new, or older than versions are; both begin at the
first section, which finds an old store's tables in place.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from aggregator.errors import StoreError

VERSIONS = """CREATE TABLE IF NOT EXISTS schema_versions (
    version UInt32,
    at      DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(at)
ORDER BY version"""
"""The one table that no section makes: it says which of them the store has had."""

APPLIED = "SELECT max(version) FROM schema_versions"

_HEADER = re.compile(r"^-- version (\d+): .+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    version: int
    statements: tuple[str, ...]


def released() -> list[Section]:
    """The sections of this release."""
    return sections(resources.files("aggregator").joinpath("schema.sql").read_text())


def sections(text: str) -> list[Section]:
    """Each begins with a line `-- version N: what`; N counts up from 1. What stands before the first is a comment."""
    _, *parts = _HEADER.split(text)
    found = [
        Section(int(version), tuple(statement.strip() for statement in body.split("\n;\n") if statement.strip()))
        for version, body in zip(parts[::2], parts[1::2], strict=True)
    ]
    if [section.version for section in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the schema's sections are {[section.version for section in found]}: must count up from 1")
    return found


def statements_after(applied: int, known: Sequence[Section]) -> Iterator[str]:
    """What a store that has had the sections up to `applied` lacks. Raises StoreError when it is ahead of us."""
    if applied > len(known):
        raise StoreError(
            f"the store has schema version {applied}, and this release knows {len(known)}: it was written by a newer "
            "usage-meter; update this one, or give it another store"
        )
    for section in known[applied:]:
        yield from section.statements
        yield f"INSERT INTO schema_versions (version) VALUES ({section.version})"  # noqa: S608  # a number
