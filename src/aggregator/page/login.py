"""Signing in by an address, so that a company can show the pages to its own customers, in a frame too.

The token goes from the address into a cookie that no script reads, and the browser goes on to a page of ours: neither
its history nor a `Referer` keeps the token.
"""

from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from aggregator.api import COOKIE
from aggregator.page.look import Look
from aggregator.tokens import Failures, TokenError, Tokens

FIRST_PAGE = "/usage"


class Login:
    """Refused tokens count as everywhere: a guesser is slowed down."""

    def __init__(self, tokens: Tokens, failures: Failures, look: Look) -> None:
        self._tokens = tokens
        self._failures = failures
        self._look = look

    def answer(self, request: Request, token: str, next: str) -> Response:
        """A redirect to `next` with the cookie. Raises TokenError and TooManyFailuresError."""
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        response = RedirectResponse(own_path(next), 303, headers)
        if self._tokens.required:
            self._check(request, token)
            response.headers.append("Set-Cookie", self._cookie(token, is_secure=request.url.scheme == "https"))
        return response

    def _check(self, request: Request, token: str) -> None:
        try:
            self._tokens.check(token)
        except TokenError:
            self._failures.add(request.client.host if request.client else "")
            raise

    def _cookie(self, token: str, *, is_secure: bool) -> str:
        """`token` has been checked, so it has no character that would end the cookie.

        In another company's frame it is a third party's, which browsers take over TLS only, and then keep for frames
        of that company alone.
        """
        parts = [f"{COOKIE}={token}", "HttpOnly", "Path=/"]
        if is_secure and self._look.may_be_framed:
            parts += ["Secure", "SameSite=None", "Partitioned"]
        else:
            parts += [*(["Secure"] if is_secure else []), "SameSite=Lax"]
        return "; ".join(parts)


def own_path(address: str) -> str:
    """The path and query of an address of ours; the first page instead of anything that leads elsewhere."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return FIRST_PAGE
    # Browsers take a backslash for a slash, and leave out tabs and line ends.
    leads_here = address.startswith("/") and not address.startswith("//") and "\\" not in address
    own = leads_here and not parts.scheme and not parts.netloc and address.isascii() and address.isprintable()
    return address if own else FIRST_PAGE
