"""Events of the sandbox's Clerk, compared with the keys that Clerk's published webhook schema (2025-04-15) requires and
allows; changes of its users; and the controls that change users or tell of sessions, with or without a webhook."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from services.sandbox.app import create_app
from services.sandbox.clerk.sessions import STATUS_AFTER
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import BASE_URL

ENVELOPE = {"object", "type", "timestamp", "instance_id", "event_attributes", "data"}
# fmt: off
USER_REQUIRED = {
    "id", "object", "username", "first_name", "last_name", "has_image", "primary_email_address_id",
    "primary_phone_number_id", "primary_web3_wallet_id", "password_enabled", "two_factor_enabled", "totp_enabled",
    "backup_code_enabled", "email_addresses", "phone_numbers", "web3_wallets", "passkeys", "external_accounts",
    "saml_accounts", "enterprise_accounts", "public_metadata", "external_id", "last_sign_in_at", "banned", "locked",
    "lockout_expires_in_seconds", "verification_attempts_remaining", "created_at", "updated_at", "delete_self_enabled",
    "create_organization_enabled", "last_active_at", "mfa_enabled_at", "mfa_disabled_at", "legal_accepted_at",
}
USER_OPTIONAL = {
    "locale", "profile_image_url", "image_url", "private_metadata", "unsafe_metadata", "password_last_updated_at",
    "organization_memberships", "deprovisioned", "create_organizations_limit", "bypass_client_trust", "scim",
}
ADDRESS_REQUIRED = {"object", "verification", "linked_to", "reserved", "created_at", "updated_at"}
EMAIL_OPTIONAL = {"id", "matches_sso_connection"}
PHONE_OPTIONAL = {"id", "reserved_for_second_factor", "default_second_factor", "backup_codes"}
SESSION_REQUIRED = {
    "object", "id", "user_id", "client_id", "status", "last_active_at", "expire_at", "abandon_at", "updated_at",
    "created_at", "user",
}
# fmt: on
SESSION_OPTIONAL = {"actor", "last_active_organization_id", "latest_activity"}
ACTIVITY_REQUIRED = {"id", "object", "is_mobile"}
ACTIVITY_OPTIONAL = {"device_type", "browser_name", "browser_version", "ip_address", "city", "country"}


def _fits(item: Mapping[str, Any], required: set[str], optional: set[str]) -> bool:
    return required <= item.keys() <= required | optional


def _assert_user(user: Mapping[str, Any]) -> None:
    assert _fits(user, USER_REQUIRED, USER_OPTIONAL)
    for address in user["email_addresses"]:
        assert _fits(address, ADDRESS_REQUIRED | {"email_address"}, EMAIL_OPTIONAL)
    for number in user["phone_numbers"]:
        assert _fits(number, ADDRESS_REQUIRED | {"phone_number"}, PHONE_OPTIONAL)


def test_user_events_have_the_keys_of_the_schema(sandbox: Sandbox) -> None:
    user = sandbox.clerk.create_user(email="ada@example.com", phone="+441632960000", deprovisioned=True)

    event = sandbox.clerk.event("user.updated", user)

    assert event.keys() == ENVELOPE
    _assert_user(event["data"])
    assert event["data"]["deprovisioned"] is True
    _assert_user(sandbox.clerk.create_user())


@pytest.mark.parametrize(("external_id", "keys"), [(None, set()), ("ours-1", {"external_id"})])
def test_user_deleted_has_the_keys_of_the_schema(sandbox: Sandbox, external_id: str | None, keys: set[str]) -> None:
    user = sandbox.clerk.create_user(external_id=external_id)

    remains = sandbox.clerk.delete_user(user["id"])

    assert remains.keys() == {"id", "object", "deleted"} | keys


@pytest.mark.parametrize("event_type", STATUS_AFTER)
def test_session_events_have_the_keys_of_the_schema(sandbox: Sandbox, event_type: str) -> None:
    user_id = sandbox.clerk.create_user(email="ada@example.com")["id"]

    session = sandbox.clerk.session_event(event_type, user_id, with_user=True)

    assert _fits(session, SESSION_REQUIRED, SESSION_OPTIONAL)
    assert _fits(session["latest_activity"], ACTIVITY_REQUIRED, ACTIVITY_OPTIONAL)
    assert (session["user_id"], session["status"]) == (user_id, STATUS_AFTER[event_type])
    _assert_user(session["user"])


def test_session_event_by_default_is_about_the_session_of_the_token(sandbox: Sandbox) -> None:
    first = sandbox.clerk.session_event("session.created", "user_gone")
    other = sandbox.clerk.session_event("session.ended", "user_gone", session_id="sess_2", created_at=1_000)

    assert first["id"].startswith("sess_")
    assert first["id"] == sandbox.clerk.session_event("session.ended", "user_gone")["id"]
    assert (first["user"], first["created_at"]) == (None, first["updated_at"])
    assert (other["id"], other["created_at"]) == ("sess_2", 1_000)
    assert other["updated_at"] > 1_000


def test_session_event_of_unknown_type_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(KeyError, match=r"session\.created"):
        sandbox.clerk.session_event("user.created", "user_1")


@pytest.mark.parametrize("timestamp", [1_795_170_000, 1_795_170_000_000])
def test_event_timestamp_is_sent_in_the_unit_it_was_given(sandbox: Sandbox, timestamp: int) -> None:
    remains = sandbox.clerk.delete_user(sandbox.clerk.create_user()["id"])

    _, body = sandbox.clerk.signed_event("user.deleted", remains, event_timestamp=timestamp)

    assert sandbox.clerk.event("user.deleted", remains, timestamp=timestamp)["timestamp"] == timestamp
    assert f'"timestamp":{timestamp},'.encode() in body


def test_restrictions_of_a_user_are_set_and_lifted(sandbox: Sandbox) -> None:
    user_id = sandbox.clerk.create_user()["id"]

    banned, unbanned = sandbox.clerk.ban_user(user_id), sandbox.clerk.unban_user(user_id)
    locked, unlocked = sandbox.clerk.lock_user(user_id), sandbox.clerk.unlock_user(user_id)

    assert (banned["banned"], unbanned["banned"]) == (True, False)
    assert (locked["locked"], locked["lockout_expires_in_seconds"]) == (True, 3600)
    assert (unlocked["locked"], unlocked["lockout_expires_in_seconds"]) == (False, None)
    assert banned["updated_at"] < unbanned["updated_at"] < locked["updated_at"] < unlocked["updated_at"]


def test_email_is_unverified_and_removed(sandbox: Sandbox) -> None:
    user_id = sandbox.clerk.create_user(email="ada@example.com")["id"]

    unverified = sandbox.clerk.update_user(user_id, email_verified=False)
    removed = sandbox.clerk.update_user(user_id, email=None)

    (address,) = unverified["email_addresses"]
    assert (address["email_address"], address["verification"]["status"]) == ("ada@example.com", "unverified")
    assert (removed["email_addresses"], removed["primary_email_address_id"]) == ([], None)


def _email(user: Mapping[str, Any]) -> str:
    (address,) = user["email_addresses"]
    assert address["id"] == user["primary_email_address_id"]
    return str(address["email_address"])


def _client_of(sandbox: Sandbox) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(sandbox)), base_url=BASE_URL)


async def _silently_created(client: httpx.AsyncClient, **fields: Any) -> str:
    created = await client.post("/clerk/_control/users", json=fields, params={"silent": True})
    return str(created.json()["user"]["id"])


async def test_control_swap_emails_exchanges_the_addresses(client: httpx.AsyncClient) -> None:
    first = await _silently_created(client, email="ada@example.com")
    second = await _silently_created(client, email="bob@example.com")

    response = await client.post("/clerk/_control/swap-emails", json={"first": first, "second": second})

    assert [_email(user) for user in response.json()["users"]] == ["bob@example.com", "ada@example.com"]
    unknown = await client.post("/clerk/_control/swap-emails", json={"first": first, "second": "user_x"})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("change", "member", "value"),
    [("ban", "banned", True), ("unban", "banned", False), ("lock", "locked", True), ("unlock", "locked", False)],
)
async def test_control_restriction_changes_the_user(
    client: httpx.AsyncClient, change: str, member: str, *, value: bool
) -> None:
    path = f"/clerk/_control/users/{await _silently_created(client)}"

    response = await client.post(f"{path}/{change}")

    assert response.json()["user"][member] is value
    assert (await client.post(f"{path}/promote")).status_code == 422
    assert (await client.post(f"/clerk/_control/users/user_x/{change}")).status_code == 404


class _Service:
    """A stand-in for user management, which accepts every webhook and keeps its body, and the sandbox that sends to
    it."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.sandbox = Sandbox(
            base_url=BASE_URL, webhook_url="http://service/", webhook_transport=httpx.MockTransport(self._receive)
        )

    def _receive(self, request: httpx.Request) -> httpx.Response:
        self.received.append(httpx.Response(200, content=request.content).json())
        return httpx.Response(200)


async def test_control_silent_changes_send_nothing_and_others_do() -> None:
    service = _Service()
    async with _client_of(service.sandbox) as client:
        path = f"/clerk/_control/users/{await _silently_created(client, email='ada@example.com')}"
        changes = [
            await client.patch(path, json={"first_name": "Ada"}, params={"silent": True}),
            await client.post(f"{path}/ban", params={"silent": True}),
            await client.post(f"{path}/sessions", json={}, params={"silent": True}),
            await client.post(f"{path}/sessions", json={"timestamp": 1_795_170_000, "with_user": True}),
            await client.post(f"{path}/unban"),
            await client.delete(path, params={"silent": True}),
        ]

    assert [one.json()["webhook_accepted"] for one in changes] == [None, None, None, True, True, None]
    assert [event["type"] for event in service.received] == ["session.created", "user.updated"]
    assert service.received[0]["timestamp"] == 1_795_170_000
    assert service.received[0]["data"]["user"]["first_name"] == "Ada"
    assert service.sandbox.clerk.users() == []


async def test_control_session_event_of_unknown_type_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/clerk/_control/users/user_1/sessions", json={"event_type": "session.begun"})

    assert response.status_code == 422
