"""Each error of ours as an answer that says what, where and what would be right; a bug as a 500 with an id.

The shapes are those that ElevenLabs' clients know: 422 as FastAPI makes it, everything else one object under `detail`.
"""

import logging
from uuid import uuid4

import redis
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from aggregator.errors import BusyError, NotFoundError, Problem, QueryError, StoreError, TooLargeError
from aggregator.formats import FORMATS
from aggregator.http.body import BodyTooLargeError, BrokenBodyError, UnsupportedBodyError
from aggregator.tokens import ForbiddenError, TokenError, TooManyFailuresError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Have the application answer with them."""

    @app.exception_handler(QueryError)
    def _malformed(_: Request, error: QueryError) -> JSONResponse:
        detail = [
            {"loc": list(one.location) or ["query", one.parameter], "msg": one.message, "type": one.type}
            for one in error.problems
        ]
        return JSONResponse({"detail": detail}, 422)

    @app.exception_handler(TooLargeError)
    def _too_much(request: Request, error: TooLargeError) -> JSONResponse:
        return _malformed(request, QueryError([Problem("start", str(error))]))

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
        return problem(413, "invalid_request", "request_too_large", str(error))

    @app.exception_handler(UnsupportedBodyError)
    def _unsupported(_: Request, error: UnsupportedBodyError) -> JSONResponse:
        return problem(415, "invalid_request", "invalid_content_type", str(error))

    @app.exception_handler(BrokenBodyError)
    def _broken(_: Request, error: BrokenBodyError) -> JSONResponse:
        return problem(400, "invalid_request", "bad_request", str(error))

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
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_allowed(request))
        return answer

    @app.exception_handler(Exception)
    def _bug(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "internal_error", "internal_error", "an error of ours: see the log")


def _allowed(request: Request) -> list[str]:
    """The methods of that path: of all its endpoints, not only of the first that has it."""
    path, routes = request.scope["path"], request.app.routes
    scope = {"type": "http", "path": path, "root_path": request.scope.get("root_path", "")}
    # Files are only read, although what is written at `/labels/{dimension}` could have such a name.
    methods = METHODS[:2] if path.endswith(tuple(f".{suffix}" for suffix in FORMATS)) else METHODS
    return [
        method
        for method in methods
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


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
