"""`usage-meter token` and `usage-meter revoke`: who may ask the service, and who no longer."""

import os
from typing import Annotated
from urllib.parse import quote

import typer

from aggregator.commands.client import asking
from aggregator.commands.terminal import Url, friendly
from aggregator.errors import SettingsError
from aggregator.settings import PREFIX, Settings
from aggregator.tokens import ROLES, Principal, Tokens


def token(
    workspace: Annotated[str, typer.Option(help="Whose calls it shows.")] = "",
    user: Annotated[str, typer.Option(help="Whose account it is.")] = "",
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = "member",
    days: Annotated[float, typer.Option(help="How long it is valid.")] = 30,
) -> None:
    """Print a token and nothing else. AGGREGATOR_SECRET must be the service's own."""
    with friendly():
        tokens = _tokens("tokens are signed with it, so set the service's own")
        if not 0 < days <= 36_500:
            raise SettingsError(f"--days is {days:g}: must be more than 0, and at most 36500")
        print(tokens.make(_principal(role, workspace, user), days))


def revoke(token: Annotated[str, typer.Argument(help="The token, or its id.")], url: Url = None) -> None:
    """Have the running service refuse a token from now on. AGGREGATOR_SECRET must be the service's own."""
    with friendly():
        tokens = _tokens("the service asks an operator's token for this")
        token_id = tokens.id_of(token) if token.count(".") == 2 else token
        with asking(url, tokens.make(Principal("operator"), days=0.01)) as client:
            client.post(f"/v1/tokens/{quote(token_id, safe='')}/revoke")
        print(f"revoked\t{token_id}")


def _tokens(why: str) -> Tokens:
    settings = Settings.from_env(os.environ)
    if not settings.secret:
        raise SettingsError(f"{PREFIX}SECRET is not set: {why}")
    return Tokens(settings.secret, settings.previous_secret)


def _principal(role: str, workspace: str, user: str) -> Principal:
    for known in ROLES:
        if role == known:
            break
    else:
        raise SettingsError(f"--role is '{role}': must be one of {', '.join(ROLES)}")
    if known != "operator" and not workspace:
        raise SettingsError(f"--workspace is missing: a {known}'s token names one")
    if known == "member" and not user:
        raise SettingsError("--user is missing: a member's token names one")
    return Principal(known, workspace, user)
