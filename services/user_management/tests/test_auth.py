"""Tests of session tokens as credentials: which are accepted and as which user, what a first visit creates, and that
impersonation is audited."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.sandbox.signing import base64url
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem, only_row

SUBJECT = "user_2visitor"
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


async def _knock(journey: Journey, token: str) -> httpx.Response:
    return await journey.client.get("/users/me", headers={"Authorization": f"Bearer {token}"})


async def _users(journey: Journey) -> int:
    count: int = await journey.owner.fetchval("SELECT count(*) FROM users")
    return count


async def _early_in_a_second() -> int:
    """Return the Unix time in whole seconds, as claims have it, after waiting for the next second if less than half of
    this one is left."""
    if (late := time.time() % 1) > 0.5:
        await asyncio.sleep(1.001 - late)
    return int(time.time())


BROKEN_HEADERS: dict[str, list[tuple[str, str | bytes]]] = {
    "none": [],
    "empty": [("Authorization", "")],
    "no scheme": [("Authorization", "{token}")],
    "scheme alone": [("Authorization", "Bearer")],
    "scheme and space": [("Authorization", "Bearer ")],
    "basic": [("Authorization", "Basic {token}")],
    "two spaces": [("Authorization", "Bearer  {token}")],
    "trailing word": [("Authorization", "Bearer {token} x")],
    "trailing comma": [("Authorization", "Bearer {token},")],
    "two headers": [("Authorization", "Bearer {token}"), ("Authorization", "Bearer {token}")],
    "10 KB": [("Authorization", "Bearer " + "a" * 10_240)],
    "10 KB of segments": [("Authorization", "Bearer " + ".".join(["YWJj" * 850] * 3))],
    "not ASCII": [("Authorization", "Bearer {token}é".encode())],
    "latin-1": [("Authorization", "Bearer \xff".encode("latin-1"))],
    "service key": [("Authorization", f"Bearer ums_{'0' * 12}_{'0' * 64}")],
}


@pytest.mark.parametrize("shape", BROKEN_HEADERS)
async def test_header_of_a_broken_shape_is_not_authenticated(journey: Journey, shape: str) -> None:
    token = journey.sandbox.clerk.session_token(SUBJECT)
    headers = [
        (name.encode(), (value if isinstance(value, bytes) else value.encode()).replace(b"{token}", token.encode()))
        for name, value in BROKEN_HEADERS[shape]
    ]

    response = await journey.client.get("/users/me", headers=headers)

    assert_problem(response, 401, "unauthenticated")
    assert token not in response.text
    assert await _users(journey) == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_scheme_is_read_in_any_case(journey: Journey, scheme: str) -> None:
    token = journey.sandbox.clerk.session_token(SUBJECT)

    response = await journey.client.get("/users/me", headers={"Authorization": f"{scheme} {token}"})

    assert response.status_code == 200, response.text


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf", "sub", "sid", "iss", "azp"])
async def test_token_without_a_required_claim_is_refused(journey: Journey, claim: str) -> None:
    overrides: dict[str, Any] = {claim: None}

    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT, **overrides))

    assert_problem(response, 401, "unauthenticated")
    assert await _users(journey) == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {"iss": "https://clerk.example"},
        {"iss": ["http://sandbox.test/clerk"]},
        {"azp": "https://evil.example"},
        {"azp": ["http://localhost:3000"]},
        {"azp": ""},
        {"aud": "anything"},
        {"sub": ""},
        {"sub": 7},
        {"sid": ""},
        {"sid": 7},
        {"exp": "soon"},
        {"nbf": 9_999_999_999},
        {"iat": 9_999_999_999},
        {"exp": 0},
        {"exp": -1},
        {"header": {"kid": None}},
        {"header": {"kid": 7}},
        {"header": {"kid": "ins_unknown"}},
        {"header": {"crit": ["exp"]}},
        {"header": {"alg": "HS256"}},
        {"header": {"alg": "none"}},
        {"key": OTHER_KEY},
        {"algorithm": "none"},
        {"algorithm": "RS512"},
        {"algorithm": "HS256", "key": "public"},
    ],
)
async def test_token_with_a_wrong_claim_header_or_signature_is_refused(
    journey: Journey, overrides: dict[str, Any]
) -> None:
    clerk = journey.sandbox.clerk
    if overrides.get("key") == "public":
        # The classic confusion: the public key, which everybody has, used as an HMAC secret.
        overrides = overrides | {"key": clerk.public_key_pem.encode()}

    response = await _knock(journey, clerk.session_token(SUBJECT, **overrides))

    assert_problem(response, 401, "unauthenticated")
    assert await _users(journey) == 0


@pytest.mark.parametrize(
    "sub", ["me", "7", "User_x", "user_" + "x" * 59, "user_\u00e9", "usr_ours", "user_a b", "user_"]
)
async def test_subject_that_cannot_be_an_upstream_id_is_refused(journey: Journey, sub: str) -> None:
    response = await _knock(journey, journey.sandbox.clerk.session_token(sub))

    assert_problem(response, 401, "unauthenticated")
    assert await _users(journey) == 0


async def test_session_with_an_open_task_is_pending(journey: Journey) -> None:
    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT, sts="pending"))

    assert_problem(response, 403, "session_pending")
    assert await _users(journey) == 0


@pytest.mark.parametrize(("expired_for", "status"), [(4, 200), (6, 401)])
async def test_leeway_is_five_seconds(journey: Journey, expired_for: int, status: int) -> None:
    now = await _early_in_a_second()

    expired = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT, exp=now - expired_for))
    early = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT, nbf=now + expired_for, iat=now))

    assert expired.status_code == status, expired.text
    assert early.status_code == status, early.text


async def test_token_in_base64url_that_is_not_canonical_is_refused(journey: Journey) -> None:
    token = journey.sandbox.clerk.session_token(SUBJECT)
    header, claims, signature = token.split(".")
    # 256 bytes of signature end in a character of which four bits are unused.
    loose = signature[:-1] + chr(ord(signature[-1]) + 1)
    spellings = [
        f"{header}.{claims}.{loose}",
        f"{header}.{claims}.{signature}==",
        f"{header}.{claims}.{signature}=",
        f"{header}.{claims}.{signature}\t",
        f"{header}.{claims}.{signature}.",
        f"{header}.{claims}",
        f"{header}..{signature}",
        f"{base64url(b'not json')}.{claims}.{signature}",
        f"{base64url(b'[]')}.{claims}.{signature}",
        f"{base64url(b'{}')}.{claims}.{signature}",
        f"{header}.{base64url(b'[]')}.{signature}",
    ]

    responses = [await _knock(journey, spelling) for spelling in spellings]

    assert (await _knock(journey, token)).status_code == 200
    for response in responses:
        assert_problem(response, 401, "unauthenticated")


async def test_first_visit_creates_the_user_with_everything_a_user_has(journey: Journey) -> None:
    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))

    assert response.status_code == 200, response.text
    assert response.json()["id"] == SUBJECT
    assert response.json()["email"] is None
    user = await only_row(journey, "SELECT * FROM users")
    identity = await only_row(journey, "SELECT * FROM user_identities")
    preferences = await only_row(journey, "SELECT * FROM user_preferences")
    audit = await only_row(journey, "SELECT * FROM audit_logs")
    event = await only_row(journey, "SELECT * FROM outbox_events")
    assert (user["id"], user["status"], user["upstream_updated_at"]) == (SUBJECT, "active", None)
    assert (identity["issuer"], identity["subject"]) == (journey.sandbox.clerk.issuer, SUBJECT)
    assert identity["user_id"] == preferences["user_id"] == SUBJECT
    assert (preferences["overrides"], preferences["version"]) == ("{}", 1)
    assert (audit["action"], audit["target_type"], audit["target_id"]) == ("user.created", "user", SUBJECT)
    assert (audit["actor_kind"], audit["actor_id"]) == ("user", SUBJECT)
    assert audit["request_id"] == response.headers["x-request-id"]
    assert (event["event_type"], event["subject"], event["published_at"]) == ("user.created", SUBJECT, None)


async def test_first_visits_at_the_same_moment_create_one_user(journey: Journey) -> None:
    token = journey.sandbox.clerk.session_token(SUBJECT)

    responses = await asyncio.gather(*(_knock(journey, token) for _ in range(16)))

    assert [response.status_code for response in responses] == [200] * 16
    assert await _users(journey) == 1
    await only_row(journey, "SELECT * FROM audit_logs")


async def test_later_webhook_fills_the_profile_of_a_user_who_came_first(journey: Journey) -> None:
    await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))
    user = journey.sandbox.clerk.create_user(user_id=SUBJECT, email="visitor@example.com", first_name="Vera")
    await journey.webhook("user.created", user)

    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))

    assert (response.json()["email"], response.json()["first_name"]) == ("visitor@example.com", "Vera")
    assert await _users(journey) == 1


async def test_subject_that_another_issuer_holds_is_refused(journey: Journey) -> None:
    await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))
    await journey.owner.execute("UPDATE user_identities SET issuer = 'https://elsewhere.example'")
    journey.container.users.states.forget()

    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))

    assert_problem(response, 401, "unauthenticated")
    await only_row(journey, "SELECT * FROM user_identities")


async def test_subject_that_was_erased_is_not_created_again(journey: Journey) -> None:
    tombstone = journey.container.resources.signer.subject_tombstones(journey.sandbox.clerk.issuer, SUBJECT)[0]
    await journey.owner.execute("INSERT INTO erased_subjects VALUES ($1, now())", tombstone)

    response = await _knock(journey, journey.sandbox.clerk.session_token(SUBJECT))

    assert_problem(response, 401, "unauthenticated")
    assert await _users(journey) == 0


@pytest.mark.parametrize(
    "change",
    [
        "status = 'suspended'",
        "status = 'deactivated'",
        "status = 'pending_verification'",
        "deleted_at = now()",
    ],
)
async def test_user_who_may_not_act_is_inactive(journey: Journey, change: str) -> None:
    ada = await journey.sign_up()
    await journey.owner.execute(f"UPDATE users SET {change}")  # noqa: S608 - from the list above

    response = await journey.client.get("/users/me", headers=ada.headers)

    assert_problem(response, 403, "user_inactive")


async def test_person_behind_an_impersonated_session_is_recorded(journey: Journey) -> None:
    ada = await journey.sign_up()
    actor = {"iss": "https://dashboard.clerk.com", "sid": "sess_support", "sub": "user_support"}
    headers = journey.headers_of(ada.id, act=actor)

    response = await journey.client.patch("/users/me", headers=headers, json={"first_name": "Augusta"})

    assert response.status_code == 200, response.text
    row = await only_row(journey, "SELECT * FROM audit_logs WHERE action = 'user.updated'")
    assert (row["actor_kind"], row["actor_id"], row["impersonator"]) == ("user", ada.id, "user_support")


async def test_impersonated_session_is_audited_once_however_much_it_reads(journey: Journey) -> None:
    ada = await journey.sign_up()
    actor = {"iss": "https://dashboard.clerk.com", "sid": "sess_audited", "sub": "user_support"}

    for _ in range(3):
        await journey.client.get("/users/me", headers=journey.headers_of(ada.id, act=actor, sid="sess_audited"))

    row = await only_row(journey, "SELECT * FROM audit_logs WHERE action = 'user.impersonated'")
    assert (row["actor_id"], row["impersonator"], row["target_id"]) == (ada.id, "user_support", ada.id)
