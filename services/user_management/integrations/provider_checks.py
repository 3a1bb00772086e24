"""Checks the keys of a provider file against each other: finds keys that are valid by themselves but contradict others,
keys that are missing although others need them, and authorization parameters that only we may set."""

from collections.abc import Iterator
from typing import Final

from services.user_management.integrations.provider_config import ProviderConfig
from services.user_management.integrations.provider_file import Location
from services.user_management.integrations.provider_sections import PLACEHOLDER

_OURS: Final = {
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "code_challenge",
    "code_challenge_method",
    "nonce",
}
"""Parameters of the authorization request that protect it; a file must not replace them."""
_DISCOVERED: Final = ("authorization_endpoint", "token_endpoint")


def contradictions(config: ProviderConfig) -> Iterator[tuple[Location, str]]:
    """Yield (location, message) for every key that contradicts another, that is missing although another key needs it,
    or that sets an authorization parameter of our own."""
    yield from _endpoints(config)
    yield from _placeholders(config)
    for table in ("authorization_parameters", "consent_parameters"):
        for name in sorted(_OURS & set(getattr(config, table))):
            yield (table, name), "is set by the service"
    if config.userinfo is not None and config.account is not None:
        yield ("userinfo",), "says the same as [account]; keep one of them"
    if config.revocation_note is not None and (config.revocation or config.revocation_endpoint):
        yield ("revocation_note",), "says why nothing can be revoked, but there is a way given"
    if config.revocation is not None and config.revocation_endpoint is not None:
        yield ("revocation_endpoint",), "says the same as revocation.endpoint; keep one of them"


def _endpoints(config: ProviderConfig) -> Iterator[tuple[Location, str]]:
    if config.discovery:
        return
    for name in _DISCOVERED:
        if getattr(config, name) is None:
            yield (name,), "Field required, unless discovery = true"
    if config.userinfo_endpoint is None and config.account_mapping.source == "userinfo":
        yield ("userinfo_endpoint",), "Field required, unless discovery = true or account.source = id_token"
    if config.needs_id_token and config.jwks_uri is None:
        yield ("jwks_uri",), "Field required to verify ID tokens, unless discovery = true"


def _placeholders(config: ProviderConfig) -> Iterator[tuple[Location, str]]:
    known = {"client_id", *config.parameters}
    for url in config.urls():
        for name in sorted({match[1] for match in PLACEHOLDER.finditer(url)} - known):
            yield ("parameters", name), f"has no value, and {url} needs one"
