"""Signs session tokens in Clerk's form with a key of the benchmark's own.

The service is given the public half in its settings, so nothing is fetched over the network.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from benchmarks.deployment import AUTHORIZED_PARTY, ISSUER
from services.sandbox.clerk.session_tokens import build_session_token
from services.sandbox.signing import SigningKey, signing_key

_LIFETIME_SECONDS: Final = 86_400
"""Lifetime of a session token: longer than any run. Clerk's live for a minute, but verifying one costs the same."""


@dataclass(frozen=True, slots=True)
class SessionIssuer:
    """Signs session tokens for any user of a deployment."""

    key: SigningKey

    @classmethod
    def generate(cls) -> Self:
        """Make an issuer with a new key."""
        return cls(signing_key("benchmark", 1, kid_prefix="ins_"))

    @property
    def environment(self) -> dict[str, str]:
        """The environment variable that makes the service accept the tokens."""
        return {"CLERK_JWT_KEY": self.key.public_key_pem}

    def authorizations(self, user_ids: Iterable[str]) -> list[str]:
        """Return a value of the Authorization header for each user."""
        expires = {"exp": int(time.time()) + _LIFETIME_SECONDS}
        return [f"Bearer {self._token(user_id, expires)}" for user_id in user_ids]

    def _token(self, user_id: str, overrides: dict[str, int]) -> str:
        return build_session_token(
            user_id, signing_key=self.key, issuer=ISSUER, authorized_party=AUTHORIZED_PARTY, overrides=overrides
        )
