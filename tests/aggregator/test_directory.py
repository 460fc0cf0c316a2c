"""What a workspace calls its things and what it allows them: values, labels, limits, the audit log."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from aggregator.query import Statement
from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import call
from tests.aggregator.service import TestedService

ALICE = Principal("member", "acme", "alice")
ADMIN = Principal("admin", "acme", "root")
OPERATOR = Principal("operator")


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    for table in ("labels", "limits", "audit"):
        store.select(Statement(f"TRUNCATE TABLE {table}", {}))
    tested = TestedService(store, redis_client)
    with tested.http:
        yield tested


def put(service: TestedService, principal: Principal, path: str, body: object, **parameters: str) -> int:
    response = service.http.put(path, json=body, params=parameters, headers=service.headers(principal))
    return response.status_code


def test_the_values_of_a_dimension_are_found_by_name_and_by_identifier(service: TestedService) -> None:
    now = datetime.now(UTC)
    service.store.insert([call(now, voice="v1", credits=5), call(now, voice="v2", credits=7), call(now, voice="x")])
    assert put(service, ADMIN, "/v1/labels/voice", {"v1": "Ada", "v2": "Bert"}) == 200

    every = service.get("/v1/dimensions/voice", ADMIN, scope="workspace", last="24h")
    by_name = service.get("/v1/dimensions/voice", ADMIN, scope="workspace", last="24h", q="ADA")
    by_id = service.get("/v1/dimensions/voice", ADMIN, scope="workspace", last="24h", q="v2")

    assert every["values"] == [
        {"value": "v2", "label": "Bert", "requests": 1, "credits": 7},
        {"value": "v1", "label": "Ada", "requests": 1, "credits": 5},
        {"value": "x", "label": "x", "requests": 1, "credits": 1},
    ]
    assert [one["value"] for one in by_name["values"]] == ["v1"]
    assert [one["value"] for one in by_id["values"]] == ["v2"]
    assert every["more"] is False
    assert service.get("/v1/dimensions/voice", ADMIN, scope="workspace", limit=1)["more"] is True


def test_a_value_is_found_however_many_have_more_credits(service: TestedService) -> None:
    now = datetime.now(UTC)
    service.store.insert([call(now, voice=f"v{number:03}", credits=1000 - number) for number in range(150)])

    def find(q: str, **asked: int) -> Any:
        found = service.get("/v1/dimensions/voice", ADMIN, scope="workspace", last="24h", q=q, **asked)
        return [one["value"] for one in found["values"]], found["more"]

    assert find("v149") == (["v149"], False)
    assert find("v14", limit=2) == (["v140", "v141"], True)


def test_a_label_is_shown_wherever_its_value_is_and_can_be_taken_away(service: TestedService) -> None:
    service.store.insert([call(datetime.now(UTC), voice="v1")])
    put(service, ADMIN, "/v1/labels/voice", {"v1": "Ada"})

    def label() -> str:
        found = service.get("/v1/usage", ALICE, breakdown="voice", last="24h")["series"][0]["label"]
        assert isinstance(found, str)
        return found

    assert label() == "Ada"
    put(service, ADMIN, "/v1/labels/voice", {"v1": ""})
    assert label() == "v1"


def test_labels_are_a_workspaces_own(service: TestedService) -> None:
    service.store.insert([call(datetime.now(UTC), voice="v1"), call(datetime.now(UTC), voice="v2", user="bob")])
    put(service, ADMIN, "/v1/labels/voice", {"v1": "Ada", "v2": "Bob's"})
    put(service, OPERATOR, "/v1/labels/voice", {"v1": "Globex's own"}, workspace="globex")

    assert service.get("/v1/labels/voice", ALICE) == {"labels": {"v1": "Ada"}}
    assert service.get("/v1/labels/voice", ADMIN) == {"labels": {"v1": "Ada", "v2": "Bob's"}}
    assert service.get("/v1/labels/voice", OPERATOR, workspace="globex") == {"labels": {"v1": "Globex's own"}}
    assert service.get("/v1/labels/voice", OPERATOR) == {"labels": {"v2": "Bob's"}}  # v1 has two names


def test_a_limit_shows_what_is_used_this_month_and_what_remains(service: TestedService) -> None:
    service.store.insert([call(datetime.now(UTC), credits="2.5"), call(datetime.now(UTC), credits=4, user="bob")])
    assert put(service, ADMIN, "/v1/limits", [{"subject": "user", "value": "alice", "monthly_credits": 10}]) == 200
    workspace = [{"subject": "workspace", "monthly_credits": 5, "concurrency": 3}]
    assert put(service, OPERATOR, "/v1/limits", workspace, workspace="acme") == 200

    limits = service.get("/v1/limits", ADMIN)["limits"]

    assert [(one["subject"], one["value"], one["monthly_credits"], one["concurrency"]) for one in limits] == [
        ("workspace", "", 5, 3),
        ("user", "alice", 10, None),
    ]
    assert [(one["credits_used"], one["credits_remaining"]) for one in limits] == [(6.5, 0), (2.5, 7.5)]
    assert service.get("/v1/limits", ALICE)["limits"] == limits[1:]
    assert service.get("/v1/limits", Principal("admin", "globex"))["limits"] == []


@pytest.mark.parametrize(
    ("principal", "path", "body", "status"),
    [
        (ALICE, "/v1/labels/voice", {"v": "x"}, 403),
        (ALICE, "/v1/limits", [], 403),
        (ADMIN, "/v1/limits", [{"subject": "workspace", "monthly_credits": 1}], 403),
        (ADMIN, "/v1/limits", [{"subject": "user"}], 422),
        (ADMIN, "/v1/limits", [{"subject": "planet", "value": "x"}], 422),
        (ADMIN, "/v1/limits", [{"subject": "user", "value": "x", "monthly_credits": -1}], 422),
        (ADMIN, "/v1/limits", {"subject": "user"}, 422),
        (ADMIN, "/v1/labels/voice", ["v"], 422),
        (ADMIN, "/v1/labels/colour", {"v": "x"}, 404),
        (ADMIN, "/v1/labels/attribute.csv", {"v": "x"}, 404),  # could not be read: that is a file's path
        (ADMIN, "/v1/labels/attribute.tier.csv", {"v": "x"}, 404),
        (OPERATOR, "/v1/labels/voice", {"v": "x"}, 422),
    ],
)
def test_what_may_not_or_cannot_be_set_is_refused(
    service: TestedService, principal: Principal, path: str, body: object, status: int
) -> None:
    assert put(service, principal, path, body) == status
    assert service.get("/v1/audit", OPERATOR) == {"entries": []}


def test_changes_are_in_the_audit_log_of_the_workspace(service: TestedService) -> None:
    put(service, ADMIN, "/v1/labels/voice", {"v1": "Ada"})
    put(service, OPERATOR, "/v1/limits", [{"subject": "workspace", "monthly_credits": 5}], workspace="globex")

    (mine,) = service.get("/v1/audit", ADMIN, scope="workspace")["entries"]

    assert (mine["user"], mine["action"], mine["detail"]) == ("root", "labels", "voice: v1")
    assert len(service.get("/v1/audit", OPERATOR)["entries"]) == 2
    assert service.http.get("/v1/audit", headers=service.headers(ALICE)).status_code == 403
