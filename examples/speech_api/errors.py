"""Errors as ElevenLabs gives them: `{"detail": {type, code, message, status, request_id, param}}`, and 422 as FastAPI.

The same answer refuses a WebSocket before it is opened: the server sends it in place of the handshake.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from usage_meter import usage


@dataclass
class ApiError(Exception):
    """A refusal with its HTTP status; `param` names the field that is wrong."""

    http_status: int
    type: str
    code: str
    message: str
    param: str | None = None

    def body(self, request_id: str) -> dict[str, Any]:
        detail = {"type": self.type, "code": self.code, "message": self.message}
        # `status` is the older name of `code`, which clients still read
        return {"detail": {**detail, "status": self.code, "request_id": request_id, "param": self.param}}


def request_id(connection: HTTPConnection) -> str:
    """The id of this call, made when it is first asked for: a body can be wrong before any of our code has run."""
    if not hasattr(connection.state, "request_id"):
        connection.state.request_id = uuid.uuid4().hex
        usage.set(request_id=connection.state.request_id)
    made: str = connection.state.request_id
    return made


def missing_api_key() -> ApiError:
    return ApiError(401, "authentication_error", "missing_api_key", "Send your API key in the xi-api-key header.")


def invalid_api_key() -> ApiError:
    return ApiError(401, "authentication_error", "invalid_api_key", "Invalid API key.", "xi-api-key")


def voice_not_found(voice_id: str) -> ApiError:
    return ApiError(404, "not_found", "voice_not_found", f"There is no voice {voice_id!r}.", "voice_id")


def model_not_found(model_id: str) -> ApiError:
    return ApiError(404, "not_found", "model_not_found", f"There is no model {model_id!r}.", "model_id")


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_exception_handler(WebSocketRequestValidationError, _explain)


async def _refuse(connection: HTTPConnection, error: Exception) -> JSONResponse:
    if not isinstance(error, ApiError):
        raise error
    usage.set(error=error.code)
    made = request_id(connection)
    return JSONResponse(error.body(made), error.http_status, headers={"request-id": made})


async def _explain(connection: HTTPConnection, error: Exception) -> JSONResponse:
    """Where, what and which rule; without the input itself, which a body in a broken encoding could not carry back."""
    if not isinstance(error, RequestValidationError | WebSocketRequestValidationError):
        raise error
    usage.set(error="invalid_parameters")
    detail = [{name: problem[name] for name in ("loc", "msg", "type")} for problem in error.errors()]
    return JSONResponse({"detail": detail}, 422, headers={"request-id": request_id(connection)})
