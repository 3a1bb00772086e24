"""Tests of the verification of ID tokens (OpenID Connect Core section 3.1.3.7): a valid one is accepted, each kind of
defect is refused, and keys are fetched once and count for their provider alone."""

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.sandbox.signing import sign_jws
from services.user_management.exceptions import RetryLaterError
from services.user_management.http_client import create_http_client
from services.user_management.security.id_token import (
    IdTokenError,
    IdTokenExpectation,
    IdTokenProblem,
    IdTokenVerifier,
)
from services.user_management.tests.clocks import NOW, SetClock
from services.user_management.tests.provider_scenes import (
    ACCESS_TOKEN,
    CLIENT_ID,
    GOOGLE_KEYS,
    NONCE,
    Edge,
    body,
    id_token,
    key_set,
)
from services.user_management.tests.session_tokens import ABSENT, KEY_ID

EXPECTED = IdTokenExpectation(
    jwks_uri=GOOGLE_KEYS,
    issuers=("https://accounts.google.com", "accounts.google.com"),
    client_id=CLIENT_ID,
    nonce=NONCE,
    access_token=ACCESS_TOKEN,
    received_at=SetClock().now(),
)
TENANT_ISSUERS = ("https://login.example.com/{tid}/v2.0",)


@pytest.fixture
def edge() -> Edge:
    edge = Edge()
    edge.answer(GOOGLE_KEYS, body(key_set()))
    return edge


@pytest.fixture
async def verifier(edge: Edge) -> AsyncIterator[IdTokenVerifier]:
    async with create_http_client(httpx.MockTransport(edge.handle)) as http:
        yield IdTokenVerifier(http, SetClock())


def half_hash(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()


async def problem(verifier: IdTokenVerifier, token: str, expected: IdTokenExpectation = EXPECTED) -> IdTokenProblem:
    with pytest.raises(IdTokenError) as caught:
        await verifier.verify(token, expected)
    return caught.value.problem


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"iss": "accounts.google.com"},
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID},
        {"azp": CLIENT_ID},
        {"at_hash": half_hash(ACCESS_TOKEN)},
        {"iat": NOW + 119},
        {"exp": NOW - 119},
        {"something_new": {"a": 1}},
    ],
)
async def test_token_that_is_right_tells_the_subject(verifier: IdTokenVerifier, claims: dict[str, Any]) -> None:
    verified = await verifier.verify(id_token(**claims), EXPECTED)

    assert (verified.subject, verified.claims["email"]) == ("118", "ada@example.com")


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"iss": "https://accounts.google.com/"}, IdTokenProblem.ISSUER),
        ({"iss": "https://evil.example"}, IdTokenProblem.ISSUER),
        ({"iss": ABSENT}, IdTokenProblem.ISSUER),
        ({"iss": ["https://accounts.google.com"]}, IdTokenProblem.ISSUER),
        ({"aud": "another"}, IdTokenProblem.AUDIENCE),
        ({"aud": ABSENT}, IdTokenProblem.AUDIENCE),
        ({"aud": []}, IdTokenProblem.AUDIENCE),
        ({"aud": {CLIENT_ID: 1}}, IdTokenProblem.AUDIENCE),
        ({"aud": [CLIENT_ID, "another"]}, IdTokenProblem.PARTY),
        ({"azp": "another"}, IdTokenProblem.PARTY),
        ({"azp": [CLIENT_ID]}, IdTokenProblem.PARTY),
        ({"nonce": "nonce-2"}, IdTokenProblem.NONCE),
        ({"nonce": ABSENT}, IdTokenProblem.NONCE),
        ({"nonce": 7}, IdTokenProblem.NONCE),
        ({"nonce": "\ud800"}, IdTokenProblem.NONCE),
        ({"at_hash": half_hash("another")}, IdTokenProblem.ACCESS_TOKEN),
        ({"at_hash": 7}, IdTokenProblem.ACCESS_TOKEN),
        ({"at_hash": "\ud800"}, IdTokenProblem.ACCESS_TOKEN),
        ({"exp": NOW - 121}, IdTokenProblem.EXPIRED),
        ({"exp": ABSENT}, IdTokenProblem.CLAIMS),
        ({"exp": "tomorrow"}, IdTokenProblem.CLAIMS),
        ({"exp": True}, IdTokenProblem.CLAIMS),
        ({"iat": NOW + 121}, IdTokenProblem.FUTURE),
        ({"iat": ABSENT}, IdTokenProblem.CLAIMS),
        ({"iat": 1e300}, IdTokenProblem.CLAIMS),
        ({"sub": ABSENT}, IdTokenProblem.CLAIMS),
        ({"sub": ""}, IdTokenProblem.CLAIMS),
        ({"sub": "x" * 256}, IdTokenProblem.CLAIMS),
        ({"sub": 118}, IdTokenProblem.CLAIMS),
    ],
)
async def test_token_with_a_wrong_claim_is_refused(
    verifier: IdTokenVerifier, claims: dict[str, Any], expected: IdTokenProblem
) -> None:
    assert await problem(verifier, id_token(**claims)) is expected


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b.c",
        "a.b.c.d.e",
        id_token({"alg": "none"}),
        id_token({"alg": "HS256"}),
        id_token({"alg": "RS512"}),
        id_token({"kid": "unknown"}),
        id_token({"kid": ABSENT}),
        id_token({"typ": "at+jwt"}),
        id_token({"crit": ["exp"]}),
        id_token()[:-8] + "AAAAAAAA",
        id_token() + "=",
        sign_jws({"alg": "RS256", "kid": KEY_ID}, {"sub": "118"}, key=rsa.generate_private_key(65537, 2048)),
        "\u00e9.\u00e9.\u00e9",
        "x" * 10_000,
    ],
)
async def test_token_that_the_provider_has_not_signed_is_refused(verifier: IdTokenVerifier, token: str) -> None:
    assert await problem(verifier, token) is IdTokenProblem.SIGNATURE


async def test_token_with_a_nonce_that_nobody_sent_is_refused(verifier: IdTokenVerifier) -> None:
    none_sent = replace(EXPECTED, nonce=None)

    assert await problem(verifier, id_token(), none_sent) is IdTokenProblem.NONCE
    assert (await verifier.verify(id_token(nonce=ABSENT), none_sent)).subject == "118"


@pytest.mark.parametrize(
    ("claims", "is_right"),
    [
        ({"iss": "https://login.example.com/t-1/v2.0", "tid": "t-1"}, True),
        ({"iss": "https://login.example.com/t-2/v2.0", "tid": "t-1"}, False),
        ({"iss": "https://login.example.com/{tid}/v2.0"}, False),
        ({"iss": "https://login.example.com/{tid}/v2.0", "tid": "{tid}"}, False),
        ({"iss": "https://login.example.com/a/../b/v2.0", "tid": "a/../b"}, False),
        ({"iss": "https://login.example.com//v2.0", "tid": ""}, False),
    ],
)
async def test_issuer_may_name_the_tenant_of_the_token_itself(
    verifier: IdTokenVerifier, claims: dict[str, Any], *, is_right: bool
) -> None:
    expected = replace(EXPECTED, issuers=TENANT_ISSUERS)

    if is_right:
        assert (await verifier.verify(id_token(**claims), expected)).subject == "118"
    else:
        assert await problem(verifier, id_token(**claims), expected) is IdTokenProblem.ISSUER


@pytest.mark.parametrize("skew", [-90, 0, 90])
async def test_clock_of_the_provider_is_measured(verifier: IdTokenVerifier, skew: int) -> None:
    verified = await verifier.verify(id_token(iat=NOW + skew, exp=NOW + 3600), EXPECTED)

    assert verified.clock_skew_seconds == skew


async def test_keys_are_fetched_once_for_many_tokens(verifier: IdTokenVerifier, edge: Edge) -> None:
    for _ in range(3):
        await verifier.verify(id_token(), EXPECTED)

    assert edge.calls(GOOGLE_KEYS) == 1


async def test_keys_of_one_provider_do_not_vouch_for_another(verifier: IdTokenVerifier, edge: Edge) -> None:
    edge.answer("https://other.example/keys", body({"keys": []}))
    await verifier.verify(id_token(), EXPECTED)

    with pytest.raises(RetryLaterError):
        await verifier.verify(id_token(), replace(EXPECTED, jwks_uri="https://other.example/keys"))


async def test_keys_that_cannot_be_had_are_nobodys_fault(verifier: IdTokenVerifier, edge: Edge) -> None:
    edge.answer(GOOGLE_KEYS, httpx.Response(503))

    with pytest.raises(RetryLaterError):
        await verifier.verify(id_token(), EXPECTED)
