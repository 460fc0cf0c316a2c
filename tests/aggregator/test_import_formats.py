"""Lines of files as events: what is read of each, what is said of a bad one, and which ids they get."""

import gzip
import io

import pytest

from aggregator.commands.access_log import RIGHT, Unit
from aggregator.commands.event_file import BadLine, EventFileError, FileFormat, Given, Line, events
from aggregator.commands.identity import Identity

COMBINED = '1.2.3.4 - alice [17/May/2015:10:05:03 +0200] "GET /a/b?key=secret HTTP/1.1" 404 203 "https://r/" "agent"'
TIME = 1431849903.0


def read(text: str | bytes, format: FileFormat, unit: Unit = Unit.auto, **given: object) -> list[Line | BadLine]:
    raw = text.encode() if isinstance(text, str) else text
    return list(events(io.BufferedReader(io.BytesIO(raw)), format, Given(given, unit)))


def fields(text: str, format: FileFormat, unit: Unit = Unit.auto, **given: object) -> dict[str, object]:
    """Those of a file's first event, without its id."""
    line = next(one for one in read(text, format, unit, **given))
    assert isinstance(line, Line), line
    return {name: value for name, value in line.fields.items() if name != "id"}


def ids(text: str | bytes, format: FileFormat) -> list[str]:
    return [line.fields["id"] for line in read(text, format) if isinstance(line, Line)]


def complaint(text: str, format: FileFormat) -> str:
    return "; ".join(f"{line.number}: {line.message}" for line in read(text, format) if isinstance(line, BadLine))


def test_an_access_logs_line_is_a_call_without_what_may_be_secret() -> None:
    assert fields(COMBINED, FileFormat.combined, workspace="acme") == {
        "time": TIME, "status": 404, "method": "GET", "path": "/a/b", "user": "alice", "response_bytes": 203,
        "workspace": "acme",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("behind", "unit", "duration_ms"),
    [
        ("", Unit.auto, None),
        (" 0.250", Unit.auto, 250.0),
        (' "0.250" upstream', Unit.auto, 250.0),
        (" 3", Unit.s, 3000.0),
        (" 3", Unit.ms, 3.0),
        (" 2500", Unit.us, 2.5),
        (" example.com", Unit.auto, None),
    ],
)
def test_a_request_time_behind_the_line_is_taken(behind: str, unit: Unit, duration_ms: float | None) -> None:
    assert fields(COMBINED + behind, FileFormat.combined, unit).get("duration_ms") == duration_ms


def test_a_request_time_of_unknown_unit_is_asked_about_instead_of_guessed() -> None:
    with pytest.raises(EventFileError, match="--request-time"):
        read(COMBINED + " 2500", FileFormat.combined)


@pytest.mark.parametrize(
    "line",
    [
        '1.2.3.4 - - [17/May/2015:10:05:03 +0200] "\\x16\\x03\\x01" 400 - "-" "-"',
        '1.2.3.4 - - [17/May/2015:10:05:03 +0200] "-" 408 0 "-" "-"',
        '::1 - - [17/May/2015:10:05:03 +0200] "GET / HTTP/1.0" 200 5\n',
        '1.2.3.4 - - [17/May/2015:10:05:03 +0200] "GET / HTTP/1.1" 200 5 "-" "says \\"hello\\""',
        '1.2.3.4 - john doe [17/May/2015:10:05:03 +0200] "GET / HTTP/1.1" 200 5 "-" "caf\u00e9"',
    ],
)
def test_what_a_server_really_logs_is_a_call(line: str) -> None:
    assert fields(line, FileFormat.combined)["time"] == TIME


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hello", f"2: is not in the combined log format: must be such as {RIGHT}"),
        (COMBINED.replace("May", "Mai"), "2: has the time [17/Mai/2015:10:05:03 +0200]: must be such as"),
        (COMBINED.replace("17/", "32/"), "2: has the time [32/May/2015:10:05:03 +0200]: day is out of range"),
        (COMBINED[:-4], "2: is not in the combined log format"),
        ("x" * 3_000_000, "2: is longer than 1048576 bytes"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(line: str, said: str) -> None:
    text = f"{COMBINED}\n{line}\n{COMBINED}\n"

    assert complaint(text, FileFormat.combined).startswith(said)
    assert len(ids(text, FileFormat.combined)) == 2


def test_lines_that_look_the_same_are_calls_of_their_own_under_the_same_ids_each_time() -> None:
    """Also when the file has grown, was compressed, has lost its beginning, or a bad line was mended."""
    log = [COMBINED, COMBINED, COMBINED.replace("alice", "bob"), COMBINED]
    found = ids("\n".join(log), FileFormat.combined)

    assert len(set(found)) == 4
    assert ids("\n".join([*log, COMBINED]), FileFormat.combined)[:4] == found
    assert ids(gzip.compress("\r\n".join(log).encode()), FileFormat.combined) == found
    assert ids("\n".join(["a bad line", "", *log]), FileFormat.combined) == found
    assert ids("\n".join(log[2:]), FileFormat.combined) == [found[2], found[0]]


def test_a_request_time_that_was_cut_off_does_not_make_another_call() -> None:
    assert ids(COMBINED + " 0.1", FileFormat.combined) == ids(COMBINED + " 0.123", FileFormat.combined)


def test_what_may_have_been_forgotten_is_told_apart_by_its_line() -> None:
    """Memory is bounded: two like lines far apart, in a file without order, are still two, the same each time."""
    moments = [9.0, 1.0, *map(float, range(10, 20)), 1.0, 1.0]

    def named() -> list[str]:
        identity = Identity(remembered=4)
        return [identity.of(str(time).encode(), time, number + 1) for number, time in enumerate(moments)]

    assert len(set(named())) == len(moments)
    assert named() == named()
    assert named()[-1].endswith("-line-14")


def test_a_line_that_is_still_being_written_waits_for_its_end() -> None:
    """Else a part of it would be one call, and the whole of it another."""
    line = '::1 - - [17/May/2015:10:05:03 +0200] "GET / HTTP/1.0" 200 1234'

    assert complaint(line[:-1], FileFormat.combined) == "1: is cut off: its end is still to be written"
    assert all(complaint(COMBINED[:end], FileFormat.combined) for end in range(1, len(COMBINED)))


def test_json_lines_are_taken_as_they_are() -> None:
    assert read('{"id": "a", "time": 1, "credits": "1.5"}\n\n{"id": "b", "time": 2, "x": 1}', FileFormat.jsonl) == [
        Line(1, {"id": "a", "time": 1, "credits": "1.5"}),
        Line(3, {"id": "b", "time": 2, "x": 1}),  # whether there is such a field, the service knows
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"time": ', "1: is not JSON (Input data was truncated): must be one event, such as"),
        ('[{"time": 1}]', "1: is not a JSON object: must be one event"),
        ('{"time": 1},{"time": 2}', "1: is not JSON"),
        ("[" * 100_000, "1: is not JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(line: str, said: str) -> None:
    assert complaint(line, FileFormat.jsonl).startswith(said)


def test_what_is_given_for_all_fills_only_what_a_line_leaves_out() -> None:
    line = '{"time": 1, "workspace": "own", "attributes": {"tier": "gold"}}'
    given = {"tier": "none", "site": "eu"}

    assert fields(line, FileFormat.jsonl, workspace="acme", product="web", attributes=given) == {
        "time": 1, "workspace": "own", "product": "web", "attributes": {"tier": "gold", "site": "eu"},
    }  # fmt: skip


def test_csv_columns_are_fields_quantities_and_attributes() -> None:
    text = (
        "\ufefftime,credits,status,groups,quantity.tokens,quantities,attribute.tier,user\r\n"
        '2026-01-31T12:00:00Z,0.1,404,"[""staff""]",7,"{""audio_seconds"":1.5}",gold,"a\nb"\r\n'
    )

    assert fields(text, FileFormat.csv) == {
        "time": "2026-01-31T12:00:00Z", "credits": "0.1", "status": 404, "groups": ["staff"],
        "quantities": {"audio_seconds": 1.5, "tokens": 7.0}, "attributes": {"tier": "gold"}, "user": "a\nb",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,x,", "2: status is 'x': must be a whole number"),
        ("1,200", "2: has 2 cells: must be 3, as in the header"),
        ("1,200,staff", """2: groups is 'staff': must be JSON such as ["staff","beta"]"""),
        ('1,200,"' + "x" * 200_000, "2: is no row of CSV (field larger than field limit (131072)): is a quote not"),
        ("1,200,\udcff", "2: is not UTF-8"),
    ],
)
def test_a_bad_row_is_named(row: str, said: str) -> None:
    text = f"time,status,groups\n{row}\n".encode(errors="surrogateescape")

    bad = [line for line in read(text, FileFormat.csv) if isinstance(line, BadLine)]

    assert f"{bad[0].number}: {bad[0].message}".startswith(said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("time,voices", "line 1 has the column 'voices': the header must name fields, separated by commas"),
        ("time;voice", "line 1 has the column 'time;voice'"),
        ("voice", "line 1 has no column 'time'"),
        ("time,time", "line 1 names a column twice"),
        ("", "line 1 has no column 'time'"),
    ],
)
def test_a_bad_header_ends_it(header: str, said: str) -> None:
    with pytest.raises(EventFileError, match=said.replace("(", r"\(")):
        read(f"{header}\n1,2\n", FileFormat.csv)


def test_what_an_export_put_before_a_formula_is_taken_away_again() -> None:
    assert fields("time,user,voice\n1,'=HYPERLINK(),it's\n", FileFormat.csv) == {
        "time": 1, "user": "=HYPERLINK()", "voice": "it's",
    }  # fmt: skip


def test_a_damaged_archive_is_said_to_be_one() -> None:
    damaged = gzip.compress(f"{COMBINED}\n".encode() * 1000)[:-20]

    with pytest.raises(EventFileError, match="cannot be read on"):
        read(damaged, FileFormat.combined)
