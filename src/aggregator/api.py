"""The HTTP API under `/v1`: takes a request apart, asks, and answers as JSON or as a file.

Every endpoint runs in a worker thread (the store and Redis block). Errors: problems.py; how an answer leaves:
delivery.py. Whoever takes a file is written down first.
"""

import time
from collections.abc import Callable

from fastapi import APIRouter, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer

from aggregator import export
from aggregator.audit import Audit
from aggregator.errors import Problem, QueryError
from aggregator.formats import CSV, FORMATS, Format
from aggregator.http import caching, openapi
from aggregator.http.body import body_of
from aggregator.http.delivery import deliver, file_label, json_response, wanted
from aggregator.ingest import Ingest
from aggregator.parameters import requests_query, usage_query
from aggregator.query import UsageAnswer
from aggregator.reader import Reader
from aggregator.tokens import Failures, ForbiddenError, Principal, TokenError, Tokens

COOKIE = "usage_meter_token"

PrincipalOf = Callable[[Request], Principal]
"""Reads the store now and then, so it belongs into a worker thread."""

AUTHENTICATION = [
    Security(HTTPBearer(auto_error=False, bearerFormat="JWT", description="A token of `usage-meter token`.")),
    Security(
        APIKeyHeader(name="xi-api-key", auto_error=False, description="The same token, as ElevenLabs' SDK sends it.")
    ),
    Security(APIKeyCookie(name=COOKIE, auto_error=False, description="The same token, as `/login` sets it.")),
]
"""What `/openapi.json` says of the ways to send a token: `principal_of` is what reads them."""


def principal_of(tokens: Tokens, failures: Failures) -> PrincipalOf:
    """Reads the token from `Authorization: Bearer`, `xi-api-key` or the page's cookie.

    Raises TokenError, or TooManyFailuresError: a valid token is always let in, whoever shares its address.
    """

    def read(request: Request) -> Principal:
        try:
            return tokens.check(token_of(request))
        except TokenError:
            failures.add(request.client.host if request.client else "")
            raise

    return read


def token_of(request: Request) -> str | None:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer:
        return bearer.strip()
    return request.headers.get("xi-api-key") or request.cookies.get(COOKIE)


def router(
    reader: Reader, ingest: Ingest, audit: Audit, principal: PrincipalOf, now: Callable[[], float] = time.time
) -> APIRouter:
    """The endpoints over these collaborators; `now` in Unix seconds."""
    routes = APIRouter(prefix="/v1", dependencies=AUTHENTICATION)

    def now_us() -> int:
        return int(now() * 1_000_000)

    def usage(request: Request) -> Response:
        """Any metric over time, by up to two dimensions; as CSV, Parquet or Arrow a table of it."""
        who = principal(request)
        query = usage_query(request.query_params.multi_items(), who, now_us())
        format, layout = wanted(request), request.query_params.get("layout") or "long"
        if format not in (None, CSV) and layout != "long":
            raise QueryError([Problem("layout", "is the CSV's: a file of typed columns is always long")])
        if format is not None and query.compare:
            raise QueryError(
                [Problem("compare", "is not in files: ask for JSON, or for the period before by its own dates")]
            )
        answer = reader.usage(query)
        tag = usage_tag(answer, format, layout)
        if format is None:
            return json_response(request, export.usage_document(answer), tag)
        audit.export(who, request.url.path, request.url.query)
        label = file_label(format, export.usage_filename(query), tag)
        if format is CSV:
            return deliver(request, label, map(str.encode, export.usage_csv(answer, layout)))
        return deliver(request, label, reader.usage_file(answer, format))

    def requests(request: Request) -> Response:
        """The Request Log: calls that match, newest first, a page at a time; as a file all of them."""
        who = principal(request)
        asked = requests_query(request.query_params.multi_items(), who, now_us())
        query, format = reader.kept(asked), wanted(request)
        if format is None:
            return json_response(request, export.requests_document(asked, query, reader.requests(query)))
        audit.export(who, request.url.path, request.url.query)
        name = export.requests_filename(query.start_us, query.end_us, query.zone)
        return deliver(request, file_label(format, name), reader.requests_file(query, format))

    def one_request(id: str, request: Request) -> Response:
        """One call, by its event id or by the request id that its client saw."""
        return json_response(request, reader.request(id, principal(request).widest_audience()))

    async def events(request: Request) -> Response:
        """Record events from apps that are not Python. 202 only after all of them are safe in Redis."""
        who = await run_in_threadpool(principal, request)
        if not who.may_ingest():
            raise ForbiddenError("recording events needs an ingest or an operator token")
        accepted = await run_in_threadpool(recorded, await body_of(request), request, who)
        return Response(export.to_json({"accepted": accepted}), 202, media_type="application/json")

    def recorded(body: bytes, request: Request, who: Principal) -> int:
        found = ingest.read(body, who, now_us(), request.headers)
        ingest.send(found)
        return len(found)

    for suffix in ("", *(f".{name}" for name in FORMATS)):
        routes.get(f"/usage{suffix}", **openapi.usage(suffix), name=f"usage{suffix}")(usage)
        routes.get(f"/requests{suffix}", **openapi.requests(suffix), name=f"requests{suffix}")(requests)
    routes.get("/requests/{id}", **openapi.REQUEST)(one_request)
    routes.post("/events", **openapi.EVENTS)(events)
    return routes


def usage_tag(answer: UsageAnswer, format: Format | None, layout: str) -> str | None:
    """An answer's tag: from all that it says but the moment at which it was given. None while its range is open."""
    if answer.query.end_us > answer.complete_until_us:
        return None
    document = {**export.usage_document(answer), "complete_until": None, "names": [one.names for one in answer.series]}
    return caching.tag(export.to_json(document), format.suffix if format else "", layout)
