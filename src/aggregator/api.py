"""The HTTP API under `/v1`: takes a request apart, asks, and answers as JSON or CSV.

Every endpoint runs in a worker thread (the store and Redis block). Errors have the shapes that ElevenLabs' clients
know: 422 as FastAPI makes it, everything else one object under `detail`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import redis
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from aggregator import export, openapi
from aggregator.buckets import from_us
from aggregator.errors import BusyError, NotFoundError, Problem, QueryError, StoreError
from aggregator.formats import CSV
from aggregator.ingest import MAX_BYTES, Ingest, parse_events
from aggregator.parameters import requests_query, usage_query
from aggregator.reader import Reader
from aggregator.tokens import Failures, ForbiddenError, Principal, TokenError, Tokens, TooManyFailuresError

logger = logging.getLogger(__name__)

COOKIE = "usage_meter_token"

PrincipalOf = Callable[[Request], Principal]


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


def router(reader: Reader, ingest: Ingest, principal: PrincipalOf, now: Callable[[], float] = time.time) -> APIRouter:
    """The endpoints over these collaborators; `now` in Unix seconds."""
    routes = APIRouter(prefix="/v1")

    def now_us() -> int:
        return int(now() * 1_000_000)

    def usage(request: Request) -> Response:
        """Any metric over time, by up to two dimensions."""
        query = usage_query(request.query_params.multi_items(), principal(request), now_us())
        answer = reader.usage(query)
        if not wants_csv(request):
            return json_response(export.usage_document(answer))
        layout = request.query_params.get("layout", "long")
        return csv_response(export.usage_csv(answer, layout), export.usage_filename(query))

    def requests(request: Request) -> Response:
        """The Request Log: calls that match, newest first, a page at a time; as CSV all of them."""
        query = requests_query(request.query_params.multi_items(), principal(request), now_us())
        if not wants_csv(request):
            answer = reader.requests(query)
            return json_response({"requests": answer.requests, "next_cursor": answer.next_cursor})
        start, end = from_us(query.start_us, query.zone), from_us(query.end_us - 1, query.zone)
        return csv_response(reader.requests_file(query, CSV), export.requests_filename(start, end))

    def one_request(id: str, request: Request) -> Response:
        """One call, by its event id or by the request id that its client saw."""
        return json_response(reader.request(id, principal(request).widest_audience()))

    async def events(request: Request) -> Response:
        """Record events from apps that are not Python. 202 only after all of them are safe in Redis."""
        who = principal(request)
        if not who.may_ingest():
            raise ForbiddenError("recording events needs an ingest or an operator token")
        recorded = parse_events(await body_of(request), who, now_us())
        await run_in_threadpool(ingest.send, recorded)
        return Response(export.to_json({"accepted": len(recorded)}), 202, media_type="application/json")

    usage_extra = {"parameters": openapi.USAGE_PARAMETERS}
    csv_extra = {"parameters": [*openapi.USAGE_PARAMETERS, openapi.LAYOUT_PARAMETER]}
    log_extra = {"parameters": openapi.LOG_PARAMETERS}
    usage_responses = openapi.responses("The series.", openapi.USAGE_SCHEMA, csv=True)
    log_responses = openapi.responses("A page of calls.", openapi.REQUESTS_SCHEMA, csv=True)
    routes.get("/usage", responses=usage_responses, openapi_extra=usage_extra)(usage)
    routes.get("/usage.csv", responses=usage_responses, openapi_extra=csv_extra, name="usage_csv")(usage)
    routes.get("/requests", responses=log_responses, openapi_extra=log_extra)(requests)
    routes.get("/requests.csv", responses=log_responses, openapi_extra=log_extra, name="requests_csv")(requests)
    routes.get(
        "/requests/{id}",
        responses=openapi.responses("The call.", openapi.REQUEST_SCHEMA)
        | {
            404: {
                "description": "No such call here.",
                "content": {"application/json": {"schema": openapi.ERROR_SCHEMA}},
            }
        },
    )(one_request)
    routes.post(
        "/events",
        status_code=202,
        responses=openapi.responses("All are safe.", openapi.ACCEPTED_SCHEMA, status=202)
        | {
            413: {"description": "More than 16 MiB.", "content": {"application/json": {"schema": openapi.ERROR_SCHEMA}}}
        },
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": openapi.EVENTS_BODY}}}
        },
    )(events)
    return routes


class BodyTooLargeError(Exception):
    """More than one request may bring."""


async def body_of(request: Request) -> bytes:
    """The whole body, refused as soon as it grows too large: the length that a client declares is not trusted."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise BodyTooLargeError
    return bytes(body)


def wants_csv(request: Request) -> bool:
    return request.url.path.endswith(".csv") or request.headers.get("accept", "").startswith("text/csv")


def json_response(value: object) -> Response:
    return Response(export.to_json(value), media_type="application/json")


def csv_response(lines: Iterator[str] | Iterator[bytes], filename: str) -> Response:
    """Streams; the first piece is made before the headers go out, so that a failure up to there is a clean error."""
    first = next(lines, b"")

    def pieces() -> Iterator[str | bytes]:
        yield first
        yield from lines

    headers = {"Content-Disposition": f'attachment; filename="{filename}"'}
    return StreamingResponse(pieces(), media_type="text/csv; charset=utf-8", headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Each error of ours as an answer that says what, where and what would be right; a bug as a 500 with an id."""

    @app.exception_handler(QueryError)
    def _malformed(_: Request, error: QueryError) -> JSONResponse:
        detail = [{"loc": _location(one), "msg": one.message, "type": one.type} for one in error.problems]
        return JSONResponse({"detail": detail}, 422)

    @app.exception_handler(TokenError)
    def _unknown(request: Request, error: TokenError) -> JSONResponse:
        sent = "authorization" in request.headers or "xi-api-key" in request.headers
        return problem(401, "authentication_error", "invalid_api_key" if sent else "missing_api_key", str(error))

    @app.exception_handler(TooManyFailuresError)
    def _too_many(_: Request, error: TooManyFailuresError) -> JSONResponse:
        answer = problem(429, "rate_limit_error", "rate_limit_exceeded", str(error))
        answer.headers["Retry-After"] = str(error.seconds)
        return answer

    @app.exception_handler(ForbiddenError)
    def _forbidden(_: Request, error: ForbiddenError) -> JSONResponse:
        return problem(403, "authorization_error", "insufficient_permissions", str(error))

    @app.exception_handler(NotFoundError)
    def _not_found(_: Request, error: NotFoundError) -> JSONResponse:
        return problem(404, "not_found", "request_not_found", str(error))

    @app.exception_handler(BodyTooLargeError)
    def _too_large(_: Request, error: BodyTooLargeError) -> JSONResponse:
        message = f"the body is larger than {MAX_BYTES} bytes: send the events in several requests"
        return problem(413, "invalid_request", "request_too_large", message)

    @app.exception_handler(BusyError)
    def _busy(_: Request, error: BusyError) -> JSONResponse:
        return problem(503, "service_unavailable", "system_busy", str(error))

    @app.exception_handler(StoreError)
    def _store(_: Request, error: StoreError) -> JSONResponse:
        logger.error("the store failed: %s", error)
        return problem(503, "service_unavailable", "store_unavailable", "the store cannot answer now: see the log")

    @app.exception_handler(redis.RedisError)
    def _redis(_: Request, error: redis.RedisError) -> JSONResponse:
        logger.error("Redis failed: %s", error)
        return problem(503, "service_unavailable", "redis_unavailable", "Redis cannot be reached: try again")

    @app.exception_handler(HTTPException)
    def _no_endpoint(request: Request, error: HTTPException) -> JSONResponse:
        """No such path, or not with this method."""
        type, code = ("not_found", "not_found") if error.status_code == 404 else ("invalid_request", "bad_request")
        answer = problem(error.status_code, type, code, f"{request.method} {request.url.path}: {error.detail}")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def _bug(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "internal_error", "internal_error", "an error of ours: see the log")


def _location(problem: Problem) -> list[str | int]:
    in_body = problem.parameter.startswith(("[", "body"))
    return list(problem.location) or ["body" if in_body else "query", problem.parameter]


def problem(status: int, type: str, code: str, message: str, parameter: str | None = None) -> JSONResponse:
    """An error in the shape that ElevenLabs' clients know."""
    detail = {
        "type": type,
        "code": code,
        "message": message,
        "status": code,
        "request_id": uuid4().hex,
        "param": parameter,
    }
    return JSONResponse({"detail": detail}, status)
