"""The past: the same for the same date, in the rhythm of its people, and in the form that everything else has."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from examples.speech_api.accounts import ACCOUNTS, MODELS, VOICES
from examples.speech_api.history import DAYS, History
from usage_meter.event import EventRow, UsageEvent, encode_row, pack, unpack

NOW = datetime(2026, 11, 18, 13, 37, tzinfo=UTC)  # a Wednesday


def history(seed: int = 0) -> History:
    return History(lambda key: (f"hash of {key}", key[-4:]), seed)


def events(past: History, days: int, now: datetime = NOW) -> list[UsageEvent]:
    return [event for day in past.until(now, days) for event in read(day)]


def read(rows: list[EventRow]) -> list[UsageEvent]:
    """As the aggregator reads them, which checks every field."""
    return unpack(pack(b"".join(map(encode_row, rows))), len(rows))


def test_the_same_date_gives_the_same_events_whenever_it_is_asked() -> None:
    on_wednesday = events(history(), 3)
    on_friday = events(history(), 3, NOW + timedelta(days=2))

    shared = {event.id for event in on_wednesday} & {event.id for event in on_friday}
    tuesday = [event for event in on_wednesday if event.started_us >= at("2026-11-17")]
    assert {event.id for event in tuesday} <= shared
    by_id = {event.id: event for event in on_friday}
    assert all(by_id[event.id] == event for event in tuesday)
    assert history().day(NOW.date()) != history(seed=1).day(NOW.date())


def at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1_000_000)


def test_nothing_is_over_after_now_and_a_later_start_adds_only_what_came_since() -> None:
    earlier, later = ({event.id for event in events(history(), 1, now)} for now in (NOW, NOW + timedelta(hours=1)))
    last = max(event.started_us + event.duration_us for event in events(history(), 1))

    assert earlier < later
    assert last < NOW.timestamp() * 1_000_000


@pytest.fixture(scope="module")
def sixty_days() -> list[list[UsageEvent]]:
    return [read(day) for day in history().until(NOW)]


def test_sixty_days_are_enough_to_look_at_and_every_id_is_its_own(sixty_days: list[list[UsageEvent]]) -> None:
    assert len(sixty_days) == DAYS + 1
    ids = [event.id for day in sixty_days for event in day]
    assert 150_000 < len(ids) < 250_000
    assert len(set(ids)) == len(ids)
    assert all(day == sorted(day, key=lambda event: event.started_us) for day in sixty_days)


def test_every_event_keeps_the_contract_and_its_price() -> None:
    day = read(history().day(NOW.date()))

    assert day
    for event in day:
        if event.model in MODELS and event.outcome in ("ok", "disconnected"):
            characters = int(event.quantities["characters"])
            assert event.credits_micro == MODELS[event.model].price(characters) * 1_000_000
        elif event.outcome not in ("ok", "disconnected"):
            assert event.credits_micro == 0
        assert event.voice in {"", *VOICES}


def test_people_sleep_at_night_and_rest_at_weekends() -> None:
    week = events(history(), 7, datetime(2026, 11, 16, tzinfo=UTC))
    bob = [event for event in week if event.user == "bob"]
    berlin = ZoneInfo("Europe/Berlin")
    moments = [datetime.fromtimestamp(event.started_us / 1_000_000, berlin) for event in bob]

    by_hour = Counter(moment.hour for moment in moments)
    by_day = Counter(moment.date() for moment in moments)
    assert by_hour[10] > 20 * by_hour[3]
    assert by_day[date(2026, 11, 11)] > 2 * by_day[date(2026, 11, 15)]


def test_a_month_has_everything_that_a_page_can_break_down_by(sixty_days: list[list[UsageEvent]]) -> None:
    month = [event for day in sixty_days[-30:] for event in day]

    assert {event.workspace for event in month} == {"acme", "globex"}
    assert {event.user for event in month} == {account.user for account in ACCOUNTS.values()}
    assert {event.api_key for event in month} == {f"hash of {key}" for key in ACCOUNTS}
    products = {"", "text_to_speech", "speech_to_text", "sound_effects", "voice_changer"}
    assert {event.product for event in month} == products
    assert {event.outcome for event in month} == {"ok", "client_error", "server_error", "exception", "disconnected"}
    share = Counter(event.outcome for event in month)["ok"] / len(month)
    assert 0.95 < share < 0.99
    kinds = Counter(event.kind for event in month)
    assert kinds["request"] > 5 * kinds["webhook"] > 0
