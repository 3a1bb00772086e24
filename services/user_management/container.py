"""The object graph, built once and by hand; web, worker and CLI share it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.exc import ProgrammingError

from services.user_management.core import failpoints
from services.user_management.core.clock import Clock, SystemClock
from services.user_management.database import Database, is_schema_missing, is_unavailable
from services.user_management.exceptions import StartupError
from services.user_management.http_client import HttpClient, create_http_client, fetch_json
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import BUILT_IN, ProviderRegistry, load_providers
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.security.encryption import TokenEncryption
from services.user_management.security.jwks import PinnedKey, RemoteKeySet, RenewedKeys
from services.user_management.security.jwt import SessionVerifier
from services.user_management.security.key_source import KeySource, StaticKeySource
from services.user_management.security.signing import Signer
from services.user_management.security.webhook_signature import WebhookVerifier
from services.user_management.services.health_service import HealthService
from services.user_management.services.integration_service import ConnectPolicy, IntegrationService
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.job_service import JobService
from services.user_management.services.outbox_service import OutboxService, StreamPolicy
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.services.service_client_service import KeyUsage, ServiceClientService
from services.user_management.services.token_service import RefreshJobs, TokenPolicy, TokenRefresher, TokenService
from services.user_management.services.user_service import (
    ProfileService,
    SignIn,
    UpstreamUsers,
    UserAdministration,
    UserErasure,
    UserStates,
)
from services.user_management.services.vault_service import VaultService
from services.user_management.services.webhook_service import WebhookService
from services.user_management.settings import Environment, Settings
from services.user_management.unit_of_work import unit_of_work_factory

SCHEMA_MISSING: Final = "DATABASE_URL: the schema is missing; run `cli db upgrade` first"
BOOT_PATIENCE_SECONDS: Final = 30.0
"""How long a starting process waits for Postgres before it gives up and lets its supervisor try again."""
DRAIN_SECONDS: Final = 8.5
"""From SIGTERM to the end: a provider call of 8 s, and the time to store its answer."""

log = structlog.get_logger(__name__)


class Container:
    """Everything a process needs, and its start and stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        http: HttpClient | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Build the graph: no I/O but reading provider and key files. Raises StartupError.

        `http` replaces the network; `is_stopping` tells a worker's child that its parent is about to end.
        """
        if settings.environment is Environment.TEST:
            failpoints.arm(settings.failpoint)
        self.settings = settings
        self.clock = clock or SystemClock()
        self.http = http or create_http_client()
        # Of its own, so that sign-in does not wait behind calls to a provider that hangs.
        self.issuer_http = http or create_http_client()
        self.database = Database(settings.database)
        redis_url = settings.redis.url.get_secret_value()
        self.redis = create_redis_client(redis_url)
        self._counting_redis = create_redis_client(redis_url, timeout_seconds=None)
        self.rate_limits = RateLimits(self._counting_redis, settings.limits.policies(), self.clock)
        self.unit_of_work = unit_of_work_factory(self.clock)
        self.signer = Signer(settings.signing.secret.get_secret_value().split())
        self.providers = _providers(settings)
        self.signing_keys = self._signing_keys()
        self.sessions = SessionVerifier(
            self.signing_keys,
            issuer=settings.clerk.issuer,
            authorized_parties=settings.clerk.authorized_parties,
            clock=self.clock,
            allow_missing_azp=settings.clerk.allow_missing_azp,
        )
        self.webhook_verifier = WebhookVerifier(settings.clerk.webhook_signing_secret.get_secret_value().split())
        self.vault = VaultService(
            encryption=_encryption(settings),
            database=self.database,
            unit_of_work=self.unit_of_work,
            clock=self.clock,
        )
        status = IntegrationStatusTracker()
        key_usage = KeyUsage(self.unit_of_work, self.clock)
        oauth = OAuthClient(self.http, self.clock)
        self.refresher = TokenRefresher(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            oauth=oauth,
            vault=self.vault,
            status=status,
            clock=self.clock,
        )
        self.tokens = TokenService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            refresher=self.refresher,
            vault=self.vault,
            status=status,
            key_usage=key_usage,
            policy=TokenPolicy(settings.clerk.issuer, settings.frontend.connect_url),
            clock=self.clock,
        )
        self.integrations = IntegrationService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            oauth=oauth,
            vault=self.vault,
            status=status,
            signer=self.signer,
            policy=ConnectPolicy(settings.public_url, tuple(settings.frontend.return_urls)),
            clock=self.clock,
        )
        self.states = UserStates(self.database, self.clock)
        self.upstream = UpstreamUsers(preferences=PreferencesManager(), signer=self.signer)
        self.sign_in = SignIn(
            states=self.states,
            upstream=self.upstream,
            unit_of_work=self.unit_of_work,
            admin_user_ids=frozenset(settings.admin.user_ids),
            clock=self.clock,
        )
        self.profiles = ProfileService(database=self.database, unit_of_work=self.unit_of_work, states=self.states)
        hold_back = timedelta(days=settings.erasure.after_days)
        self.administration = UserAdministration(
            database=self.database,
            unit_of_work=self.unit_of_work,
            states=self.states,
            signer=self.signer,
            hold_back=hold_back,
        )
        self.erasure = UserErasure(
            unit_of_work=self.unit_of_work, signer=self.signer, states=self.states, hold_back=hold_back
        )
        self.webhooks = WebhookService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            upstream=self.upstream,
            states=self.states,
            issuer=settings.clerk.issuer,
            instance_id=settings.clerk.instance_id,
        )
        self.service_clients = ServiceClientService(
            database=self.database, unit_of_work=self.unit_of_work, providers=self.providers, key_usage=key_usage
        )
        self.jobs = JobService(self.unit_of_work)
        self.refresh_jobs = RefreshJobs(
            database=self.database, refresher=self.refresher, clock=self.clock, is_stopping=is_stopping
        )
        self.outbox = OutboxService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            redis=self.redis,
            stream=StreamPolicy(settings.redis.stream, settings.redis.stream_length),
        )
        self.health = HealthService(self.database, self.redis, lambda: self.rate_limits.degraded)
        self._drain_ends: float | None = None

    async def start(self) -> None:
        """Open the pools and prove the keys. Raises StartupError when this process must not serve."""
        await self.database.connect()
        deadline = self.clock.monotonic() + BOOT_PATIENCE_SECONDS
        while True:
            try:
                await self.vault.prove_keys()
            except ProgrammingError as error:
                if not is_schema_missing(error):
                    raise
                raise StartupError(SCHEMA_MISSING) from None
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if self.clock.monotonic() > deadline:
                    raise StartupError("DATABASE_URL: Postgres does not answer") from error
                log.warning("database.awaited", reason=type(error).__name__)
                await asyncio.sleep(0.5)
            else:
                self.health.phase = "serving"
                return

    @property
    def is_draining(self) -> bool:
        return self._drain_ends is not None

    def drain(self) -> None:
        """Say "not ready" from now on; what is under way has DRAIN_SECONDS to end."""
        self.health.phase = "draining"
        if self._drain_ends is None:
            self._drain_ends = self.clock.monotonic() + DRAIN_SECONDS
            self.refresher.stop_by(self._drain_ends)

    async def stop(self) -> None:
        """Let refreshes under way end, then close everything."""
        self.drain()
        ends = self._drain_ends or self.clock.monotonic()
        await self.refresher.drain(max(0.1, ends - self.clock.monotonic()))
        await self.http.aclose()
        await self.issuer_http.aclose()
        await self.redis.aclose()
        await self._counting_redis.aclose()
        await self.database.disconnect()

    def _signing_keys(self) -> RenewedKeys:
        clerk = self.settings.clerk
        if clerk.jwt_key is not None:
            return PinnedKey(clerk.jwt_key)
        return RemoteKeySet(lambda: fetch_json(self.issuer_http, clerk.keys_url), self.clock)


def _providers(settings: Settings) -> ProviderRegistry:
    folders = [BUILT_IN] + ([settings.providers.dir] if settings.providers.dir else [])
    clients = {name: (client.client_id, client.client_secret) for name, client in settings.oauth.clients.items()}
    registry = load_providers(folders, clients)
    if settings.is_production:
        for provider in registry:
            if any(not url.startswith("https://") for url in provider.config.urls()):
                raise StartupError(f"PROVIDERS_DIR: provider {provider.name} has an endpoint that is not https")
    return registry


def key_source(settings: Settings) -> KeySource:
    """The key versions given in the environment and in the key file. Raises StartupError."""
    try:
        secrets = settings.encryption.secrets()
    except ValueError as error:
        raise StartupError(f"ENCRYPTION_KEYS_FILE: {error}") from None
    if not secrets:
        raise StartupError("ENCRYPTION_KEYS: at least one key version is needed")
    return StaticKeySource(secrets)


def _encryption(settings: Settings) -> TokenEncryption:
    source = key_source(settings)
    salt = settings.encryption.salt.get_secret_value().encode()
    return TokenEncryption.from_secrets({version: source.load(version) for version in source.versions()}, salt)
