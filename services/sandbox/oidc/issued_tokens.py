"""What a token answer carries: the members of RFC 6749 section 5.1, the id_token and its claims."""

import hashlib
from typing import Any

from pydantic import BaseModel

from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.grants import AccessToken
from services.sandbox.signing import SigningKey, base64url, sign_jws

ID_TOKEN_LIFETIME_SECONDS = 3600


class IssuedTokens(BaseModel):
    """A successful answer before it is JSON; `expires_in` in seconds."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  the type's name
    expires_in: int
    scope: str
    refresh_token: str | None = None
    id_token: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Without the tokens that were not issued."""
        return self.model_dump(exclude_none=True)


def account_claims(account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
    """The claims that the scopes open (OpenID Connect Core section 5.4)."""
    claims: dict[str, Any] = {"sub": account.id}
    if "email" in scopes:
        claims |= {"email": account.email, "email_verified": True}
    if "profile" in scopes:
        claims |= {"name": account.name, "picture": f"https://img.sandbox.example/{account.id}"}
    return claims


def sign_id_token(access_token: AccessToken, *, issuer: str, now: int, nonce: str | None, key: SigningKey) -> str:
    """The id_token beside an access token (OpenID Connect Core sections 2 and 3.1.3.6); `now` in Unix seconds."""
    digest = hashlib.sha256(access_token.value.encode()).digest()
    claims = {
        "iss": issuer,
        "aud": access_token.grant.client_id,
        "iat": now,
        "exp": now + ID_TOKEN_LIFETIME_SECONDS,
        "auth_time": access_token.grant.authenticated_at,
        "at_hash": base64url(digest[:16]),
        **({"nonce": nonce} if nonce else {}),
        **account_claims(access_token.grant.account, access_token.scopes),
    }
    header = {"alg": "RS256", "kid": key.kid, "typ": "JWT"}
    return sign_jws(header, claims, key=key.private_key)
