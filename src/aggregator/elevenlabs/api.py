"""ElevenLabs' calls about usage, so that their unmodified SDK works against this service.

Each is a question of `/v1/usage` or `/v1/requests` under other names; docs/elevenlabs.md says which answers what, and
what has no counterpart here. An error has the shape that their SDK raises as its own.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from aggregator.api import AUTHENTICATION, PrincipalOf
from aggregator.elevenlabs import openapi
from aggregator.elevenlabs.accounts import (
    Account,
    credits_limit,
    groups,
    known_query,
    members,
    month_query,
    search,
    used,
)
from aggregator.elevenlabs.tables import (
    START_TIME,
    RequestsBody,
    UsageBody,
    parsed,
    requests_document,
    requests_table,
    usage_document,
    usage_table,
)
from aggregator.elevenlabs.terms import LABEL_COLUMNS
from aggregator.elevenlabs.usage import START_UNIX, character_stats, character_stats_document
from aggregator.errors import Problem, QueryError
from aggregator.http.body import body_of
from aggregator.http.delivery import json_response
from aggregator.labels import Labels
from aggregator.limits import Limits
from aggregator.parameters import QueryString
from aggregator.query import Audience, UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.tokens import Principal


def router(
    reader: Reader, labels: Labels, limits: Limits, principal: PrincipalOf, now: Callable[[], float] = time.time
) -> APIRouter:
    """The endpoints over these collaborators; `now` in Unix seconds."""
    routes = APIRouter(prefix="/v1", tags=["ElevenLabs"], dependencies=AUTHENTICATION)

    def now_us() -> int:
        return int(now() * 1_000_000)

    def answer(query: UsageQuery, start: Problem) -> UsageAnswer:
        """Raises QueryError at the place of `start`, their parameter, where the range begins before what is kept."""
        try:
            return reader.usage(query)
        except QueryError as error:
            raise QueryError([replace(start, message=one.message) for one in error.problems]) from None

    @routes.get("/usage/character-stats", **openapi.CHARACTER_STATS)
    def character_stats_of(request: Request) -> Response:
        """`client.usage.get`: one metric over time, by one breakdown. Our filters and `tz` apply as well."""
        asked = character_stats(request.query_params.multi_items(), principal(request), now_us())
        answers = {label: answer(query, START_UNIX) for label, query in asked.queries.items()}
        return json_response(request, character_stats_document(asked, answers))

    @routes.post("/workspace/analytics/query/usage-by-product-over-time", **openapi.USAGE_TABLE)
    async def usage_over_time(request: Request) -> Response:
        """`client.workspace.usage.get_usage_by_product_over_time`: credits, minutes and calls as a table."""
        who = await run_in_threadpool(principal, request)
        return await run_in_threadpool(usage_of, request, who, await body_of(request))

    @routes.post("/workspace/analytics/requests", **openapi.REQUESTS_TABLE)
    async def request_log(request: Request) -> Response:
        """`client.workspace.analytics.requests.get`: the Request Log as a table."""
        who = await run_in_threadpool(principal, request)
        return await run_in_threadpool(requests_of, request, who, await body_of(request))

    @routes.get("/user", **openapi.USER)
    def user(request: Request) -> Response:
        """`client.user.get`: who the token is, and the quota."""
        return json_response(request, account(request).user())

    @routes.get("/user/subscription", **openapi.SUBSCRIPTION)
    def subscription(request: Request) -> Response:
        """`client.user.subscription.get`: credits used this month, and the limit where one is set."""
        return json_response(request, account(request).subscription())

    @routes.get("/workspace/groups", **openapi.GROUPS)
    def groups_of(request: Request) -> Response:
        """`client.workspace.groups.list`: the groups that calls of the last year named, with who called in them."""
        who, audience = _asker(request, principal)
        _no_parameters(request, *_workspace_of(who))
        return json_response(request, every_group(audience))

    @routes.get("/workspace/groups/search", **openapi.GROUP_SEARCH)
    def groups_named(request: Request) -> Response:
        """`client.workspace.groups.search`: the groups of a name."""
        who, audience = _asker(request, principal)
        parameters = QueryString(request.query_params.multi_items())
        if not request.query_params.get("name"):
            parameters.wrong("name", "Field required", "missing")
        name = parameters.one("name", "")
        for one in _workspace_of(who):
            parameters.one(one, "")
        parameters.finish()
        return json_response(request, search(every_group(audience).values(), name))

    @routes.get("/workspace/members", **openapi.MEMBERS)
    def members_of(request: Request) -> Response:
        """`client.workspace.members.list`: the users who have called in the last year."""
        who, audience = _asker(request, principal)
        _no_parameters(request, *_workspace_of(who))
        return json_response(request, members(reader.usage(known_query(audience, now_us(), "user"))))

    def usage_of(request: Request, who: Principal, body: bytes) -> Response:
        _no_parameters(request)
        table = usage_table(parsed(UsageBody, body), who)
        return json_response(request, usage_document(table, answer(table.query, START_TIME)))

    def requests_of(request: Request, who: Principal, body: bytes) -> Response:
        _no_parameters(request)
        asked = requests_table(parsed(RequestsBody, body), who, now_us())
        query = reader.kept(asked, Problem("end_time", "", location=("body", "end_time")))
        names = labels.of(query.audience.workspace, LABEL_COLUMNS)
        return json_response(request, requests_document(reader.requests(query).requests, names))

    def account(request: Request) -> Account:
        who, audience = _asker(request, principal)
        _no_parameters(request, *_workspace_of(who))
        month = reader.usage(month_query(audience, now_us()))
        limit = credits_limit(limits.of(audience.workspace), audience) if audience.workspace else None
        return Account(replace(who, workspace=audience.workspace or ""), used(month), limit, now_us())

    def every_group(audience: Audience) -> dict[str, dict[str, object]]:
        known = reader.usage(known_query(audience, now_us(), "group", "user"))
        return groups(known, reader.usage(month_query(audience, now_us(), "group")))

    return routes


def _asker(request: Request, principal: PrincipalOf) -> tuple[Principal, Audience]:
    """Who asks, and whose calls that is about: all that the token sees, of an operator's one workspace if named."""
    who = principal(request)
    audience = who.widest_audience()
    if who.is_operator:
        audience = Audience(request.query_params.get("workspace") or None)
    return who, audience


def _workspace_of(who: Principal) -> tuple[str, ...]:
    return ("workspace",) if who.is_operator else ()


def _no_parameters(request: Request, *but: str) -> None:
    """Raises QueryError: a parameter that is ignored is a wrong number that nobody notices."""
    parameters = QueryString(request.query_params.multi_items())
    for name in but:
        parameters.one(name, "")
    parameters.finish()
