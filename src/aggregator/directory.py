"""What a workspace calls its things and what it allows them: values, labels, limits, tokens and the audit log.

Reading follows the token like every question. Writing is an admin's, for the own workspace, or an operator's, who
names one; the workspace's own limit is the operator's alone, since it is what was agreed with the customer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from msgspec import Meta

from aggregator import export
from aggregator.api import AUTHENTICATION, PrincipalOf
from aggregator.audit import TITLES as AUDIT_TITLES
from aggregator.audit import Audit
from aggregator.buckets import DAY_SECONDS, floor_us
from aggregator.dimensions import Filter, is_dimension
from aggregator.errors import NotFoundError, Problem, QueryError
from aggregator.formats import CSV
from aggregator.http import openapi
from aggregator.http.body import body_of, decoded, fault
from aggregator.http.delivery import deliver, file_label, json_response, wanted
from aggregator.labels import Labels
from aggregator.limits import Limit, Limits, Subject
from aggregator.measures import exact
from aggregator.parameters import usage_query, zone_of
from aggregator.query import OTHER, Audience, UsageQuery
from aggregator.reader import Reader
from aggregator.revocations import Revocations
from aggregator.tokens import ForbiddenError, Principal
from usage_meter.event import MICRO, to_micro

DEFAULT_VALUES = 100  # of a picker
MAX_VALUES = 1000
YEAR_US = 366 * DAY_SECONDS * 1_000_000
MAX_TEXT = 256  # characters of a label: it stands in a legend

LIMIT_TITLES = ("subject", "value", "monthly_credits", "concurrency", "credits_used", "credits_remaining")

Records = tuple[Sequence[str], Iterable[Mapping[str, Any]]]
"""The titles of a table and its rows."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class IncomingLimit(msgspec.Struct, forbid_unknown_fields=True):
    """One limit as the API takes it: null takes a limit away."""

    subject: Subject
    value: Text = ""
    monthly_credits: Annotated[int, Meta(ge=0, lt=10**12)] | Annotated[float, Meta(ge=0, lt=10**12)] | None = None
    concurrency: Annotated[int, Meta(ge=0, lt=2**32)] | None = None


_labels = msgspec.json.Decoder(dict[Text, Text])
_limits = msgspec.json.Decoder(list[IncomingLimit])


def router(
    reader: Reader,
    labels: Labels,
    limits: Limits,
    audit: Audit,
    revocations: Revocations,
    principal: PrincipalOf,
    now: Callable[[], float] = time.time,
) -> APIRouter:
    """The endpoints over these collaborators; `now` in Unix seconds."""
    routes = APIRouter(prefix="/v1", dependencies=AUTHENTICATION)

    def now_us() -> int:
        return int(now() * 1_000_000)

    def table(request: Request, who: Principal, name: str, document: dict[str, Any], rows: Records) -> Response:
        """The document, or its rows as CSV where that is asked for."""
        if wanted(request) is not CSV:
            return json_response(request, document)
        audit.export(who, request.url.path, request.url.query)
        titles, records = rows
        return deliver(request, file_label(CSV, name), map(str.encode, export.records_csv(titles, records)))

    def values(dimension: str, request: Request) -> Response:
        """The values of a dimension in the range, the most credits first: for pickers. `q` searches names and ids."""
        who = principal(request)
        _known(dimension, who)
        items = request.query_params.multi_items()
        search = next((value for name, value in items if name == "q"), "").casefold()
        rest = [(name, value) for name, value in items if name != "q"]
        asked = [("metric", "credits"), ("metric", "requests"), ("interval", "total"), ("breakdown", dimension)]
        limit = [("top", value) for name, value in rest if name == "limit"] or [("top", str(DEFAULT_VALUES))]
        query = usage_query([*((n, v) for n, v in rest if n != "limit"), *asked, *limit], who, now_us())
        document = _values(reader, query, dimension, search)
        name = export.table_filename("values", dimension)
        return table(request, who, name, document, (("value", "label", "requests", "credits"), document["values"]))

    def labels_of(dimension: str, request: Request) -> Response:
        """The display names of a dimension's values; for a member, of those that the own calls of a year have."""
        who = principal(request)
        _known(dimension, who)
        audience = who.widest_audience()
        found = labels.of(_workspace(request, who, audience), [dimension])[dimension]
        if audience.user is not None:  # what others use is not a member's to know
            own = _own_values(reader, audience, dimension, now_us())
            found = {value: label for value, label in found.items() if value in own}
        records = [{"value": value, "label": label} for value, label in sorted(found.items())]
        name = export.table_filename("labels", dimension)
        return table(request, who, name, {"labels": found}, (("value", "label"), records))

    @routes.put("/labels/{dimension}", **openapi.PUT_LABELS)
    async def put_labels(dimension: str, request: Request) -> Response:
        """Set display names: an object from value to label; an empty label takes one away."""
        who = await run_in_threadpool(principal, request)
        _known(dimension, who)
        _no_file(dimension)
        workspace = _writable(request, who)
        given = decoded(_labels, await body_of(request))
        await run_in_threadpool(labels.put, workspace, dimension, given)
        await run_in_threadpool(audit.record, who, "labels", f"{dimension}: {', '.join(given)}"[:2000], workspace)
        return json_response(request, {"labels": given})

    def limits_of(request: Request) -> Response:
        """Monthly credits and concurrency that are set, what of the credits is used this month and what remains."""
        who = principal(request)
        audience = who.widest_audience()
        workspace = _workspace(request, who, audience)
        if workspace is None:
            raise QueryError([Problem("workspace", "is missing: an operator's token says no workspace")])
        zone = zone_of(request.query_params.get("tz", "UTC"))
        if zone is None:
            raise QueryError([Problem("tz", "must be an IANA name such as Europe/Berlin")])
        visible = [one for one in limits.of(workspace) if _is_visible(one, audience)]
        whole = Audience(workspace)
        found = [_used(reader, one, whole, zone, now_us()) for one in visible]
        return table(request, who, export.table_filename("limits", workspace), {"limits": found}, (LIMIT_TITLES, found))

    @routes.put("/limits", **openapi.PUT_LIMITS)
    async def put_limits(request: Request) -> Response:
        """Set limits: a list; each replaces what was set for its subject."""
        who = await run_in_threadpool(principal, request)
        workspace = _writable(request, who)
        given = decoded(_limits, await body_of(request))
        _check(given, who)
        new = [Limit(one.subject, one.value, _credits(one.monthly_credits), one.concurrency) for one in given]
        await run_in_threadpool(limits.put, workspace, new)
        detail = ", ".join(f"{one.subject} {one.value}".strip() for one in new)
        await run_in_threadpool(audit.record, who, "limits", detail[:2000], workspace)
        return json_response(request, {"accepted": len(new)})

    @routes.post("/tokens/{token_id}/revoke", **openapi.REVOKE)
    def revoke(token_id: str, request: Request) -> Response:
        """Refuse a token from now on, by its id (`jti`); an operator's to do."""
        who = principal(request)
        if not who.is_operator:
            raise ForbiddenError("revoking a token needs an operator's token")
        if len(token_id) > MAX_TEXT:
            raise QueryError([Problem("token_id", f"has {len(token_id)} characters: an id has at most {MAX_TEXT}")])
        revocations.revoke(token_id)
        audit.record(who, "revoke", token_id)
        return json_response(request, {"revoked": token_id})

    def audited(request: Request) -> Response:
        """Who exported or changed what, the newest first: an admin's for the own workspace, an operator's for all."""
        who = principal(request)
        entries = audit.entries(who.audience("workspace"))
        return table(request, who, "audit", {"entries": entries}, (AUDIT_TITLES, entries))

    for suffix in (f".{CSV.suffix}", ""):  # the longer path first: a dimension's name may have a dot in it
        routes.get(f"/dimensions/{{dimension}}{suffix}", **openapi.values(suffix), name=f"values{suffix}")(values)
        routes.get(f"/labels/{{dimension}}{suffix}", **openapi.labels(suffix), name=f"labels{suffix}")(labels_of)
        routes.get(f"/limits{suffix}", **openapi.limits(suffix), name=f"limits{suffix}")(limits_of)
        routes.get(f"/audit{suffix}", **openapi.audit(suffix), name=f"audit{suffix}")(audited)
    return routes


def _values(reader: Reader, query: UsageQuery, dimension: str, search: str) -> dict[str, Any]:
    """The query's `top` of them; a search looks for those among as many as there may be in an answer."""
    series = reader.usage(replace(query, top=MAX_VALUES) if search else query).series
    requests = {one.key[dimension]: one.total for one in series if one.metric == "requests"}
    found = [
        {
            "value": one.key[dimension],
            "label": one.label,
            "requests": requests[one.key[dimension]],
            "credits": one.total,
        }
        for one in series
        if one.metric == "credits" and one.key[dimension] != OTHER
    ]
    matching = [one for one in found if search in f"{one['label']}\n{one['value']}".casefold()]
    more = OTHER in requests or len(matching) > query.top
    return {"dimension": dimension, "values": matching[: query.top], "more": more}


def _own_values(reader: Reader, audience: Audience, dimension: str, now_us: int) -> set[str]:
    start_us = max(0, now_us - YEAR_US)
    query = UsageQuery(
        start_us, now_us + 1, UTC, interval="total", metrics=("requests",), breakdown=(dimension,), audience=audience,
        top=MAX_VALUES,
    )  # fmt: skip
    return {one.key[dimension] for one in reader.usage(query).series}


def _used(reader: Reader, limit: Limit, audience: Audience, zone: tzinfo, now_us: int) -> dict[str, Any]:
    filters: tuple[Filter, ...] = (Filter("kind", ("request",)),)
    if limit.subject != "workspace":
        filters += (Filter(limit.subject, (limit.value,)),)
    start = floor_us(now_us, "month", zone)
    query = UsageQuery(start, now_us + 1, zone, interval="total", filters=filters, audience=audience)
    used = Decimal(reader.usage(query).series[0].total or 0)
    credits = limit.monthly_credits
    return {
        "subject": limit.subject,
        "value": limit.value,
        "monthly_credits": None if credits is None else exact(credits),
        "concurrency": limit.concurrency,
        "credits_used": exact(used),
        "credits_remaining": None if credits is None else exact(max(Decimal(0), credits - used)),
    }


def _credits(given: float | None) -> Decimal | None:
    return None if given is None else Decimal(to_micro(given)) / MICRO


def _is_visible(limit: Limit, audience: Audience) -> bool:
    """A member sees the own limit; keys are not told apart by user here, so theirs are an admin's to see."""
    return audience.user is None or (limit.subject == "user" and limit.value == audience.user)


def _known(dimension: str, who: Principal) -> None:
    if not is_dimension(dimension, who.is_operator):
        raise NotFoundError(f"there is no dimension '{dimension}': see /docs for those that are")


def _no_file(dimension: str) -> None:
    """Raises NotFoundError for a name under which nothing could be read back: that path is another dimension's file."""
    name = dimension.removesuffix(f".{CSV.suffix}")
    if name != dimension:
        message = f"'{dimension}' is the labels of '{name}' as a file, which is only read: an attribute that is called"
        raise NotFoundError(f"{message} NAME.{CSV.suffix} can have no labels")


def _workspace(request: Request, who: Principal, audience: Audience) -> str | None:
    return request.query_params.get("workspace") if who.is_operator else audience.workspace


def _writable(request: Request, who: Principal) -> str:
    """The workspace that this token may change. Raises ForbiddenError, or QueryError when an operator names none."""
    if who.role == "admin":
        return who.workspace
    if not who.is_operator:
        raise ForbiddenError("changing this needs an admin's or an operator's token")
    if workspace := request.query_params.get("workspace"):
        return workspace
    raise QueryError([Problem("workspace", "is missing: an operator's token says no workspace, so the request must")])


def _check(limits: Iterable[IncomingLimit], who: Principal) -> None:
    for position, one in enumerate(limits):
        if one.subject == "workspace" and not who.is_operator:
            raise ForbiddenError("the workspace's own limit is set by an operator")
        if (one.subject == "workspace") == bool(one.value):
            right = "must be empty for the workspace itself" if one.value else "must name the user or the key"
            raise QueryError([fault(f"[{position}].value", right)])
