"""The group of services that verify session tokens: that the issuer (Clerk) signed them, and that they are valid."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.http_client import fetch_json
from services.user_management.security.jwks import PinnedKey, RemoteKeySet, RenewedKeys
from services.user_management.security.jwt import SessionVerifier


@dataclass(frozen=True, kw_only=True)
class IdentityServices:
    """`sessions` verifies session tokens; `signing_keys` holds the issuer's public keys."""

    signing_keys: RenewedKeys
    sessions: SessionVerifier


def build_identity(resources: Resources) -> IdentityServices:
    """Build the services that verify session tokens. The issuer's keys come from the settings, or are fetched when a
    token first needs one. Raises StartupError if the key in the settings cannot be used."""
    clerk = resources.settings.clerk
    signing_keys = _signing_keys(resources)
    sessions = SessionVerifier(
        signing_keys,
        issuer=clerk.issuer,
        authorized_parties=clerk.authorized_parties,
        clock=resources.clock,
        allow_missing_azp=clerk.allow_missing_azp,
    )
    return IdentityServices(signing_keys=signing_keys, sessions=sessions)


def _signing_keys(resources: Resources) -> RenewedKeys:
    clerk = resources.settings.clerk
    if clerk.jwt_key is not None:
        return PinnedKey(clerk.jwt_key)
    return RemoteKeySet(lambda: fetch_json(resources.issuer_http, clerk.keys_url), resources.clock)
