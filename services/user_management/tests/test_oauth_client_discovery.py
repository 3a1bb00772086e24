"""Tests of a provider that publishes its endpoints (OpenID Connect Discovery): when they are fetched, and which answers
are accepted."""

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.user_management.enums import ProviderErrorKind, RefreshKind
from services.user_management.integrations.oauth_client import RevocationOutcome
from services.user_management.integrations.oauth_config import Provider, ProviderConfig
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.provider_scenes import (
    CLIENT_ID,
    Edge,
    body,
    client,
    grant,
    id_token,
    key_set,
)
from services.user_management.tests.session_tokens import ABSENT

ISSUER = "https://login.acme.example/realm"
DOCUMENT_URL = f"{ISSUER}/.well-known/openid-configuration"
DOCUMENT: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize?kind=web",
    "token_endpoint": f"{ISSUER}/token",
    "userinfo_endpoint": f"{ISSUER}/userinfo",
    "jwks_uri": f"{ISSUER}/keys",
    "revocation_endpoint": f"{ISSUER}/revoke",
}

ALGORITHMS = "id_token_signing_alg_values_supported"


def acme(**keys: Any) -> Provider:
    """Return a provider whose endpoints are discovered; `keys` are added to those of its file, or replace them."""
    members = {"name": "acme", "display_name": "Acme", "issuer": ISSUER, "discovery": True} | keys
    config = ProviderConfig.model_validate({"refresh": RefreshKind.OVERLAP, **members})
    return Provider(config, CLIENT_ID, SecretStr("secret-1"))


def edge_with(document: object, status: int = 200) -> Edge:
    edge = Edge()
    edge.answer(DOCUMENT_URL, body(document, status))
    edge.answer(f"{ISSUER}/token", body({"access_token": "a"}))
    return edge


async def failure(edge: Edge, provider: Provider) -> ProviderCallError:
    with pytest.raises(ProviderCallError) as caught:
        await client(edge).refresh(provider, refresh_token="r")
    return caught.value


async def test_six_lines_are_enough_for_the_whole_protocol() -> None:
    edge = edge_with(DOCUMENT)
    edge.answer(f"{ISSUER}/userinfo", body({"sub": "118", "email": "ada@example.com"}))
    edge.answer(f"{ISSUER}/keys", body(key_set()))
    edge.answer(f"{ISSUER}/revoke", httpx.Response(200))
    oauth = client(edge)

    url = await oauth.authorization_url(
        acme(), redirect_uri="u", state="s", scopes=("openid",), code_challenge=None, login_hint=None
    )
    token = id_token(iss=ISSUER, nonce=ABSENT)
    account = await oauth.fetch_account(acme(), grant(token=token))
    outcome = await oauth.revoke(acme(), token="t")

    assert url.startswith(f"{ISSUER}/authorize?kind=web&response_type=code")
    assert (account.id, account.clock_skew_seconds) == ("118", 0)
    assert outcome is RevocationOutcome.REVOKED
    assert edge.calls(DOCUMENT_URL) == 1


async def test_document_is_fetched_once_for_many_callers_at_once() -> None:
    edge = edge_with(DOCUMENT)
    oauth = client(edge)

    await asyncio.gather(*(oauth.refresh(acme(), refresh_token="r") for _ in range(20)))

    assert edge.calls(DOCUMENT_URL) == 1


async def test_document_is_renewed_after_a_day_and_serves_on_while_it_cannot_be() -> None:
    edge, clock = edge_with(DOCUMENT), SetClock()
    oauth = client(edge, clock)
    await oauth.refresh(acme(), refresh_token="r")
    asked_again = asyncio.Event()

    def down(_request: httpx.Request) -> httpx.Response:
        asked_again.set()
        return httpx.Response(503)

    edge.answer(DOCUMENT_URL, down)

    clock.seconds += 86_399
    await oauth.refresh(acme(), refresh_token="r")
    within_a_day = edge.calls(DOCUMENT_URL)
    clock.seconds += 2
    await oauth.refresh(acme(), refresh_token="r")
    await asyncio.wait_for(asked_again.wait(), 5)
    await oauth.refresh(acme(), refresh_token="r")

    assert (within_a_day, edge.calls(DOCUMENT_URL)) == (1, 2)


async def test_document_that_could_not_be_had_is_asked_for_again_after_half_a_minute() -> None:
    edge, clock = edge_with({}, 503), SetClock()
    oauth = client(edge, clock)

    for _ in range(3):
        with pytest.raises(ProviderCallError):
            await oauth.refresh(acme(), refresh_token="r")
    asked_while_down = edge.calls(DOCUMENT_URL)
    edge.answer(DOCUMENT_URL, body(DOCUMENT))
    clock.seconds += 31
    await oauth.refresh(acme(), refresh_token="r")

    assert asked_while_down == 1


@pytest.mark.parametrize(
    "reply",
    [httpx.Response(503), httpx.Response(200, content=b"<html>"), body([]), httpx.ConnectError("x"), body({}, 404)],
)
async def test_document_that_cannot_be_had_is_transient(reply: httpx.Response | Exception) -> None:
    edge = Edge()
    edge.answer(DOCUMENT_URL, reply)

    error = await failure(edge, acme())

    assert (error.kind, error.code, error.outcome_unknown) == (ProviderErrorKind.TRANSIENT, "discovery_failed", False)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"issuer": "https://login.acme.example"}, "issuer"),
        ({"issuer": f"{ISSUER}/"}, "issuer"),
        ({"issuer": None}, "issuer"),
        ({"token_endpoint": "http://login.acme.example/token"}, "token_endpoint"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "authorization_endpoint"),
        ({"userinfo_endpoint": ["https://login.acme.example"]}, "userinfo_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"revocation_endpoint": 7}, "revocation_endpoint"),
        ({"jwks_uri": f"{ISSUER}/keys\u0007"}, "jwks_uri"),
        ({"userinfo_endpoint": "https://xn--/userinfo"}, "userinfo_endpoint"),
        ({"token_endpoint": "https://192.0.2.1:99999/token"}, "token_endpoint"),
        ({"token_endpoint": "https:///token"}, "token_endpoint"),
        ({ALGORITHMS: ["ES256", "PS256"]}, ALGORITHMS),
        ({ALGORITHMS: []}, ALGORITHMS),
        ({ALGORITHMS: "RS256"}, ALGORITHMS),
    ],
)
async def test_document_that_cannot_be_believed_is_the_operators_affair(change: dict[str, Any], detail: str) -> None:
    edge = edge_with(DOCUMENT | change)

    error = await failure(edge, acme())

    assert (error.kind, error.code) == (ProviderErrorKind.OPERATOR, "discovery_document_refused")
    assert (error.detail, edge.calls(f"{ISSUER}/token")) == (detail, 0)


async def test_document_with_other_signatures_stops_the_connect_before_the_consent() -> None:
    edge = edge_with(DOCUMENT | {ALGORITHMS: ["ES256"]})

    with capture_logs() as logs, pytest.raises(ProviderCallError) as caught:
        await client(edge).authorization_url(
            acme(), redirect_uri="u", state="s", scopes=("openid",), code_challenge=None, login_hint=None
        )

    assert (caught.value.kind, caught.value.detail) == (ProviderErrorKind.OPERATOR, ALGORITHMS)
    assert (logs[-1]["event"], logs[-1]["reason"]) == ("discovery.document_refused", ALGORITHMS)


async def test_document_with_other_signatures_is_refused_also_where_the_file_has_the_keys() -> None:
    edge = edge_with(DOCUMENT | {"jwks_uri": None, ALGORITHMS: ["ES256"]})

    error = await failure(edge, acme(jwks_uri=f"{ISSUER}/keys"))

    assert (error.code, error.detail) == ("discovery_document_refused", ALGORITHMS)


@pytest.mark.parametrize("change", [{ALGORITHMS: ["ES256", "RS256"]}, {ALGORITHMS: ["ES256"], "jwks_uri": None}])
async def test_document_whose_id_tokens_can_be_verified_or_are_not_is_believed(change: dict[str, Any]) -> None:
    edge = edge_with(DOCUMENT | change)

    await client(edge).refresh(acme(), refresh_token="r")

    assert edge.calls(f"{ISSUER}/token") == 1


async def test_key_of_the_file_goes_before_the_document() -> None:
    edge = edge_with(DOCUMENT | {"token_endpoint": None})
    edge.answer("https://tokens.acme.example/", body({"access_token": "a"}))

    await client(edge).refresh(acme(token_endpoint="https://tokens.acme.example/"), refresh_token="r")

    assert edge.calls("https://tokens.acme.example/") == 1


async def test_provider_that_publishes_no_revocation_has_none() -> None:
    edge = edge_with(DOCUMENT | {"revocation_endpoint": None})

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).revoke(acme(), token="t")

    assert caught.value.code == "revocation_impossible"


@pytest.mark.parametrize(
    ("file", "document", "expected"),
    [
        ({}, {"authorization_response_iss_parameter_supported": True}, True),
        ({}, {"authorization_response_iss_parameter_supported": False}, False),
        ({}, {"authorization_response_iss_parameter_supported": "false"}, False),
        ({}, {}, False),
        ({"answers_iss": True}, {"authorization_response_iss_parameter_supported": False}, True),
    ],
)
async def test_file_or_document_promises_the_issuer_in_the_answer(
    file: dict[str, Any], document: dict[str, Any], *, expected: bool
) -> None:
    edge = edge_with(DOCUMENT | document)

    assert await client(edge).answers_iss(acme(**file)) is expected


async def test_document_that_cannot_be_had_promises_no_issuer() -> None:
    edge = edge_with({}, 503)

    with capture_logs() as logs:
        promised = await client(edge).answers_iss(acme())

    assert promised is False
    assert logs[-1]["event"] == "discovery.issuer_unchecked"


async def test_issuer_without_https_may_have_such_endpoints() -> None:
    issuer = ISSUER.replace("https", "http")
    edge = Edge()
    document = {name: url.replace("https", "http") for name, url in DOCUMENT.items()}
    edge.answer(f"{issuer}/.well-known/openid-configuration", body(document))
    edge.answer(f"{issuer}/token", body({"access_token": "a"}))

    await client(edge).refresh(acme(issuer=issuer), refresh_token="r")

    assert edge.calls(f"{issuer}/token") == 1
