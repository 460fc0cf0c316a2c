"""The address is the view: what a form sends becomes an address to keep, and links change only what they say."""

from datetime import date
from urllib.parse import parse_qsl, urlsplit

import pytest

from aggregator.page.view import View, canonical

TODAY = date(2026, 3, 10)


def items(query: str) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(query, keep_blank_values=True))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("range=7d&start=&end=&metric=credits&breakdown=", "last=7d&metric=credits"),
        ("range=7d&start=2026-01-01&end=2026-01-31&metric=credits", "last=7d&metric=credits"),
        ("range=custom&start=2026-01-01&end=2026-01-31", "start=2026-01-01&end=2026-01-31"),
        ("range=custom&start=&end=&tz=UTC", "tz=UTC"),
        ("range=this-month&start=2026-01-01", "start=2026-03-01"),
        ("range=last-month", "start=2026-02-01&end=2026-02-28"),
        ("range=kept&kept_start=2026-01-01T10:00&kept_end=2026-01-01T11:00&start=2026-01-01&end=2026-01-01",
         "start=2026-01-01T10:00&end=2026-01-01T11:00"),
        ("range=7d&kept_chart=bars&chart=bars", "last=7d"),
        ("range=7d&kept_chart=bars&chart=lines", "last=7d&chart=lines"),
        ("range=30d&voice=&voice=a&scale=log", "last=30d&voice=&voice=a&scale=log"),
    ],
)  # fmt: skip
def test_what_a_form_sends_becomes_an_address_to_keep(sent: str, kept: str) -> None:
    assert canonical(items(sent), TODAY) == items(kept)


def test_an_address_that_is_one_already_stays_as_it_is() -> None:
    assert canonical(items("last=7d&end=2026-01-31"), TODAY) is None


def test_a_link_changes_what_it_says_and_nothing_else() -> None:
    view = View("/usage", items("last=7d&breakdown=voice&voice=a&voice=b&tz=Asia/Kolkata"))

    link = view.href({"voice": None, "last": "24h"})

    assert dict(parse_qsl(urlsplit(link).query)) == {"breakdown": "voice", "tz": "Asia/Kolkata", "last": "24h"}


def test_what_only_the_page_knows_is_not_asked_of_the_api() -> None:
    view = View("/usage", items("last=7d&scale=log&chart=lines&voice=a%26b"))

    assert view.answer_href("/v1/usage.csv") == "/v1/usage.csv?last=7d&voice=a%26b"
