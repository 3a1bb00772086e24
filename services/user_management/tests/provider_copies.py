"""Helpers for tests of the built-in providers, whose files are copied with the sandbox's addresses."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from services.devstack.provider_copies import copy_provider_files
from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.integrations.oauth_config import Registration, load_providers


def copy_providers(folder: Path, sandbox_url: str) -> list[str]:
    """Write copies of the built-in provider files (`google.toml` and the others) with the sandbox's addresses into
    `folder`; return the providers' names."""
    return copy_provider_files(folder, sandbox_url)


@contextmanager
def imitated(container: Container, sandbox: Sandbox, folder: Path) -> Iterator[None]:
    """Within the block, offer the built-in providers as well. Their imitations begin without any consent.

    GitHub's and Slack's access tokens expire, and each refresh uses up its refresh token.
    """
    names = copy_providers(folder, sandbox.base_url)
    read = load_providers([folder], dict.fromkeys(names, Registration(CLIENT_ID, SecretStr(CLIENT_SECRET))))
    for imitation in sandbox.imitations.values():
        imitation.forget()
    for name, setting in (("github", "expiring_tokens"), ("slack", "token_rotation")):
        imitation = sandbox.imitations[name]
        imitation.settings = imitation.settings.model_copy(update={setting: True})
    providers = container.resources.providers._providers
    former = dict(providers)
    providers.update({name: read.get(name) for name in names})
    try:
        yield
    finally:
        providers.clear()
        providers.update(former)


def living_tokens(provider: Provider, account: str = "ada@example.com") -> int:
    """Count the access tokens and the refresh tokens of the account that the provider would still accept."""
    now = time.monotonic()
    grants = [grant for grant in provider.grants(account) if grant.alive]
    access = [token for grant in grants for token in grant.access_tokens if not token.revoked]
    refresh = [token for grant in grants for token in grant.refresh_tokens if token.alive]
    return sum(token.expires_at > now for token in access) + len(refresh)
