"""Session tokens and signing keys of the sandbox's Clerk, checked with PyJWT, an independent implementation."""

import time
from typing import Any

import httpx
import jwt
import pytest

from services.sandbox.state import Sandbox

USER_ID = "user_2abcdefghijklmnopqrstuvwxyz"


async def _verify(client: httpx.AsyncClient, token: str) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict((await client.get("/clerk/.well-known/jwks.json")).json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], issuer="http://sandbox/clerk")
    return claims


async def test_session_token_by_default_verifies_with_version_2_claims(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    token = sandbox.clerk.session_token(USER_ID)

    claims = await _verify(client, token)

    assert claims.keys() == {"azp", "exp", "fva", "iat", "iss", "jti", "nbf", "sid", "sts", "sub", "v"}
    assert (claims["sub"], claims["azp"], claims["v"]) == (USER_ID, "http://localhost:3000", 2)
    assert (claims["exp"] - claims["iat"], claims["iat"] - claims["nbf"]) == (60, 10)
    assert jwt.get_unverified_header(token).keys() == {"alg", "kid", "typ"}


async def test_session_token_over_http_takes_overrides(client: httpx.AsyncClient) -> None:
    overrides = {"sts": "pending", "azp": None, "act": {"sub": "user_support"}}

    response = await client.post("/clerk/_control/session-tokens", json={"user_id": USER_ID, "overrides": overrides})

    claims = await _verify(client, response.json()["token"])
    assert (claims["sts"], claims["act"]) == ("pending", {"sub": "user_support"})
    assert "azp" not in claims


async def test_session_token_issued_a_minute_ago_has_expired(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    token = sandbox.clerk.session_token(USER_ID, issued_at=int(time.time()) - 61)

    with pytest.raises(jwt.ExpiredSignatureError):
        await _verify(client, token)


async def test_session_token_signed_with_foreign_key_fails_verification(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    foreign_key = sandbox.providers["strict"].signing_key.private_key

    token = sandbox.clerk.session_token(USER_ID, key=foreign_key)

    with pytest.raises(jwt.InvalidSignatureError):
        await _verify(client, token)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_session_token_with_other_algorithm_names_it_in_the_header(sandbox: Sandbox, algorithm: str) -> None:
    token = sandbox.clerk.session_token(USER_ID, algorithm=algorithm, key=sandbox.clerk.public_key_pem)

    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert token.endswith(".") == (algorithm == "none")


def test_session_token_header_overrides_merge_and_remove(sandbox: Sandbox) -> None:
    token = sandbox.clerk.session_token(USER_ID, header={"kid": None, "typ": "at+jwt"})

    assert jwt.get_unverified_header(token) == {"alg": "RS256", "typ": "at+jwt"}


async def test_session_token_with_unknown_algorithm_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/clerk/_control/session-tokens", json={"user_id": USER_ID, "overrides": {"algorithm": "XX1"}}
    )

    assert response.status_code == 422


def test_public_key_pem_verifies_the_token(sandbox: Sandbox) -> None:
    token = sandbox.clerk.session_token(USER_ID)

    assert jwt.decode(token, sandbox.clerk.public_key_pem, algorithms=["RS256"])["sub"] == USER_ID


@pytest.mark.parametrize(("keep_old", "published"), [(True, 2), (False, 1)])
async def test_rotate_key_publishes_the_new_key_and_maybe_the_old(
    sandbox: Sandbox, client: httpx.AsyncClient, *, keep_old: bool, published: int
) -> None:
    old_kid = sandbox.clerk.signing_key.kid

    new_kid = (await client.post("/clerk/_control/rotate-key", json={"keep_old": keep_old})).json()["kid"]

    kids = [key["kid"] for key in sandbox.clerk.jwks()["keys"]]
    assert (new_kid in kids, old_kid in kids, len(kids)) == (True, keep_old, published)
    assert (await _verify(client, sandbox.clerk.session_token(USER_ID)))["sub"] == USER_ID
