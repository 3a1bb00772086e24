"""The contents of a token answer: the members of RFC 6749 section 5.1, the ID token and its claims."""

import hashlib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, Field

from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.grants import AccessToken
from services.sandbox.signing import SigningKey, base64url, sign_jws

ID_TOKEN_LIFETIME_SECONDS = 3600


class IssuedTokens(BaseModel):
    """A successful token answer before it is encoded. `expires_in` is in seconds, and `None` if the access token does
    not expire."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  the type's name
    expires_in: int | None
    scope: str
    """Scopes separated by spaces, spelt as the provider stores them."""
    refresh_token: str | None = None
    refresh_token_expires_in: int | None = None
    id_token: str | None = None
    also: Self | None = Field(default=None, exclude=True)
    """A second access token of the same consent, with its scopes and refresh token; `as_json` leaves it out."""

    def as_json(self) -> dict[str, Any]:
        """Return the members of the answer that are not `None`, without `also`."""
        return self.model_dump(exclude_none=True)


def account_claims(account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
    """Return the claims that the scopes give access to (OpenID Connect Core section 5.4)."""
    claims: dict[str, Any] = {"sub": account.id}
    if "email" in scopes:
        claims |= {"email": account.email, "email_verified": True}
    if "profile" in scopes:
        claims |= {"name": account.name, "picture": f"https://img.sandbox.example/{account.id}"}
    return claims


def sign_id_token(access_token: AccessToken, about: Mapping[str, Any], *, now: int, key: SigningKey) -> str:
    """Return the ID token that comes with an access token (OpenID Connect Core sections 2 and 3.1.3.6).

    `about` holds `iss`, the claims of the account and `nonce`; `now` is in Unix seconds.
    """
    digest = hashlib.sha256(access_token.value.encode()).digest()
    claims = {
        "aud": access_token.grant.client_id,
        "iat": now,
        "exp": now + ID_TOKEN_LIFETIME_SECONDS,
        "auth_time": access_token.grant.authenticated_at,
        "at_hash": base64url(digest[:16]),
        **about,
    }
    header = {"alg": "RS256", "kid": key.kid, "typ": "JWT"}
    return sign_jws(header, claims, key=key.private_key)
