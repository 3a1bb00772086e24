"""Tests of `/admin/services`: what administrators can do with sibling services, what is refused, what is audited, and
that no key is shown twice."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from services.devstack.main_job import expect
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers, assert_problem, only_row

SERVICES = "/admin/services"


class Administrator:
    """Calls `/admin/services` followed by a path, with the key of a service `operations` that has the permission
    `admin`."""

    def __init__(self, journey: Journey, headers: Headers) -> None:
        self.journey = journey
        self.headers = headers

    @classmethod
    async def at(cls, journey: Journey) -> "Administrator":
        key = await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])
        return cls(journey, {"Authorization": f"Bearer {key}"})

    async def __call__(self, method: str, path: str = "", body: Any = None) -> httpx.Response:
        content = None if body is None else json.dumps(body)
        headers = self.headers | ({"Content-Type": "application/json"} if body is not None else {})
        return await self.journey.client.request(method, f"{SERVICES}{path}", headers=headers, content=content)

    async def create(self, name: str = "calendar", **fields: Any) -> str:
        """Make a service, and return its key."""
        created: dict[str, Any] = expect(await self("POST", "", {"name": name, **fields}), 201).json()
        return str(created["key"])

    async def show(self, name: str = "calendar") -> dict[str, Any]:
        """Return the service as the API shows it."""
        shown: dict[str, Any] = expect(await self("GET", f"/{name}"), 200).json()
        return shown

    async def changes(self, action: str) -> dict[str, Any]:
        """Return the old and new values in the only audit row of `action` on the service `calendar`, whose actor must
        be this administrator."""
        row = await only_row(
            self.journey,
            "SELECT d.changes, l.* FROM audit_logs l JOIN audit_details d USING (id) WHERE l.action = $1"
            " AND l.target_id = 'calendar'",
            action,
        )
        assert (row["actor_kind"], row["actor_id"]) == ("service", "operations")
        assert (row["target_type"], row["user_id"]) == ("service", None)
        found: dict[str, Any] = json.loads(row["changes"])
        return found


@pytest.fixture
async def admin(journey: Journey) -> Administrator:
    return await Administrator.at(journey)


async def _may_list(journey: Journey, headers: Headers) -> httpx.Response:
    return await journey.client.get(SERVICES, headers=headers)


async def test_service_is_created_with_a_key_that_works_and_is_not_kept(admin: Administrator) -> None:
    response = await admin("POST", "", {"name": "calendar", "permissions": ["users:search", "admin", "admin"]})

    created = expect(response, 201).json()
    assert response.headers["cache-control"] == "no-store"
    assert set(created) == {"name", "key", "key_id"}
    assert created["key"].split("_")[:2] == ["ums", created["key_id"]]
    shown = await admin.show()
    assert (shown["permissions"], shown["grants"], shown["disabled_at"]) == (["admin", "users:search"], [], None)
    (key,) = shown["keys"]
    assert (key["id"], key["live"], key["last_used_at"]) == (created["key_id"], True, None)
    assert (await _may_list(admin.journey, {"X-API-Key": created["key"]})).status_code == 200
    assert await admin.changes("service.created") == {
        "permissions": [None, ["admin", "users:search"]],
        "key_id": [None, created["key_id"]],
    }


async def test_name_that_is_taken_is_a_conflict_and_leaves_the_first_as_it_was(admin: Administrator) -> None:
    await admin.create(permissions=["users:read"])

    response = await admin("POST", "", {"name": "calendar"})

    assert_problem(response, 409, "conflict")
    shown = await admin.show()
    assert (shown["permissions"], len(shown["keys"])) == (["users:read"], 1)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Calendar"},
        {"name": "1calendar"},
        {"name": "calendar_sync"},
        {"name": "calendar\n"},
        {"name": "cal\u0000endar"},
        {"name": ""},
        {"name": "c" * 64},
        {"name": None},
        {},
        {"name": "calendar", "permissions": ["everything"]},
        {"name": "calendar", "permissions": "admin"},
        {"name": "calendar", "key": "mine"},
    ],
)
async def test_service_that_cannot_be_is_refused_by_name_of_the_field(admin: Administrator, body: Any) -> None:
    response = await admin("POST", "", body)

    assert assert_problem(response, 422, "validation_failed")["details"]["errors"]
    assert [service["name"] for service in (await admin("GET")).json()["items"]] == ["operations"]


async def test_longest_name_is_accepted(admin: Administrator) -> None:
    name = "c" + "0-" * 31

    await admin.create(name)

    assert (await admin.show(name))["name"] == name


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nobody", None),
        ("PUT", "/nobody/permissions", {"permissions": []}),
        ("PUT", "/nobody/grants/sandbox-static", {"scopes": None}),
        ("DELETE", "/nobody/grants/sandbox-static", None),
        ("POST", "/nobody/keys", {}),
        ("DELETE", "/nobody/keys/0123456789ab", None),
        ("POST", "/nobody/disable", None),
        ("POST", "/nobody/enable", None),
        ("POST", "/nobody/revoke", None),
        ("DELETE", "/operations/keys/0123456789ab", None),
        ("DELETE", "/operations/grants/sandbox-static", None),
    ],
)
async def test_what_is_not_there_is_not_found(admin: Administrator, method: str, path: str, body: Any) -> None:
    assert_problem(await admin(method, path, body), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/No%20body", None),
        ("GET", "/operations%00", None),
        ("POST", "/operations/keys", {"overlap_seconds": -1}),
        ("POST", "/operations/keys", {"overlap_seconds": 2_592_001}),
        ("POST", "/operations/keys", {"overlap": 0}),
        ("DELETE", "/operations/keys/%00", None),
        ("PUT", "/operations/permissions", {}),
        ("PUT", "/operations/permissions", {"permissions": ["users:write"]}),
        ("PUT", "/operations/grants/sandbox-static", {}),
        ("PUT", "/operations/grants/sandbox-static", {"scopes": None, "reason_required": "off"}),
        ("POST", "/operations/keys", {"overlap_seconds": "0"}),
        ("PUT", "/operations/grants/sandbox-static", {"scopes": []}),
        ("PUT", "/operations/grants/sandbox-static", {"scopes": ["two words"]}),
        ("PUT", "/operations/grants/sandbox-static", {"provider": "sandbox-static"}),
        ("PUT", "/operations/grants/Sandbox%00", {}),
    ],
)
async def test_what_cannot_be_is_refused(admin: Administrator, method: str, path: str, body: Any) -> None:
    assert_problem(await admin(method, path, body), 422, "validation_failed")


async def test_permissions_are_replaced_and_count_at_once(admin: Administrator) -> None:
    key = {"X-API-Key": await admin.create(permissions=["admin"])}
    before = await _may_list(admin.journey, key)

    response = await admin("PUT", "/calendar/permissions", {"permissions": ["users:search", "users:read"]})

    assert before.status_code == 200
    assert response.json()["permissions"] == ["users:read", "users:search"]
    assert_problem(await _may_list(admin.journey, key), 403, "forbidden")
    assert await admin.changes("service.permitted") == {"permissions": [["admin"], ["users:read", "users:search"]]}


async def test_grant_is_made_narrowed_and_withdrawn(admin: Administrator, connected: Connected) -> None:
    key = {"X-API-Key": await admin.create()}
    path = f"/calendar/grants/{connected.provider}"

    async def read(*scopes: str) -> int:
        answer = await connected.journey.get_token(key, connected.user_id, connected.provider, scopes=list(scopes))
        return answer.status_code

    ungranted = await read("email")
    granted = await admin("PUT", path, {"scopes": None})
    any_scope = await read("calendar.read")
    narrowed = await admin("PUT", path, {"scopes": ["email"], "reason_required": False})
    within, beyond = await read("email"), await read("calendar.read")
    withdrawn = await admin("DELETE", path)

    assert (ungranted, any_scope, within, beyond, await read("email")) == (403, 200, 200, 403, 403)
    assert granted.json()["grants"] == [{"provider": connected.provider, "scopes": None, "reason_required": False}]
    assert narrowed.json()["grants"] == [
        {"provider": connected.provider, "scopes": ["email"], "reason_required": False}
    ]
    assert (withdrawn.status_code, withdrawn.content) == (204, b"")
    assert await admin.changes("service.grant_withdrawn") == {
        connected.provider: [{"scopes": ["email"], "reason_required": False}, None]
    }


async def test_grant_for_an_unknown_provider_is_refused(admin: Administrator) -> None:
    await admin.create()

    response = await admin("PUT", "/calendar/grants/nowhere", {"scopes": None})

    assert_problem(response, 404, "unknown_provider")
    assert (await admin.show())["grants"] == []


async def test_grant_of_a_provider_that_is_gone_can_be_withdrawn(admin: Administrator) -> None:
    await admin.create()
    await admin("PUT", "/calendar/grants/sandbox-static", {"scopes": None})
    await admin.journey.owner.execute("UPDATE service_grants SET provider = 'gone'")

    response = await admin("DELETE", "/calendar/grants/gone")

    assert response.status_code == 204
    assert (await admin.show())["grants"] == []


async def test_change_that_changes_nothing_is_not_recorded(admin: Administrator) -> None:
    await admin.create(permissions=["users:read"])
    await admin("PUT", "/calendar/grants/sandbox-static", {"scopes": ["email"]})
    recorded = await admin.journey.owner.fetchval("SELECT count(*) FROM audit_logs")

    answers = [
        await admin("PUT", "/calendar/permissions", {"permissions": ["users:read"]}),
        await admin("PUT", "/calendar/grants/sandbox-static", {"scopes": ["email", "email"]}),
        await admin("POST", "/calendar/enable"),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert await admin.journey.owner.fetchval("SELECT count(*) FROM audit_logs") == recorded


async def test_disabled_service_is_refused_until_it_is_enabled(admin: Administrator) -> None:
    key = {"X-API-Key": await admin.create(permissions=["admin"])}

    disabled = await admin("POST", "/calendar/disable")
    refused = await _may_list(admin.journey, key)
    enabled = await admin("POST", "/calendar/enable")

    assert disabled.json()["disabled_at"] is not None
    assert_problem(refused, 401, "unauthenticated")
    assert enabled.json()["disabled_at"] is None
    assert (await _may_list(admin.journey, key)).status_code == 200
    assert await admin.changes("service.disabled") == {"disabled": [False, True]}
    assert await admin.changes("service.enabled") == {"disabled": [True, False]}


async def test_one_key_is_revoked_and_the_other_goes_on(admin: Administrator) -> None:
    first = await admin.create(permissions=["admin"])
    second = (await admin("POST", "/calendar/keys", {})).json()
    key_id = first.split("_")[1]

    response = await admin("DELETE", f"/calendar/keys/{key_id}")
    again = await admin("DELETE", f"/calendar/keys/{key_id}")

    assert (response.status_code, again.status_code) == (204, 204)
    assert_problem(await _may_list(admin.journey, {"X-API-Key": first}), 401, "unauthenticated")
    assert (await _may_list(admin.journey, {"X-API-Key": second["key"]})).status_code == 200
    assert [(key["id"], key["live"]) for key in (await admin.show())["keys"]] == [
        (key_id, False),
        (second["key_id"], True),
    ]
    assert await admin.changes("service.key_revoked") == {"key_id": [key_id, None]}


async def test_key_of_another_service_is_not_revoked_under_this_ones_name(admin: Administrator) -> None:
    key = await admin.create(permissions=["admin"])
    await admin.create("mailer")

    response = await admin("DELETE", f"/mailer/keys/{key.split('_')[1]}")

    assert_problem(response, 404, "not_found")
    assert (await _may_list(admin.journey, {"X-API-Key": key})).status_code == 200


async def test_service_whose_keys_were_all_revoked_gets_a_new_one_by_rotation(admin: Administrator) -> None:
    old = await admin.create(permissions=["admin"])

    revoked = await admin("POST", "/calendar/revoke")
    refused = await _may_list(admin.journey, {"X-API-Key": old})
    new = (await admin("POST", "/calendar/keys", {"overlap_seconds": 0})).json()["key"]

    assert revoked.json() == {"revoked": 1}
    assert_problem(refused, 401, "unauthenticated")
    assert (await _may_list(admin.journey, {"X-API-Key": new})).status_code == 200
    assert_problem(await _may_list(admin.journey, {"X-API-Key": old}), 401, "unauthenticated")
    assert await admin.changes("service.revoked") == {"key_ids": [[old.split("_")[1]], []]}


async def test_secret_is_in_no_list_record_or_log_line(admin: Administrator) -> None:
    with capture_logs() as lines:
        first = await admin.create(permissions=["admin"])
        second = (await admin("POST", "/calendar/keys", {})).json()["key"]
        await _may_list(admin.journey, {"X-API-Key": first})
        answers = [await admin("GET"), await admin("GET", "/calendar"), await admin("POST", "/calendar/disable")]
    rows = await admin.journey.owner.fetch(
        "SELECT l::text, d::text FROM audit_logs l LEFT JOIN audit_details d USING (id)"
    )

    everything = "\n".join([*(answer.text for answer in answers), *map(str, rows), *map(str, lines)])
    assert first.split("_")[1] in everything
    hashes = [bytes(row[0]).hex() for row in await admin.journey.owner.fetch("SELECT secret_hash FROM service_keys")]
    for secret in (first.split("_")[2], second.split("_")[2], *hashes, "secret_hash"):
        assert secret not in everything


async def test_user_whom_the_settings_name_is_an_admin_and_nobody_else(journey: Journey) -> None:
    administrator = await _may_list(journey, journey.headers_of(ADMIN_USER_ID))
    other = await _may_list(journey, (await journey.sign_up()).headers)
    service = await _may_list(journey, await journey.service_key())
    stranger = await _may_list(journey, {})

    assert administrator.json() == {"items": []}
    assert_problem(other, 403, "forbidden")
    assert_problem(service, 403, "forbidden")
    assert_problem(stranger, 401, "unauthenticated")


async def test_suspended_admin_is_refused(journey: Journey) -> None:
    headers = journey.headers_of(ADMIN_USER_ID)
    await _may_list(journey, headers)
    await journey.owner.execute("UPDATE users SET status = 'suspended'")
    journey.container.users.states.forget()

    assert_problem(await _may_list(journey, headers), 403, "user_inactive")


async def test_admin_user_is_the_actor_of_what_they_do(journey: Journey) -> None:
    response = await journey.client.post(SERVICES, headers=journey.headers_of(ADMIN_USER_ID), json={"name": "calendar"})

    row = await only_row(journey, "SELECT * FROM audit_logs WHERE action = 'service.created'")
    assert (row["actor_kind"], row["actor_id"], row["user_id"]) == ("user", ADMIN_USER_ID, None)
    assert row["request_id"] == response.headers["x-request-id"]


async def test_admins_session_does_not_make_up_for_a_bad_key(admin: Administrator) -> None:
    session = admin.journey.headers_of(ADMIN_USER_ID)
    key = admin.headers["Authorization"].removeprefix("Bearer ")
    expect(await _may_list(admin.journey, session), 200)

    for headers in (
        {**session, "X-API-Key": key},
        {**session, "X-API-Key": f"ums_{'0' * 12}_{'0' * 64}"},
        {"X-API-Key": session["Authorization"].removeprefix("Bearer ")},
        {"X-API-Key": ""},
        {"Authorization": f"Bearer ums_{session['Authorization'].removeprefix('Bearer ')}"},
        {"Authorization": f"Basic {key}"},
    ):
        assert_problem(await _may_list(admin.journey, headers), 401, "unauthenticated")


async def test_services_made_at_once_under_one_name_are_one(admin: Administrator) -> None:
    answers = await asyncio.gather(*(admin("POST", "", {"name": "calendar"}) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert len((await admin.show())["keys"]) == 1


async def test_grants_made_at_once_for_one_provider_are_one(admin: Administrator) -> None:
    await admin.create()
    path = "/calendar/grants/sandbox-static"

    answers = await asyncio.gather(*(admin("PUT", path, {"scopes": [f"scope-{number}"]}) for number in range(8)))

    assert [answer.status_code for answer in answers] == [200] * 8
    assert len((await admin.show())["grants"]) == 1


async def test_service_that_cannot_be_stored_for_another_reason_than_its_name_is_our_fault(
    admin: Administrator,
) -> None:
    await admin.journey.owner.execute("ALTER TABLE service_clients ADD CONSTRAINT fails CHECK (false) NOT VALID")
    try:
        response = await admin("POST", "", {"name": "calendar"})
    finally:
        await admin.journey.owner.execute("ALTER TABLE service_clients DROP CONSTRAINT fails")

    assert_problem(response, 500, "internal_error")
