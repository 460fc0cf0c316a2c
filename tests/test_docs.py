"""The README is true: what exists is in it, and its commands are the ones that run."""

import dataclasses
import re
from pathlib import Path

import pytest

from aggregator import measures
from aggregator.cli import app as commands
from aggregator.commands.client import ClientSettings
from aggregator.dimensions import DIMENSIONS
from aggregator.settings import Settings
from usage_meter import UsageEvent
from usage_meter.settings import MeterSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_at_the_top() -> None:
    top = "\n".join(README.splitlines()[:29])
    assert "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/usage-meter demo" in top
    assert "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest -n 2 --dist loadfile" in top


def rows(settings: type[MeterSettings] | type[Settings] | type[ClientSettings], prefix: str) -> list[str]:
    """The README's rows of a settings class: what to paste there when this test fails."""
    return [
        f"| `{prefix}{one.name.upper()}` | {_default(one)} | {one.metadata['help']} |"
        for one in dataclasses.fields(settings)
    ]


def _default(one: "dataclasses.Field[object]") -> str:
    if one.default is dataclasses.MISSING:
        return {"store_url": "`chdb://` + `./usage-data`", "journal_dir": "`usage-meter-UID` in the temporary one"}[
            one.name
        ]
    return "(none)" if one.default in ("", None) else f"`{one.default}`"


@pytest.mark.parametrize(
    "row",
    rows(MeterSettings, "USAGE_METER_") + rows(Settings, "AGGREGATOR_") + rows(ClientSettings, "AGGREGATOR_"),
)
def test_every_setting_is_documented_as_it_is(row: str) -> None:
    assert row in README


def test_no_setting_is_documented_that_does_not_exist() -> None:
    known = {f"USAGE_METER_{one.name.upper()}" for one in dataclasses.fields(MeterSettings)}
    known |= {f"AGGREGATOR_{one.name.upper()}" for one in dataclasses.fields(Settings)}
    known |= {f"AGGREGATOR_{one.name.upper()}" for one in dataclasses.fields(ClientSettings)}
    assert set(re.findall(r"\b(?:USAGE_METER|AGGREGATOR)_[A-Z0-9_]+\b", README)) <= known


@pytest.mark.parametrize("name", [*measures.METRICS, *DIMENSIONS])
def test_every_metric_and_dimension_is_documented(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize(
    "name", [one.name or one.callback.__name__ for one in commands.registered_commands if one.callback]
)
def test_every_command_is_documented(name: str) -> None:
    assert f"usage-meter {name}" in README


@pytest.mark.parametrize("field", UsageEvent.__struct_fields__)
def test_every_field_of_the_event_is_documented(field: str) -> None:
    assert f"`{field}`" in README
