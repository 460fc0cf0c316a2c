"""Settings come from arguments and the environment; a bad one is named."""

from dataclasses import fields
from pathlib import Path

import pytest

from usage_meter import Meter
from usage_meter.journal_directory import owned
from usage_meter.settings import MeterSettings, MeterSettingsError, own_journal_dir


def test_without_anything_said_there_are_defaults() -> None:
    settings = MeterSettings.from_env({})

    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.workspace == "default"
    assert settings.shards == 1


def test_the_environment_sets_and_an_argument_wins() -> None:
    environ = {
        "USAGE_METER_REDIS_URL": "rediss://elsewhere:6380/1",
        "USAGE_METER_SHARDS": "8",
        "USAGE_METER_JOURNAL_DIR": "/var/spool/meter",
        "USAGE_METER_REDIS_TIMEOUT": "0.5",
        "USAGE_METER_WORKSPACE": "",
    }

    settings = MeterSettings.from_env(environ, shards=4)

    assert settings == MeterSettings(
        redis_url="rediss://elsewhere:6380/1",
        shards=4,
        journal_dir=Path("/var/spool/meter"),
        redis_timeout=0.5,
        workspace="default",
    )


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("REDIS_URL", "localhost:6379", "redis://"),
        ("REDIS_URL", "http://localhost", "redis://"),
        ("REDIS_URL", "redis://[", "redis://"),
        ("REDIS_TIMEOUT", "soon", "a number of seconds"),
        ("REDIS_TIMEOUT", "0", "more than 0"),
        ("REDIS_TIMEOUT", "nan", "more than 0"),
        ("JOURNAL_MAX_BYTES", "1e9", "a whole number"),
        ("JOURNAL_MAX_BYTES", "1000", "at least 16777216"),
        ("SHARDS", "0", "1 to 64"),
        ("SHARDS", "65", "1 to 64"),
        ("SHARDS", "two", "a whole number"),
        ("DISTINCT_VALUES", "0", "at least 1"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(name: str, value: str, right: str) -> None:
    with pytest.raises(MeterSettingsError) as raised:
        MeterSettings.from_env({f"USAGE_METER_{name}": value})

    assert f"USAGE_METER_{name}" in str(raised.value)
    assert right in str(raised.value)


def test_no_secret_is_ever_shown() -> None:
    settings = MeterSettings.from_env({}, redis_url="redis://meter:hunter2@db:6379/0?password=hunter2", key_secret="s3")

    assert settings.redis_address == "redis://***@db:6379/0"
    assert "hunter2" not in repr(settings)
    assert "s3" not in repr(settings)
    with pytest.raises(MeterSettingsError) as raised:
        MeterSettings.from_env({}, redis_url="radish://meter:hunter2@db:6379/0")
    assert "hunter2" not in str(raised.value)


def test_every_setting_says_what_it_is_and_is_an_argument_of_the_meter() -> None:
    arguments = Meter.__init__.__annotations__

    for setting in fields(MeterSettings):
        assert setting.metadata["help"].endswith("."), setting.name
        assert setting.name in arguments


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="no such setting: shard"):
        MeterSettings.from_env({}, shard=2)


def test_the_default_directory_must_be_this_user_s_own(tmp_path: Path) -> None:
    theirs, ours, link = tmp_path / "theirs", tmp_path / "ours", tmp_path / "link"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)
    ours.mkdir(mode=0o700)
    link.symlink_to(ours)

    assert owned(ours)
    assert owned(tmp_path / "not there yet")
    assert not owned(theirs)
    assert not owned(link)
    assert own_journal_dir().name.startswith("usage-meter-")
