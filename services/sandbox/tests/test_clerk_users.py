"""Users of the sandbox's Clerk, their Backend API, and the webhooks about them, whose signatures the
`standardwebhooks` package verifies."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

from services.sandbox.app import create_app
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import BASE_URL

SECRET_KEY = {"Authorization": "Bearer sk_test_anything"}


def _verified(sandbox: Sandbox, headers: Any, body: bytes) -> Any:
    standard = {f"webhook-{name}": headers[f"svix-{name}"] for name in ("id", "timestamp", "signature")}
    Webhook(sandbox.clerk.webhook_secret).verify(body, standard)
    return json.loads(body)


def test_create_user_with_email_makes_it_primary_and_verified(sandbox: Sandbox) -> None:
    user = sandbox.clerk.create_user(email="ada@example.com", first_name="Ada", phone="+441632960000")

    (address,) = user["email_addresses"]
    assert user["id"].startswith("user_")
    assert address["id"] == user["primary_email_address_id"]
    assert address["verification"]["status"] == "verified"
    assert user["primary_phone_number_id"] == user["phone_numbers"][0]["id"]


def test_create_user_without_email_has_no_address(sandbox: Sandbox) -> None:
    user = sandbox.clerk.create_user(username="ada")

    assert (user["email_addresses"], user["primary_email_address_id"]) == ([], None)


def test_update_user_at_once_has_a_later_updated_at(sandbox: Sandbox) -> None:
    user = sandbox.clerk.create_user(email="ada@example.com")

    updated = sandbox.clerk.update_user(user["id"], email="ada@new.example", email_verified=False)
    banned = sandbox.clerk.ban_user(user["id"])

    assert user["updated_at"] < updated["updated_at"] < banned["updated_at"]
    assert updated["email_addresses"][0]["verification"]["status"] == "unverified"
    assert banned["banned"] is True


def test_signed_event_verifies_with_standard_webhooks(sandbox: Sandbox) -> None:
    user = sandbox.clerk.create_user(email="zoë@example.com", first_name="Zoë 🎈")

    headers, body = sandbox.clerk.signed_event("user.created", user)

    event = _verified(sandbox, headers, body)
    assert (event["type"], event["data"]["first_name"]) == ("user.created", "Zoë 🎈")
    assert event.keys() == {"object", "type", "timestamp", "instance_id", "event_attributes", "data"}


def test_signed_event_with_old_timestamp_is_refused(sandbox: Sandbox) -> None:
    headers, body = sandbox.clerk.signed_event("user.created", {"id": "user_1"}, timestamp=1_700_000_000)

    with pytest.raises(WebhookVerificationError):
        _verified(sandbox, headers, body)


def test_sign_with_two_secrets_verifies_with_either(sandbox: Sandbox) -> None:
    other = "whsec_" + "QUJD" * 8

    headers = sandbox.clerk.sign(b"{}", secrets=[other, sandbox.clerk.webhook_secret])

    assert headers["svix-signature"].count("v1,") == 2
    assert _verified(sandbox, headers, b"{}") == {}


def test_sandbox_with_malformed_webhook_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        Sandbox(webhook_secret="not-a-secret")


class _Receiver:
    """A stand-in for user management, which keeps every webhook and answers with the given statuses, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self._statuses = list(statuses)
        self.app = FastAPI()
        self.app.add_api_route("/webhooks/clerk", self._receive, methods=["POST"])

    async def _receive(self, request: Request) -> Response:
        self.received.append((dict(request.headers), await request.body()))
        return Response(status_code=self._statuses.pop(0) if self._statuses else 200)


def _sandbox_posting_to(receiver: _Receiver) -> Sandbox:
    return Sandbox(
        base_url=BASE_URL,
        webhook_url="http://service/webhooks/clerk",
        webhook_transport=httpx.ASGITransport(app=receiver.app),
    )


async def test_control_users_post_patch_delete_send_signed_webhooks() -> None:
    receiver = _Receiver()
    sandbox = _sandbox_posting_to(receiver)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(sandbox)), base_url=BASE_URL) as client:
        created = await client.post("/clerk/_control/users", json={"email": "ada@example.com"})
        path = f"/clerk/_control/users/{created.json()['user']['id']}"
        updated = await client.patch(path, json={"first_name": "Ada"})
        deleted = await client.delete(path)

    assert [one.json()["webhook_accepted"] for one in (created, updated, deleted)] == [True, True, True]
    events = [_verified(sandbox, headers, body) for headers, body in receiver.received]
    assert [event["type"] for event in events] == ["user.created", "user.updated", "user.deleted"]
    assert events[2]["data"]["deleted"] is True
    assert sandbox.clerk.users() == []


async def test_send_event_unanswered_is_retried_with_the_same_message_id() -> None:
    receiver = _Receiver(503)
    sandbox = _sandbox_posting_to(receiver)

    accepted = await sandbox.clerk.send_event("user.created", sandbox.clerk.create_user())

    assert accepted is True
    assert len({headers["svix-id"] for headers, _ in receiver.received}) == 1
    assert [entry.status for entry in sandbox.ledger.entries("clerk", "webhook")] == [503, 200]


async def test_send_event_without_url_does_nothing(sandbox: Sandbox) -> None:
    assert await sandbox.clerk.send_event("user.created", sandbox.clerk.create_user()) is None
    assert sandbox.ledger.count() == 0


@pytest.mark.parametrize("path", ["/clerk/v1/users", "/clerk/v1/users/count", "/clerk/v1/jwks"])
async def test_backend_api_without_secret_key_is_401(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path, headers={"Authorization": "Bearer pk_test"})).status_code == 401
    assert (await client.get(path, headers=SECRET_KEY)).status_code == 200


async def test_backend_users_pages_in_order_without_overlap(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    ids = sorted(sandbox.clerk.create_user(created_at=1)["id"] for _ in range(5))

    pages = [
        await client.get(
            "/clerk/v1/users",
            params={"limit": 2, "offset": offset, "order_by": "+created_at"},
            headers=SECRET_KEY,
        )
        for offset in (0, 2, 4)
    ]

    assert [user["id"] for page in pages for user in page.json()] == ids
    count = await client.get("/clerk/v1/users/count", headers=SECRET_KEY)
    assert count.json()["total_count"] == 5


async def test_backend_users_by_id_are_only_those_named(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    first, second, third = (sandbox.clerk.create_user(created_at=number)["id"] for number in (1, 2, 3))
    named = [("user_id", one) for one in (third, first, "user_nobody")]

    page = await client.get("/clerk/v1/users", params=[*named, ("order_by", "+created_at")], headers=SECRET_KEY)
    second_page = await client.get("/clerk/v1/users", params=[*named, ("offset", "1")], headers=SECRET_KEY)
    too_many = await client.get("/clerk/v1/users", params=[("user_id", second)] * 101, headers=SECRET_KEY)

    assert [user["id"] for user in page.json()] == [first, third]
    assert [user["id"] for user in second_page.json()] == [first]
    assert too_many.status_code == 422


@pytest.mark.parametrize(("operation", "path"), [("users.list", "/clerk/v1/users"), ("users.get", "/clerk/v1/users/u")])
async def test_backend_faults_strike_their_operation_alone(
    sandbox: Sandbox, client: httpx.AsyncClient, operation: str, path: str
) -> None:
    sandbox.clerk.create_user(user_id="u")
    for action, settings in (
        ("status", {"status": 500}),
        ("status", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("html", {}),
        ("delay", {"delay_seconds": 0.01}),
    ):
        fault = {"party": "clerk", "operation": operation, "action": action, **settings}
        assert (await client.post("/_faults", json=fault)).status_code == 201

    other = await client.get("/clerk/v1/users/count", headers=SECRET_KEY)
    struck = [await client.get(path, headers=SECRET_KEY) for _ in range(5)]

    assert [other.status_code, *(one.status_code for one in struck)] == [200, 500, 429, 200, 200, 200]
    assert (struck[1].headers["retry-after"], struck[2].headers["content-type"][:9]) == ("7", "text/html")
    assert struck[3].json() == struck[4].json()
    faults = [entry.fault for entry in sandbox.ledger.entries("clerk", operation)]
    assert faults == ["status", "status", "html", "delay", None]


async def test_backend_user_unknown_is_404_in_clerks_form(client: httpx.AsyncClient) -> None:
    response = await client.get("/clerk/v1/users/user_nobody", headers=SECRET_KEY)

    assert response.status_code == 404
    assert response.json()["errors"][0]["code"] == "resource_not_found"


async def test_control_users_with_unknown_field_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/clerk/_control/users", json={"nickname": "Ada"})

    assert response.status_code == 422


async def test_control_users_unknown_id_is_404(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/clerk/_control/users/user_x", json={})).status_code == 404
    assert (await client.delete("/clerk/_control/users/user_x")).status_code == 404
