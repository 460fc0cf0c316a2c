"""ElevenLabs' users, subscriptions, groups and members, as far as calls and limits tell of them. Pure.

There is no register of people here: a member is who has called, a group is what a call said of its caller. What an
account here does not have (voice slots, invoices) is there as nothing, since their clients want every field.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import ROUND_CEILING, Decimal
from typing import Any

from aggregator.buckets import DAY_SECONDS, boundaries, floor_us
from aggregator.dimensions import Filter
from aggregator.limits import Limit
from aggregator.parameters import MAX_TOP
from aggregator.query import OTHER, Audience, Series, UsageAnswer, UsageQuery
from aggregator.tokens import Principal
from usage_meter.event import MAX_TIME_US

KNOWN_DAYS = 365  # back, and on to that month's first: who has not called for a year is not listed
UNLIMITED = 2**53 - 1  # the greatest whole number that every JSON reader keeps: `limit - used` stays right
_REQUESTS = (Filter("kind", ("request",)),)


def month_query(audience: Audience, now_us: int, *breakdown: str) -> UsageQuery:
    """Credits since the first of the month (UTC)."""
    start_us = floor_us(now_us, "month", UTC)
    return UsageQuery(
        start_us, now_us + 1, UTC, interval="total", breakdown=breakdown, filters=_REQUESTS, audience=audience,
        top=MAX_TOP,
    )  # fmt: skip


def known_query(audience: Audience, now_us: int, *breakdown: str) -> UsageQuery:
    """Who has called: the MAX_TOP with most calls of the last KNOWN_DAYS.

    From the first of a month (UTC) on: a dozen rollups by month, where days before the first would be read one by one.
    """
    start_us = floor_us(max(0, now_us - KNOWN_DAYS * DAY_SECONDS * 1_000_000), "month", UTC)
    return UsageQuery(
        start_us, now_us + 1, UTC, interval="total", metrics=("requests",), breakdown=breakdown, filters=_REQUESTS,
        audience=audience, top=MAX_TOP,
    )  # fmt: skip


def credits_limit(limits: Iterable[Limit], audience: Audience) -> Decimal | None:
    """Of the user that is looked at, or of the workspace. None where none is set."""
    subject = ("workspace", "") if audience.user is None else ("user", audience.user)
    return next((one.monthly_credits for one in limits if (one.subject, one.value) == subject), None)


@dataclass(frozen=True, slots=True)
class Account:
    """An account this month: who asks, what is used and what is allowed."""

    principal: Principal
    used: Decimal
    limit: Decimal | None
    now_us: int

    def user(self) -> dict[str, Any]:
        """The body of `GET /v1/user`."""
        is_member = self.principal.role == "member"
        return {
            "user_id": self.principal.user,
            "workspace_id": self.principal.workspace,
            "subscription": self._quota(),
            "is_new_user": False,
            "can_use_delayed_payment_methods": False,
            "is_onboarding_completed": True,
            "is_onboarding_checklist_completed": True,
            "show_compliance_terms": False,
            "first_name": self.principal.user or None,
            "is_api_key_hashed": True,
            "xi_api_key_preview": None,
            "referral_link_code": None,
            "partnerstack_partner_default_link": None,
            "created_at": 0,  # theirs, too, says 0 where it does not know
            "seat_type": "workspace_member" if is_member else "workspace_admin",
        }

    def subscription(self) -> dict[str, Any]:
        """The body of `GET /v1/user/subscription`."""
        return {
            **self._quota(),
            "next_invoice": None,
            "open_invoices": [],
            "has_open_invoices": False,
            "cancels_immediately": None,
            "pending_change": None,
            "has_used_starter_coupon_on_account": None,
            "has_used_creator_coupon_on_account": None,
            "is_eligible_for_starter_promo": None,
        }

    def _quota(self) -> dict[str, Any]:
        month = boundaries(floor_us(self.now_us, "month", UTC), MAX_TIME_US, "month", UTC)
        next(month)
        return {
            "tier": "metered",
            "character_count": whole(self.used),
            "character_limit": UNLIMITED if self.limit is None else int(self.limit),
            "max_character_limit_extension": None,
            "max_credit_limit_extension": "unlimited" if self.limit is None else 0,
            "can_extend_character_limit": False,
            "allowed_to_extend_character_limit": False,
            "next_character_count_reset_unix": next(month) // 1_000_000,
            "voice_slots_used": 0,
            "professional_voice_slots_used": 0,
            "professional_voice_slots_used_in_workspace": 0,
            "voice_limit": 0,
            "max_voice_add_edits": None,
            "voice_add_edit_counter": 0,
            "professional_voice_limit": 0,
            "can_extend_voice_limit": False,
            "can_use_instant_voice_cloning": False,
            "can_use_professional_voice_cloning": False,
            "currency": None,
            "current_overage": {"amount": "0", "currency": "usd"},
            "status": "active",
            "billing_period": "monthly_period",
            "character_refresh_period": "monthly_period",
        }


def whole(credits: Decimal) -> int:
    """Their counts are whole numbers: a credit that is begun is used. More refunded than used is 0."""
    return max(0, int(credits.to_integral_value(ROUND_CEILING)))


def used(answer: UsageAnswer) -> Decimal:
    return Decimal(answer.series[0].total or 0)


def groups(known: UsageAnswer, month: UsageAnswer) -> dict[str, dict[str, Any]]:
    """The body of `GET /v1/workspace/groups`, from calls by group and user, and this month's credits by group."""
    credits = {one.key["group"]: Decimal(one.total or 0) for one in month.series}
    found: dict[str, dict[str, Any]] = {}
    for series in _named(known.series, "group"):
        id, user = series.key["group"], series.key["user"]
        group = found.setdefault(id, _group(id, _name(series, "group"), credits.get(id, Decimal(0))))
        if user:
            group["members"].append(user)
    return found


def _group(id: str, name: str, credits: Decimal) -> dict[str, Any]:
    return {
        "name": name,
        "id": id,
        "members": [],
        "permissions": None,
        "group_usage_limit": "unlimited",
        "character_count": whole(credits),
        "is_scim_synced": False,
    }


def search(groups: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The body of `GET /v1/workspace/groups/search`: the groups of that name, in capitals or not."""
    return [
        {"name": one["name"], "id": one["id"], "members_emails": one["members"]}
        for one in groups
        if name.casefold() in (one["name"].casefold(), one["id"].casefold())
    ]


def members(known: UsageAnswer) -> list[dict[str, Any]]:
    """The body of `GET /v1/workspace/members`, from calls by user. The address is the identifier: no other is known."""
    return [
        {
            "user_id": series.key["user"],
            "email": series.key["user"],
            "first_name": _name(series, "user"),
            "seat_type": "workspace_member",
            "is_owner": False,
            "is_locked": False,
        }
        for series in _named(known.series, "user")
    ]


def _named(series: Sequence[Series], dimension: str) -> list[Series]:
    return [one for one in series if one.key[dimension] not in ("", OTHER)]


def _name(series: Series, dimension: str) -> str:
    return series.names.get(dimension) or series.key[dimension]
