"""The service as the commands ask it: over HTTP, with a token, wherever it runs.

An answer that is none becomes one error that says what and where: RefusedError where the question or the token is
wrong, ServiceError where asking again may help.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from aggregator.errors import AggregatorError, ServiceError, SettingsError
from aggregator.settings import PREFIX, Settings, explained, is_loopback, without_password
from aggregator.tokens import OPERATOR, Tokens

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0  # a year's question to a cold store takes seconds; this only ends what never ends
MAX_MESSAGE = 1000  # characters of an answer in plain text: enough for a chart's faults
OWN_TOKEN_DAYS = 1.0  # of a token made from the service's own secret: longer than any one command runs

Items = Sequence[tuple[str, str]]


class RefusedError(AggregatorError):
    """The service says what is wrong with what was asked; `detail` is its answer's."""

    def __init__(self, message: str, status: int, detail: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Which service the commands ask, and as whom."""

    url: str = field(default="http://127.0.0.1:8080", metadata={"help": "Where the service answers.", "secret": False})
    token: str = field(
        default="",
        repr=False,
        metadata={
            "help": "Token to ask with. Without it, and with `AGGREGATOR_SECRET` set, they ask as operator.",
            "secret": True,
        },
    )

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            shown = without_password(self.url)
            raise SettingsError(f"{PREFIX}URL is '{shown}': must look like http://127.0.0.1:8080")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> "ClientSettings":
        """From the environment; an override that is not None wins. Raises SettingsError."""
        found = explained(environ, cls, **overrides)
        return cls(**{name: value for name, (value, _) in found.items() if value is not None})


@contextmanager
def asking(url: str | None, token: str | None) -> Iterator["Client"]:
    """The service of the options and the environment."""
    settings = ClientSettings.from_env(os.environ, url=url, token=token)
    with Client(settings.url, settings.token or _own_token()) as client:
        yield client


def _own_token() -> str:
    """Whoever has the service's secret may ask it everything."""
    settings = Settings.from_env(os.environ)
    return Tokens(settings.secret).make(OPERATOR, OWN_TOKEN_DAYS) if settings.secret else ""


class Client:
    """One service; a context manager. Thread-safe."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            headers=headers, timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), follow_redirects=False
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    @property
    def is_near(self) -> bool:
        """On this machine: nothing is gained by compressing what is sent."""
        return is_loopback(httpx.URL(self.url).host)

    def json(self, path: str, items: Items = ()) -> Any:
        """A JSON answer. Raises RefusedError and ServiceError, like everything here."""
        with self._failures():
            return self._decoded(self._http.get(self.url + path, params=list(items)))

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        with self._failures():
            return self._decoded(self._http.post(self.url + path, content=body, headers=dict(headers or {})))

    def pieces(self, path: str, items: Items = ()) -> Iterator[bytes]:
        """A file as it comes."""
        with self._failures(), self._http.stream("GET", self.url + path, params=list(items)) as answer:
            if not answer.is_success:
                answer.read()
            self._check(answer)
            yield from answer.iter_bytes()

    def lines(self, path: str, items: Items = (), silence_seconds: float = ANSWER_SECONDS) -> Iterator[str]:
        """A stream of text that goes on; ServiceError when it is silent for so long."""
        timeout = httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS)
        with self._failures(), self._http.stream("GET", self.url + path, params=list(items), timeout=timeout) as answer:
            if not answer.is_success:
                answer.read()
            self._check(answer)
            yield from answer.iter_lines()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServiceError(
                f"nothing answers at {self.url} ({error}): start `usage-meter serve` there, or set {PREFIX}URL or --url"
            ) from error
        except httpx.TimeoutException as error:
            raise ServiceError(f"{self.url} did not answer in time ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"{self.url} broke off: {error}") from error

    def _decoded(self, answer: httpx.Response) -> Any:
        self._check(answer)
        try:
            return answer.json()
        except ValueError:
            raise RefusedError(f"{self.url} is no usage-meter: its answer is not JSON", answer.status_code) from None

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.is_redirect:
            target = answer.headers.get("location", "")
            raise RefusedError(f"{self.url} points to {target}: set {PREFIX}URL to where it is", answer.status_code)
        detail = _detail(answer)
        message = _message(answer, detail)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise ServiceError(f"{self.url} answers {answer.status_code}: {message}")
        if answer.status_code == 401:
            message += f" (set {PREFIX}TOKEN or --token)"
        raise RefusedError(message, answer.status_code, detail)


def _detail(answer: httpx.Response) -> object:
    try:
        body = answer.json()
    except (ValueError, json.JSONDecodeError):
        return None
    return body.get("detail") if isinstance(body, dict) else None


def _message(answer: httpx.Response, detail: object) -> str:
    """A line for each fault of a question, else the service's own sentence."""
    if isinstance(detail, list):
        return "\n".join(
            f"{_place(one.get('loc', ()))}: {one.get('msg', '')}" for one in detail if isinstance(one, dict)
        )
    if isinstance(detail, dict) and isinstance(detail.get("message"), str):
        return str(detail["message"])
    if answer.headers.get("content-type", "").startswith("text/plain") and answer.text.strip():
        return answer.text.strip()[:MAX_MESSAGE]
    return f"{answer.request.url.copy_with(query=None)} answers {answer.status_code}, and not as usage-meter does"


def _place(location: Sequence[object]) -> str:
    """Without the first word, which only says that it stood in the query string or the body."""
    return ".".join(map(str, location[1:] if len(location) > 1 else location))
