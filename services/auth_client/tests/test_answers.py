"""The requests that both token clients send, and the tokens and errors that callers get from the answers; no secret is
in a log, a repr or an error."""

import logging
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from services.auth_client import (
    MisconfiguredError,
    NotAllowedError,
    ReconnectNeededError,
    TokenError,
    TokenRequest,
    TryLaterError,
    UserGoneError,
)
from services.auth_client.tests.conftest import EitherClient
from services.auth_client.tests.service_stand_in import (
    KEY,
    TOKEN_TEXT,
    Reply,
    ServiceStandIn,
    problem_document,
    token_document,
)

REFUSALS: dict[str, tuple[int, type[TokenError]]] = {
    "unauthenticated": (401, NotAllowedError),
    "grant_denied": (403, NotAllowedError),
    "reason_required": (422, NotAllowedError),
    "user_not_found": (404, UserGoneError),
    "user_inactive": (403, UserGoneError),
    "not_connected": (404, ReconnectNeededError),
    "insufficient_scope": (403, ReconnectNeededError),
    "needs_reauth": (409, ReconnectNeededError),
    "revoked": (409, ReconnectNeededError),
    "unknown_provider": (404, MisconfiguredError),
    "provider_misconfigured": (502, MisconfiguredError),
    "validation_failed": (422, MisconfiguredError),
    # Codes that this client has never heard of are judged by their status.
    "not_found": (404, MisconfiguredError),
    "invented_later": (403, NotAllowedError),
}
"""Refusals that no second attempt would change: HTTP status and exception, by code."""


async def test_get_sends_the_key_and_what_was_given_and_returns_the_token(
    client: EitherClient, service: ServiceStandIn
) -> None:
    token = await client.get(scopes=["email", "calendar.read"], reason="nightly sync", min_ttl_seconds=600)

    (request,) = service.received
    assert request.path == "/internal/tokens/get"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "user_id": "user_ada",
        "provider": "google",
        "scopes": ["calendar.read", "email"],
        "min_ttl_seconds": 600,
        "reason": "nightly sync",
    }
    assert token.authorization == f"Bearer {TOKEN_TEXT}"
    assert token.expires_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert 3590 <= (token.expires_in or 0) <= 3600
    assert token.scopes == ("calendar.read", "email")


async def test_token_without_an_end_has_none(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply(body=token_document(expires_at=None, expires_in=None))]

    token = await client.get()

    assert (token.expires_at, token.expires_in) == (None, None)


@pytest.mark.parametrize("code", REFUSALS)
async def test_refusal_is_typed_and_asked_for_once(client: EitherClient, service: ServiceStandIn, code: str) -> None:
    status, kind = REFUSALS[code]
    service.replies = [Reply.problem(code, status)]

    with pytest.raises(TokenError) as raised:
        await client.get()

    assert type(raised.value) is kind
    assert (raised.value.code, raised.value.status, raised.value.request_id) == (code, status, "req-1")
    assert str(raised.value) == f"{code}: about {code} (request req-1)"
    assert len(service.received) == 1


async def test_refusal_that_the_user_can_lift_says_where_and_why(client: EitherClient, service: ServiceStandIn) -> None:
    url = "https://app.example.com/connect/google"
    service.replies = [
        Reply.problem("insufficient_scope", 403, reconnect_url=url, missing_scopes=["mail.read"], reason="unticked")
    ]

    with pytest.raises(ReconnectNeededError) as raised:
        await client.get(scopes=["mail.read"])

    error = raised.value
    assert (error.reconnect_url, error.missing_scopes, error.reason) == (url, ("mail.read",), "unticked")


async def test_invalid_call_names_the_fields(client: EitherClient, service: ServiceStandIn) -> None:
    errors = [{"loc": ["body", "provider"], "msg": "not a name", "type": "value_error"}]
    service.replies = [Reply.problem("validation_failed", 422, details={"errors": errors})]

    with pytest.raises(MisconfiguredError, match=r"body\.provider: not a name"):
        await client.get(provider="No Such")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>welcome</html>"),
        (200, "[" * 100_000),
        (200, {}),
        (200, ["token"]),
        (200, token_document(access_token=None)),
        (200, token_document(expires_in="soon")),
        (200, token_document(expires_at="soon")),
        (200, token_document(scopes="email")),
        (302, ""),
        (404, "<html>no such page</html>"),
    ],
)
async def test_answer_of_something_else_is_a_misconfiguration(
    client: EitherClient, service: ServiceStandIn, status: int, body: Any
) -> None:
    service.replies = [Reply(status, body, {"Location": "/elsewhere"})]

    with pytest.raises(MisconfiguredError) as raised:
        await client.get()

    assert raised.value.code == "unexpected_answer"
    assert len(service.received) == 1


async def test_batch_answers_each_item_in_the_order_asked(client: EitherClient, service: ServiceStandIn) -> None:
    items = [
        {"token": token_document(access_token="token-a"), "problem": None},
        {"token": None, "problem": problem_document("needs_reauth", 409, reconnect_url="https://app.example.com/c")},
        {"token": None, "problem": None},
    ]
    service.replies = [Reply(body={"items": items})]
    asked = [TokenRequest(user, "google", reason="digest") for user in ("user_a", "user_b", "user_c", "user_a")]

    first, second, third, again = await client.get_many(asked)

    (request,) = service.received
    assert request.path == "/internal/tokens/batch-get"
    assert request.body == {
        "items": [{"user_id": f"user_{it}", "provider": "google", "reason": "digest"} for it in "abc"]
    }
    assert first == again
    assert not isinstance(first, TokenError)
    assert first.access_token == "token-a"
    assert isinstance(second, ReconnectNeededError)
    assert second.reconnect_url == "https://app.example.com/c"
    assert isinstance(third, MisconfiguredError)


async def test_batch_of_more_than_a_hundred_is_asked_for_in_parts(
    client: EitherClient, service: ServiceStandIn
) -> None:
    service.replies = [
        Reply(body={"items": [{"token": token_document(), "problem": None}] * 100}),
        Reply(body={"items": [{"token": token_document(account="last"), "problem": None}]}),
    ]

    tokens = await client.get_many([TokenRequest(f"user_{number}", "google") for number in range(101)])

    assert [len(request.body["items"]) for request in service.received] == [100, 1]
    assert [it.account for it in tokens if not isinstance(it, TokenError)] == ["1234"] * 100 + ["last"]


@pytest.mark.parametrize("reply", [Reply.problem("unauthenticated", 401), Reply(body={"items": []})])
async def test_batch_that_is_refused_whole_refuses_each_item(
    client: EitherClient, service: ServiceStandIn, reply: Reply
) -> None:
    service.replies = [reply]

    outcomes = await client.get_many([TokenRequest("user_a", "google"), TokenRequest("user_b", "google")])

    assert [type(it) for it in outcomes] == [NotAllowedError if reply.status == 401 else MisconfiguredError] * 2


async def test_batch_of_nothing_asks_nothing(client: EitherClient, service: ServiceStandIn) -> None:
    outcomes = await client.get_many([])

    assert outcomes == []
    assert service.received == []


async def test_secrets_are_in_no_log_no_repr_and_no_error(
    client: EitherClient, service: ServiceStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    service.replies = [Reply(), Reply.problem("revoked", 409), Reply(body=token_document(expires_in="soon"))]
    caplog.set_level(logging.DEBUG)
    for library in ("httpx", "httpcore"):  # the service's tests, which may have run in this process, quieten both
        caplog.set_level(logging.DEBUG, logger=library)

    token = await client.get()
    told = [repr(token), str(token), repr(client.client)]
    for reason in ("refused", "garbled"):
        with pytest.raises(TokenError) as raised:
            await client.get(reason=reason)
        told += [repr(raised.value), str(raised.value)]

    told.append(caplog.text)
    assert not [text for text in told if TOKEN_TEXT in text or KEY in text]
    assert "127.0.0.1" in caplog.text


async def test_error_survives_pickling(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply.problem("needs_reauth", 409, reconnect_url="https://app.example.com/c")]
    with pytest.raises(ReconnectNeededError) as raised:
        await client.get()

    copied = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own bytes

    assert isinstance(copied, ReconnectNeededError)
    assert (copied.problem, copied.reconnect_url) == (raised.value.problem, "https://app.example.com/c")


async def test_try_later_says_when(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply.problem("provider_unavailable", 503, headers={"Retry-After": "60"})]

    with pytest.raises(TryLaterError) as raised:
        await client.get()

    assert (raised.value.code, raised.value.retry_after) == ("provider_unavailable", 60)
