"""The Request Log as a file: statements whose rows the engine itself writes as CSV, Parquet or Arrow. Pure, no I/O.

Python makes a CSV row in six microseconds, the engine in two. So each cell is an expression that gives the text to be
written: RFC 4180 (quoted only where it must be), and harmless in a spreadsheet, which takes a cell that begins with
one of `= + - @`, tab or CR for a formula. Times are in the zone that was asked for, by our own tables: the engine is
only told from which instant on which offset holds.
"""

from aggregator.buckets import Shift, shifts
from aggregator.dimensions import Binder
from aggregator.export import cell
from aggregator.labels import Names
from aggregator.query import Statement
from aggregator.request_log import FIELDS, RequestsQuery

COLUMNS = (
    "time", "id", "kind", "workspace", "user", "groups", "api_key", "api_key_hint", "product", "voice", "model",
    "region", "source", "method", "route", "path", "status", "outcome", "error", "duration_ms", "ttfb_ms",
    "request_bytes", "response_bytes", "credits", "quantities", "attributes", "request_id", "trace_id", "instance",
    "version",
)  # fmt: skip
NAMED = ("user", "api_key", "product", "voice", "model")
"""Columns whose values have display names: those follow behind all others, empty where there is none."""

TITLES = (*COLUMNS, *(f"{name}_name" for name in NAMED))
CSV_HEADER = (",".join(TITLES) + "\r\n").encode()

_KEY = ("started", "id", "workspace")
_OWN_TEXTS = ("user", "api_key", "path", "request_id", "trace_id")
"""Texts that differ from call to call. Of the others there are few, and the engine looks at each only once."""

_PLAIN = ("status", "request_bytes", "response_bytes", "credits", "version")
"""Numbers that the engine writes as they are to be read: whole, or a decimal without trailing zeros."""


def csv_statement(query: RequestsQuery, names: Names) -> Statement:
    """Rows of one finished text each: the cells in the order of TITLES, and the end of the line.

    The text is made before the rows are sorted: to move one text costs a third of moving thirty columns.
    """
    bind = Binder()
    cells = {
        "time": _time(shifts(query.start_us, query.end_us, query.zone), bind),
        "id": "UUIDNumToString(id)",
        "groups": _json_cell("groups", "[]", "toJSONString(groups)"),
        "duration_ms": _milliseconds("duration_us"),
        "ttfb_ms": f"ifNull({_milliseconds('ttfb_us')}, '')",
        "quantities": _json_cell("quantities", "{}", _json_object("quantities", _json_number("v"))),
        "attributes": _json_cell("attributes", "{}", _json_object("attributes", "toJSONString(v)")),
        **{name: name for name in _PLAIN},
        **{name: f"if(suspicious, {_harmless(name)}, {name})" for name in _OWN_TEXTS},
    }
    finished = {name: {value: _cell(label) for value, label in names.get(name, {}).items()} for name in NAMED}
    line = [
        *(f"toString({cells.get(name) or _harmless(name)})" for name in COLUMNS),
        *(_name(name, finished, bind) for name in NAMED),
    ]
    sql = (
        f"WITH {_suspicious()} AS suspicious "
        f"SELECT concat(concatWithSeparator(',', {', '.join(line)}), '\\r\\n') AS line, {', '.join(_KEY)} "
        f"FROM events FINAL WHERE {query.where(bind)}"
    )
    return Statement(f"SELECT line FROM ({sql}) ORDER BY {_order(query)}", bind.parameters)


def table_statement(query: RequestsQuery, names: Names) -> Statement:
    """Rows of typed columns under TITLES; `time` is an instant, so it needs no zone."""
    bind = Binder()
    columns = {
        "time": "started",
        "id": "UUIDNumToString(call.id)",
        "groups": "CAST(call.groups, 'Array(String)')",
        "duration_ms": "duration_us / 1000",
        "ttfb_ms": "ttfb_us / 1000",
        "quantities": "CAST(call.quantities, 'Map(String, Float64)')",
        "attributes": "CAST(call.attributes, 'Map(String, String)')",
        **{name: f"call.{name}" for name in _PLAIN},
    }
    selected = ", ".join(f"{columns.get(name) or f'toString(call.{name})'} AS {name}" for name in COLUMNS)
    named = ", ".join(f"{_name(name, names, bind, 'call.')} AS {name}_name" for name in NAMED)
    inner = f"SELECT {', '.join(FIELDS)} FROM events FINAL WHERE {query.where(bind)}"
    return Statement(
        f"SELECT {selected}, {named} FROM ({inner}) AS call ORDER BY {_order(query, 'call.')}", bind.parameters
    )


def _name(column: str, names: Names, bind: Binder, table: str = "") -> str:
    """The display name of the value in that column."""
    labels = names.get(column)
    if not labels:
        return "''"
    values, texts = bind(list(labels), "Array(String)"), bind(list(labels.values()), "Array(String)")
    return f"transform(toString({table}{column}), {values}, {texts}, '')"


def _cell(text: str) -> str:
    """A text as the cell that is to be written."""
    harmless = cell(text)
    return '"' + harmless.replace('"', '""') + '"' if any(one in harmless for one in '",\r\n') else harmless


def _order(query: RequestsQuery, table: str = "") -> str:
    direction = "DESC" if query.descending else "ASC"
    return f"{table}started {direction}, {table}id {direction}, {table}workspace"


def _time(offsets: list[Shift], bind: Binder) -> str:
    """ISO 8601 with the offset that the zone had at that instant."""
    instant, pattern = "toUnixTimestamp64Micro(started)", "%Y-%m-%dT%H:%i:%S.%f"
    if len(offsets) == 1:
        only = offsets[0]
        local = f"fromUnixTimestamp64Micro({instant} + {bind(only.offset_us, 'Int64')}, 'UTC')"
        return f"formatDateTime({local}, {bind(pattern + only.text, 'String')})"
    starts = bind([one.start_us for one in offsets], "Array(Int64)")
    since = f"roundDown({instant}, {starts})"
    offset = f"transform({since}, {starts}, {bind([one.offset_us for one in offsets], 'Array(Int64)')}, 0)"
    text = f"transform({since}, {starts}, {bind([one.text for one in offsets], 'Array(String)')}, '')"
    return f"concat(formatDateTime(fromUnixTimestamp64Micro({instant} + {offset}, 'UTC'), '{pattern}'), {text})"


def _milliseconds(micros: str) -> str:
    """As Python prints the float: 250.0, 0.5, 1234.567. The product is exact, since decimals add up their scales."""
    return f"concat(toString({micros} * toDecimal64('0.001', 3)), if({micros} % 1000 = 0, '.0', ''))"


def _suspicious() -> str:
    """Whether one of the texts of a call may have to be quoted or made harmless: one search for all of them."""
    texts = ", '\\x01', ".join(_OWN_TEXTS)
    starts = ", ".join(f"'\\x01{start}'" for start in ("=", "+", "-", "@", "\\t"))
    return f"multiSearchAny(concat('\\x01', {texts}), ['\"', ',', '\\n', '\\r', {starts}])"


def _harmless(text: str) -> str:
    """A text cell that no spreadsheet takes for a formula, quoted where it must be.

    Without `if`, which would look at every row: these functions look at each of the few different texts once.
    """
    return _quoted(f"replaceRegexpOne({text}, '^[=+@\\\\t\\\\r-]', '\\'\\\\0')")


def _quoted(text: str) -> str:
    doubled = f"replaceAll({text}, '\"', '\"\"')"
    return f"replaceRegexpOne({doubled}, '(?s)^.*[\",\\\\r\\\\n].*$', '\"\\\\0\"')"


def _json_cell(container: str, empty: str, json: str) -> str:
    """JSON begins with a bracket, so it is harmless; it has quotes inside unless it is empty."""
    return f"if(empty({container}), '{empty}', concat('\"', replaceAll({json}, '\"', '\"\"'), '\"'))"


def _json_object(map: str, value: str) -> str:
    """Three times as fast as the engine's own, which asks each cell for its type anew."""
    members = f"arrayMap((k, v) -> concat(toJSONString(k), ':', {value}), mapKeys({map}), mapValues({map}))"
    return f"concat('{{', arrayStringConcat({members}, ','), '}}')"


def _json_number(value: str) -> str:
    """A float that stays one when it is read again; JSON has no word for what is not finite."""
    whole = f"if({value} = trunc({value}) AND abs({value}) < 1e21, '.0', '')"
    return f"if(isFinite({value}), concat(toString({value}), {whole}), 'null')"
