"""Tests of the Python client for sibling services (`services/auth_client`), against this service."""

from collections.abc import Callable
from functools import partial

import pytest

from services.auth_client import (
    AsyncTokenClient,
    ClientOptions,
    NotAllowedError,
    ReconnectNeededError,
    Token,
    TokenError,
    TokenRequest,
    UserGoneError,
)
from services.user_management.tests.scenes import Connected, read_outcomes

NO_REUSE = ClientOptions(max_reuse_seconds=0)


MakeClient = Callable[..., AsyncTokenClient]


@pytest.fixture
def make_client(connected: Connected) -> MakeClient:
    """Return a function that makes clients of the application in this process, with the key of a service that may read
    Ada's tokens."""
    key = connected.key["Authorization"].removeprefix("Bearer ")
    http = connected.journey.client
    return partial(AsyncTokenClient, str(http.base_url), key, http=http)


async def test_client_gets_a_token_that_the_provider_accepts(connected: Connected, make_client: MakeClient) -> None:
    token = await make_client().get(connected.user_id, connected.provider, ["calendar.read"], reason="nightly sync")

    accepted = await connected.journey.userinfo(token.access_token)
    assert accepted.json()["email"] == "ada@example.com"
    assert token.integration_id == connected.integration_id
    assert 0 < (token.expires_in or 0) <= 3600
    assert "calendar.read" in token.scopes


async def test_client_that_reuses_is_recorded_once_and_one_that_does_not_sees_a_revocation_at_once(
    connected: Connected, make_client: MakeClient
) -> None:
    reusing, asking = make_client(), make_client(options=NO_REUSE)
    first = await reusing.get(connected.user_id, connected.provider)
    await connected.set("status", "revoked")

    again = await reusing.get(connected.user_id, connected.provider)
    with pytest.raises(ReconnectNeededError) as raised:
        await asking.get(connected.user_id, connected.provider)

    assert again.access_token == first.access_token
    assert raised.value.code == "revoked"
    assert (raised.value.reconnect_url or "").startswith("http://localhost:3000/connect/sandbox-static")
    assert await read_outcomes(connected.journey) == ["granted", "revoked"]


async def test_client_tells_refusals_apart(connected: Connected, make_client: MakeClient) -> None:
    client = make_client()

    with pytest.raises(UserGoneError):
        await client.get("user_nobody", connected.provider)
    with pytest.raises(ReconnectNeededError) as missing:
        await client.get(connected.user_id, connected.provider, ["mail.read"])
    with pytest.raises(NotAllowedError) as denied:
        await client.get(connected.user_id, "sandbox-strict")
    with pytest.raises(TokenError, match=r"body\.provider"):
        await client.get(connected.user_id, "No Such")

    assert missing.value.missing_scopes == ("mail.read",)
    assert denied.value.code == "grant_denied"
    assert denied.value.request_id


async def test_client_gets_many_at_once_and_each_refusal_for_itself(
    connected: Connected, make_client: MakeClient
) -> None:
    asked = [TokenRequest(user, connected.provider) for user in ("user_nobody", connected.user_id)]

    nobody, token = await make_client().get_many(asked)

    assert isinstance(nobody, UserGoneError)
    assert isinstance(token, Token)
    assert token.integration_id == connected.integration_id
    assert sorted(await read_outcomes(connected.journey)) == ["granted", "user_not_found"]


async def test_client_has_a_token_replaced_that_the_provider_refuses(
    connected: Connected, make_client: MakeClient
) -> None:
    client = make_client()
    await connected.journey.age_tokens(seconds_left=1800)
    rejected = await client.get(connected.user_id, connected.provider)

    renewed = await client.refresh(connected.user_id, connected.provider, rejected=rejected)
    again = await client.refresh(connected.user_id, connected.provider, rejected=rejected)

    assert renewed.refreshed
    assert renewed.access_token == again.access_token != rejected.access_token
    assert connected.calls() == 1
