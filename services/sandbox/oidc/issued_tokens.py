"""What a token answer carries: the members of RFC 6749 section 5.1, the id_token and its claims."""

import hashlib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, Field

from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.grants import AccessToken
from services.sandbox.signing import SigningKey, base64url, sign_jws

ID_TOKEN_LIFETIME_SECONDS = 3600


class IssuedTokens(BaseModel):
    """A successful answer before it is JSON; `expires_in` in seconds."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  the type's name
    expires_in: int | None
    scope: str
    """Separated by spaces, spelt as the provider remembers them."""
    refresh_token: str | None = None
    refresh_token_expires_in: int | None = None
    id_token: str | None = None
    also: Self | None = Field(default=None, exclude=True)
    """Tokens of a second access token of the same consent."""

    def as_json(self) -> dict[str, Any]:
        """Return the members of the answer, without the tokens that were not issued."""
        return self.model_dump(exclude_none=True)


def account_claims(account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
    """The claims that the scopes open (OpenID Connect Core section 5.4)."""
    claims: dict[str, Any] = {"sub": account.id}
    if "email" in scopes:
        claims |= {"email": account.email, "email_verified": True}
    if "profile" in scopes:
        claims |= {"name": account.name, "picture": f"https://img.sandbox.example/{account.id}"}
    return claims


def sign_id_token(access_token: AccessToken, about: Mapping[str, Any], *, now: int, key: SigningKey) -> str:
    """The id_token beside an access token (OpenID Connect Core sections 2 and 3.1.3.6).

    `about` are `iss`, the claims of the account and `nonce`; `now` is in Unix seconds.
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
