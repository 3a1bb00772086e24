"""Tests of the built-in provider files against the sandbox's imitations: an account is connected at each provider, and
its tokens refreshed and revoked, in that provider's own form of the protocol."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from services.devstack.provider_copies import copy_provider_files
from services.sandbox.app import create_app
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.sandbox.state import Sandbox
from services.user_management.core.clock import SystemClock
from services.user_management.enums import ProviderErrorKind
from services.user_management.http_client import create_http_client
from services.user_management.integrations.oauth_client import OAuthClient, RevocationOutcome, TokenAnswer
from services.user_management.integrations.oauth_config import Provider, Registration, load_providers
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.security.signing import pkce_challenge

SANDBOX_URL = "http://sandbox.test"
REDIRECT_URI = "http://testserver/oauth/callback/x"
VERIFIER = "v" * 64
NONCE = "nonce-1"
NAMES = ["google", "microsoft", "github", "slack"]


@dataclass
class World:
    """A user's browser, our OAuth client, and a folder for provider files that lead to the sandbox."""

    browser: httpx.AsyncClient
    oauth: OAuthClient
    folder: Path

    def provider(self, name: str) -> Provider:
        """Return the provider `name` of the built-in files, with the sandbox's addresses."""
        copy_provider_files(self.folder, SANDBOX_URL)
        return load_providers([self.folder], {name: Registration(CLIENT_ID, SecretStr(CLIENT_SECRET))}).get(name)

    async def connect(self, provider: Provider, *, nonce: str | None = NONCE) -> TokenAnswer:
        """Connect an account, from the authorization URL to the tokens, as a user who consents; return the tokens."""
        config = provider.config
        url = await self.oauth.authorization_url(
            provider,
            redirect_uri=REDIRECT_URI,
            state="state-1",
            scopes=config.required_scopes,
            code_challenge=pkce_challenge(VERIFIER) if config.pkce else None,
            login_hint=None,
            nonce=nonce if config.nonce else None,
        )
        form = dict(parse_qsl(urlsplit(url).query)) | {"decision": "approve", "account": "ada@example.com"}
        response = await self.browser.post(url.partition("?")[0], data=form)
        assert response.status_code == 302, response.text
        returned = dict(parse_qsl(urlsplit(response.headers["location"]).query))
        assert (returned.get("iss") == config.issuer) is config.answers_iss
        return await self.oauth.exchange_code(
            provider,
            code=returned["code"],
            redirect_uri=REDIRECT_URI,
            code_verifier=VERIFIER if config.pkce else None,
        )

    async def control(self, name: str, **settings: object) -> None:
        """Change the settings of the imitation of `name`."""
        response = await self.browser.post(f"{SANDBOX_URL}/as/_control/{name}/settings", json=settings)
        assert response.status_code == 200, response.text


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    transport = httpx.ASGITransport(app=create_app(Sandbox(base_url=SANDBOX_URL)))
    async with httpx.AsyncClient(transport=transport) as browser, create_http_client(transport) as http:
        yield World(browser, OAuthClient(http, SystemClock()), tmp_path)


@pytest.mark.parametrize("name", NAMES)
async def test_connection_tells_whose_it_is_and_what_was_granted(world: World, name: str) -> None:
    provider = world.provider(name)

    grant = await world.connect(provider)
    account = await world.oauth.fetch_account(provider, grant, nonce=NONCE if provider.config.nonce else None)
    await world.oauth.probe(provider, grant.access_token)

    assert account.id
    assert account.email == (None if name == "slack" else "ada@example.com")
    assert (account.clock_skew_seconds is not None) is provider.config.nonce
    assert (
        provider.config.missing_required(provider.config.granted(grant.scopes, provider.config.required_scopes)) == []
    )


@pytest.mark.parametrize("name", ["google", "microsoft"])
async def test_id_token_with_the_nonce_of_another_flow_connects_nobody(world: World, name: str) -> None:
    provider = world.provider(name)
    grant = await world.connect(provider, nonce="nonce-of-somebody-else")

    with pytest.raises(ProviderCallError) as caught:
        await world.oauth.fetch_account(provider, grant, nonce=NONCE)

    assert (caught.value.code, caught.value.detail) == ("id_token_refused", "nonce")


async def test_legacy_issuer_of_google_is_google(world: World) -> None:
    await world.control("google", legacy_issuer=True)
    provider = world.provider("google")

    account = await world.oauth.fetch_account(provider, await world.connect(provider), nonce=NONCE)

    assert account.email == "ada@example.com"


@pytest.mark.parametrize(
    ("name", "settings", "rotates"),
    [
        ("google", {}, False),
        ("microsoft", {}, True),
        ("github", {"expiring_tokens": True}, True),
        ("slack", {"token_rotation": True}, True),
    ],
)
async def test_refresh_brings_what_the_provider_gives(
    world: World, name: str, settings: dict[str, bool], *, rotates: bool
) -> None:
    if settings:
        await world.control(name, **settings)
    provider = world.provider(name)
    first = await world.connect(provider)

    second = await world.oauth.refresh(provider, refresh_token=first.refresh_token or "")

    assert second.access_token != first.access_token
    assert (second.lifetime_seconds or 0) > 3000
    assert (second.refresh_token is not None) is rotates
    assert second.refresh_token != first.refresh_token


@pytest.mark.parametrize(
    ("name", "settings", "code"),
    [
        ("google", {}, "invalid_grant"),
        ("microsoft", {}, "invalid_grant"),
        ("github", {"expiring_tokens": True}, "bad_refresh_token"),
        ("slack", {"token_rotation": True}, "invalid_refresh_token"),
    ],
)
async def test_refresh_token_that_is_unknown_needs_the_user(
    world: World, name: str, settings: dict[str, bool], code: str
) -> None:
    if settings:
        await world.control(name, **settings)

    with pytest.raises(ProviderCallError) as caught:
        await world.oauth.refresh(world.provider(name), refresh_token="unknown")

    assert (caught.value.kind, caught.value.code, caught.value.answered) == (ProviderErrorKind.REAUTH, code, True)


@pytest.mark.parametrize("name", ["google", "github", "slack"])
async def test_revoked_token_is_dead_and_revoking_it_again_is_done_too(world: World, name: str) -> None:
    provider = world.provider(name)
    token = (await world.connect(provider)).access_token

    first = await world.oauth.revoke(provider, token=token)
    again = await world.oauth.revoke(provider, token=token)
    with pytest.raises(ProviderCallError) as caught:
        await world.oauth.probe(provider, token)

    assert (first, again) == (RevocationOutcome.REVOKED, RevocationOutcome.ALREADY_GONE)
    assert caught.value.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}
