"""The pages without a browser: what a plain form gets, the headers that keep it safe, and images of charts."""

import gzip
import json
import re
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest

from aggregator.errors import StoreError
from aggregator.query import UsageAnswer, UsageQuery
from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import NOON, call
from tests.aggregator.site import WEEK, Site, Table, numbers


def some_calls(store: Store) -> None:
    for day in range(1, 6):
        when = NOON - timedelta(days=day)
        store.insert(
            [
                call(when, credits="12.345678", voice="en-us", product="speech", duration_us=120_000),
                call(when + timedelta(hours=3), credits=2000 * day, voice="de", product="speech"),
                call(when, credits=0, voice="", product="sound", status=500, outcome="server_error", workspace="zeta"),
            ]
        )


LOOK = "compact=true&theme=dark"
VIEWS = [
    "",
    WEEK,
    f"{WEEK}&breakdown=voice",
    f"{WEEK}&breakdown=voice&breakdown=product",
    f"{WEEK}&breakdown=voice&top=1",
    f"{WEEK}&breakdown=voice&cumulative=true",
    f"{WEEK}&breakdown=voice&chart=lines&scale=log",
    f"{WEEK}&interval=week&breakdown=workspace",
    f"{WEEK}&metric=requests&breakdown=outcome",
    f"{WEEK}&metric=success_rate&breakdown=product",
    f"{WEEK}&metric=latency_p95&breakdown=voice",
    f"{WEEK}&metric=concurrency&breakdown=voice",
    f"{WEEK}&voice=de&voice=",
    f"{WEEK}&not.voice=de&metric=response_bytes",
    "start=2026-03-05&end=2026-03-06&interval=hour&tz=Asia/Kolkata&breakdown=voice",
]


@pytest.mark.parametrize("query", VIEWS)
def test_the_numbers_of_the_page_are_those_of_the_csv_of_the_same_address(site: Site, query: str) -> None:
    some_calls(site.store)

    metric = dict(parse_qsl(query)).get("metric", "credits")
    shown = Table(site.get(f"/usage?{query}").text, f"table-usage-{metric}").rows

    asked = query.replace("&chart=lines&scale=log", "")
    assert numbers(shown) == numbers(site.csv(asked))


def test_the_page_links_the_csv_and_the_json_of_its_own_view(site: Site) -> None:
    some_calls(site.store)

    html = site.get(f"/usage?{WEEK}&breakdown=voice&scale=log").text

    for path in ("/v1/usage.csv", "/v1/usage"):
        assert f'href="{path}?last=7d&amp;tz=Europe%2FBerlin&amp;breakdown=voice"' in html


def test_the_front_page_is_the_usage_page(site: Site) -> None:
    some_calls(site.store)

    assert "Usage" in site.get("/").text


def test_the_page_says_up_to_when_it_is_complete_in_the_zone_of_the_view(site: Site) -> None:
    some_calls(site.store)

    assert "Complete up to <time>10 Mar 2026, 19:30:00</time>" in site.get("/usage?tz=Asia/Kolkata").text


def test_every_control_shows_what_the_address_says(site: Site) -> None:
    some_calls(site.store)
    query = "last=24h&interval=hour&metric=requests&breakdown=voice&cumulative=true&chart=lines&tz=Asia/Kolkata"

    html = site.get(f"/usage?{query}").text

    for chosen in (
        '<option value="24h" selected>',
        '<input type="radio" name="interval" value="hour" checked>',
        '<option value="requests" selected>',
        '<option value="voice" selected>',
        '<input type="checkbox" name="cumulative" value="true" checked>',
        '<input type="radio" name="chart" value="lines" checked>',
        'name="tz" list="zones" value="Asia/Kolkata"',
    ):
        assert chosen in html


def test_a_form_brings_the_filters_along(site: Site) -> None:
    some_calls(site.store)

    html = site.get(f"/usage?{WEEK}&voice=de&not.product=sound").text

    assert '<input type="hidden" name="voice" value="de">' in html
    assert '<input type="hidden" name="not.product" value="sound">' in html
    assert "Voice is de" in html
    assert "Product is not sound" in html


def test_what_a_form_sends_is_redirected_to_an_address_to_keep(site: Site) -> None:
    sent = "range=7d&start=2026-01-01&end=&interval=day&tz=UTC&metric=credits&breakdown=&voice="

    response = site.get(f"/usage?{sent}", 303)

    kept = parse_qsl(urlsplit(response.headers["location"]).query, keep_blank_values=True)
    assert kept == [("last", "7d"), ("interval", "day"), ("tz", "UTC"), ("metric", "credits"), ("voice", "")]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("range=1h&interval=day", "last=1h&interval=minute"),
        ("range=12mo&interval=minute", "last=12mo&interval=day"),
        ("range=24h&interval=week", "last=24h&interval=hour"),
        ("range=7d&interval=total", "last=7d&interval=total"),
        ("range=7d&metric=latency_avg&cumulative=true", "last=7d&metric=latency_avg"),
    ],
)
def test_a_choice_that_makes_another_senseless_changes_that_one_too(site: Site, sent: str, kept: str) -> None:
    assert site.get(f"/usage?{sent}", 303).headers["location"] == f"/usage?{kept}"


@pytest.mark.parametrize(
    ("query", "control", "message"),
    [
        ("metric=glory", "metric", "is unknown: must be one of credits"),
        ("interval=fortnight", "interval", "must be one of minute, hour"),
        ("tz=Mars/Olympus", "tz", "must be an IANA name"),
        ("breakdown=colour", "breakdown", "must be one of voice"),
        ("start=2026-03-05&end=2026-03-01", "end", "is not after start"),
        ("last=fortnight", "last", "must be such as 24h"),
        ("metric=latency_avg&cumulative=true", "cumulative", "does not add up"),
    ],
)
def test_a_question_that_makes_no_sense_says_so_at_its_control(
    site: Site, query: str, control: str, message: str
) -> None:
    html = site.get(f"/usage?{query}", 422).text

    at_control = re.search(rf'id="problem-{control}" role="alert">([^<]*)<', html)
    assert at_control
    assert message in at_control[1]
    assert f'aria-describedby="problem-{control}"' in html or control == "cumulative"
    assert "Traceback" not in html


def test_a_parameter_that_no_control_holds_is_said_as_well(site: Site) -> None:
    assert "voise: is not a parameter here" in site.get("/usage?voise=de", 422).text


def test_an_empty_installation_shows_how_to_add_the_middleware(site: Site) -> None:
    html = site.get("/usage").text

    assert "No call has been recorded yet" in html
    assert "app.add_middleware(UsageMeterMiddleware" in html


def test_a_range_without_a_call_says_that_there_are_others(site: Site) -> None:
    some_calls(site.store)

    html = site.get("/usage?start=2025-01-01&end=2025-01-31").text

    assert "Nothing here" in html
    assert "No call has been recorded yet" not in html


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "\"'><img src=x>", "</script><b>", "{{7*7}}", "‮x"])
def test_a_name_of_a_callers_is_text_wherever_it_stands(site: Site, hostile: str) -> None:
    site.store.insert([call(NOON, credits=5, voice=hostile), call(NOON, credits=3, voice="de")])

    for query in ("breakdown=voice", "breakdown=voice&interval=total"):
        html = site.get(f"/usage?{query}").text
        blocks = re.findall(r'<script type="application/json">(.*?)</script>', html)

        assert hostile not in html or hostile in ("{{7*7}}", "‮x")
        assert "49" not in re.findall(r"<th scope=\"row\">.*?</th>", html)
        assert all(json.loads(block)["spec"] for block in blocks)
        assert Table(html, "series").rows[1][0] == hostile


def test_an_answer_has_the_headers_that_keep_it_safe(site: Site) -> None:
    for address, status in (("/usage", 200), ("/usage?metric=x", 422), ("/static/page.js", 200)):
        headers = site.get(address, status).headers

        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"


def test_a_page_is_never_kept_and_what_has_its_fingerprint_is_kept_for_a_year(site: Site) -> None:
    html = site.get("/usage").text
    addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)

    assert site.get("/usage").headers["cache-control"] == "no-store"
    assert len(addresses) >= 5
    for address in addresses:
        if "vega" not in address:  # seconds to make: the browser's tests load it
            assert site.get(address).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert site.get("/static/page.js").headers["cache-control"] == "no-cache"


def test_a_page_names_no_other_host(site: Site) -> None:
    some_calls(site.store)

    loaded = re.findall(r'<(?:script|link|img|source)[^>]+(?:src|href|srcset)="([^"]+)"', site.get("/usage").text)

    assert loaded
    assert all(address.startswith(("/static/", "/v1/", "/usage/")) for address in loaded)


def test_a_page_comes_deflated_to_who_takes_it_so(site: Site) -> None:
    some_calls(site.store)

    with site.http.stream("GET", "/usage", headers={"accept-encoding": "gzip"}) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert b"<h1>Usage</h1>" in gzip.decompress(b"".join(response.iter_raw()))
    plain = site.http.get("/usage", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_an_unknown_file_is_not_found(site: Site) -> None:
    assert site.get("/static/secret.txt", 404)


def test_nobody_without_a_token_sees_a_number(site: Site) -> None:
    some_calls(site.store)
    site.principal = None

    html = site.get("/usage", 401).text

    assert "Please sign in" in html
    assert "no token: send one" in html


def test_a_member_sees_the_own_calls_and_no_toggle(site: Site) -> None:
    site.store.insert([call(NOON, credits=5, user="alice"), call(NOON, credits=70, user="bob")])
    site.principal = Principal("member", "acme", "alice")

    html = site.get("/usage").text

    assert Table(html, "table-usage-credits").rows[-1][1] == "5"
    assert "My account" not in html
    assert '<option value="user">' not in html
    assert "Not for this account" in site.get("/usage?scope=workspace", 403).text


def test_an_admin_goes_from_the_own_account_to_the_workspace(site: Site) -> None:
    site.store.insert([call(NOON, credits=5, user="alice"), call(NOON, credits=70, user="bob")])
    site.principal = Principal("admin", "acme", "alice")

    own, whole = site.get("/usage").text, site.get("/usage?scope=workspace").text

    assert Table(own, "table-usage-credits").rows[-1][1] == "5"
    assert Table(whole, "table-usage-credits").rows[-1][1] == "75"
    assert '<input type="radio" name="scope" value="workspace" checked>' in whole
    assert '<option value="user">' in whole


def test_a_user_in_two_groups_counts_once_in_the_total(site: Site) -> None:
    site.store.insert([call(NOON, credits=5, groups=("a", "b"))])

    html = site.get("/usage?breakdown=group").text

    assert [row[-2] for row in Table(html, "series").rows[1:]] == ["5", "5"]
    assert "<strong>5</strong>" in html


def test_a_bucket_links_to_itself_in_finer_ones_and_a_series_to_itself_alone(site: Site) -> None:
    some_calls(site.store)

    html = site.get(f"/usage?{WEEK}&breakdown=voice").text

    assert "start=2026-03-05T00%3A00%3A00%2B01%3A00&amp;end=2026-03-06T00%3A00%3A00%2B01%3A00&amp;interval=hour" in html
    assert 'href="/usage?last=7d&amp;tz=Europe%2FBerlin&amp;voice=en-us"' in html


def test_the_steps_go_one_range_back_and_never_into_the_future(site: Site) -> None:
    some_calls(site.store)

    html = site.get("/usage?start=2026-02-01&end=2026-02-28").text

    assert 'href="/usage?start=2026-01-01&amp;end=2026-01-31"' in html
    assert 'href="/usage?start=2026-03-01&amp;end=2026-03-31"' in html
    assert "Later" not in site.get("/usage?last=7d").text


def test_too_many_buckets_are_a_sentence_and_not_a_frozen_browser(site: Site) -> None:
    some_calls(site.store)

    html = site.get("/usage?last=7d&interval=minute").text

    assert "are too many to draw" in html
    assert 'data-chart="usage-credits"' not in html


def test_a_store_that_fails_is_a_page_that_says_so_without_its_secrets(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(query: UsageQuery) -> UsageAnswer:
        raise StoreError("Code: 210, at http://user:secret@host")

    monkeypatch.setattr(site.reader, "usage", fail)

    html = site.get("/usage", 503).text

    assert "The store cannot answer now" in html
    assert "secret" not in html


@pytest.mark.parametrize(
    "query",
    [
        "breakdown=voice&top=1",
        "breakdown=voice&breakdown=product&metric=requests",
        "breakdown=voice&cumulative=true",
        "breakdown=voice&metric=latency_p95",
        "breakdown=group",
        "breakdown=voice&metric=quantity.characters",
    ],
)
def test_the_total_above_the_chart_is_that_of_the_same_question_without_a_breakdown(site: Site, query: str) -> None:
    some_calls(site.store)

    def total(query: str) -> str:
        tiles: list[str] = re.findall(r"<strong>(.*?)</strong>", site.get(f"/usage?{WEEK}&{query}").text)
        return tiles[0]

    assert total(query) == total(re.sub(r"breakdown=\w+&?|top=1", "", query).rstrip("&"))


def test_the_browsers_own_zone_is_known_from_its_cookie(site: Site) -> None:
    def asked(address: str, zone: str) -> str | None:
        answer = site.http.get(address, headers={"cookie": f"usage_meter_zone={zone}"})
        return answer.headers.get("location")

    assert asked("/usage?last=7d", "Europe%2FBerlin") == "/usage?last=7d&tz=Europe%2FBerlin"
    assert asked("/usage?last=7d&tz=Asia/Kolkata", "Europe%2FBerlin") is None
    assert asked("/usage?last=7d", "UTC") is None
    assert asked("/usage?last=7d", "//evil.example") is None


def test_a_quantity_that_calls_have_is_a_metric(site: Site) -> None:
    site.store.insert([call(NOON, quantities={"audio_seconds": 2.5})])

    assert '<option value="quantity.audio_seconds">Audio seconds</option>' in site.get("/usage").text


def test_how_a_page_looks_is_kept_from_page_to_page(site: Site) -> None:
    site.store.insert([call(NOON, request_id="r1")])
    links = [
        address
        for page in ("/usage", "/analytics", "/requests", "/requests/r1")
        for address in re.findall(r'href="(/(?:usage|analytics|requests)[^"]*)"', site.get(f"{page}?{LOOK}").text)
    ]

    assert len(links) > 100
    assert [link for link in links if "compact=true" not in link or "theme=dark" not in link] == []
    assert '<html lang="en" data-theme="dark">' in site.get(f"/usage?{LOOK}").text
    assert 'name="compact" value="true"' in site.get(f"/usage?{LOOK}").text


def test_the_log_takes_an_address_of_another_page_and_tails_its_filters(site: Site) -> None:
    site.store.insert([call(NOON)])

    html = site.get("/requests?last=7d&interval=hour&breakdown=voice&sort=-total&voice=en-us&q=v1&limit=10").text

    assert 'data-tail="/v1/requests/stream?voice=en-us&amp;q=v1"' in html


def test_the_log_shows_a_call_by_its_names(site: Site) -> None:
    site.store.insert([call(NOON, voice="v1", request_id="r1")])
    site.labels.put("acme", "voice", {"v1": "Rachel <3"})

    assert '<td title="v1">Rachel &lt;3</td>' in site.get("/requests").text
    assert "Rachel &lt;3</a>" in site.get("/requests/r1").text


@pytest.mark.parametrize("query", ["", "&breakdown=voice", "&interval=hour", "&metric=requests", "&metric=errors"])
def test_the_month_to_date_is_the_same_whether_the_range_holds_it_or_not(site: Site, query: str) -> None:
    some_calls(site.store)

    def month(last: str) -> str:
        html = site.get(f"/usage?last={last}&tz=Europe/Berlin{query}").text
        return html.split("Month to date</span>")[1].split("<span")[0]

    assert month("30d") == month("24h")
    assert re.search(r"[1-9]", month("30d"))
