"""The object graph, built once and by hand; web, worker and CLI share it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from sqlalchemy.exc import ProgrammingError

from services.user_management.core import failpoints
from services.user_management.core.clock import Clock, OffsetClock, SystemClock
from services.user_management.database import Database, is_schema_missing, is_unavailable
from services.user_management.exceptions import StartupError
from services.user_management.http_client import HttpClient, create_http_client, fetch_json
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import configured_providers
from services.user_management.integrations.webhook_sender import WebhookSender
from services.user_management.integrations.webhook_target import WebhookTargets
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.security.encryption import TokenEncryption
from services.user_management.security.jwks import PinnedKey, RemoteKeySet, RenewedKeys
from services.user_management.security.jwt import SessionVerifier
from services.user_management.security.key_sources import load_secrets, open_key_source
from services.user_management.security.signing import Signer
from services.user_management.security.webhook_signature import WebhookVerifier
from services.user_management.services.connection_probe import ConnectionProbe
from services.user_management.services.diagnosis_service import DiagnosisService, EvidenceGatherer
from services.user_management.services.health_service import HealthService
from services.user_management.services.integration_health_service import (
    Examination,
    IntegrationHealthService,
    ScopeEnforcement,
)
from services.user_management.services.integration_service import (
    Confirmations,
    ConnectFlows,
    ConnectPolicy,
    IntegrationService,
    RevocationService,
)
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.job_service import JobService
from services.user_management.services.key_rotation_service import KeyRotationService
from services.user_management.services.metrics_service import MetricsService
from services.user_management.services.outbox_service import OutboxPolicy, OutboxService
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.services.reconnect_links import ReconnectLinks
from services.user_management.services.service_client_service import KeyUsage, ServiceClientService
from services.user_management.services.slice_time import SliceTime
from services.user_management.services.token_service import (
    RefreshAttempts,
    RefreshJobs,
    TokenAnswers,
    TokenExchange,
    TokenRefresher,
    TokenService,
)
from services.user_management.services.user_service import (
    ProfileService,
    SignIn,
    UpstreamUsers,
    UserAdministration,
    UserErasure,
    UserStates,
)
from services.user_management.services.vault_service import VaultService
from services.user_management.services.webhook_delivery_service import WebhookDeliveryService
from services.user_management.services.webhook_service import WebhookService
from services.user_management.services.webhook_subscription_service import WebhookSubscriptionService
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
        """Build the graph: no I/O but reading provider files. Raises StartupError.

        `http` replaces the network; `is_stopping` tells a worker's child that its parent is about to end.
        """
        own_clock: Clock = SystemClock()
        if settings.environment is Environment.TEST:
            failpoints.arm(settings.failpoint)
            own_clock = OffsetClock(own_clock, settings.clock_offset_seconds)
        self.settings = settings
        self.clock = clock or own_clock
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
        self.providers = configured_providers(settings)
        self._build_verifiers()
        self.vault = VaultService(
            load_keys=lambda: _encryption(settings), unit_of_work=self.unit_of_work, clock=self.clock
        )
        self._status = IntegrationStatusTracker()
        self._key_usage = KeyUsage(self.unit_of_work, self.clock)
        self._oauth = OAuthClient(self.http, self.clock)
        self._is_stopping = is_stopping
        self.start_slice = partial(SliceTime, self.clock, is_stopping)
        # In this order: each uses what those before it have made.
        self._build_tokens()
        self._build_connections()
        self._build_users()
        self._build_upkeep()
        self._build_checks()
        self._build_webhooks()
        self.metrics = MetricsService(self.database, self.providers)
        self.health = HealthService(self.database, self.redis, lambda: self.rate_limits.degraded)
        self._drain_ends: float | None = None

    def _build_verifiers(self) -> None:
        """Who signs what we are told."""
        self.signing_keys = self._signing_keys()
        self.sessions = SessionVerifier(
            self.signing_keys,
            issuer=self.settings.clerk.issuer,
            authorized_parties=self.settings.clerk.authorized_parties,
            clock=self.clock,
            allow_missing_azp=self.settings.clerk.allow_missing_azp,
        )
        self.webhook_verifier = WebhookVerifier(self.settings.clerk.webhook_signing_secret.get_secret_value().split())

    def _build_tokens(self) -> None:
        """Handing out tokens, and replacing them."""
        self.refresher = TokenRefresher(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            attempts=RefreshAttempts(
                unit_of_work=self.unit_of_work,
                providers=self.providers,
                oauth=self._oauth,
                vault=self.vault,
                status=self._status,
                clock=self.clock,
            ),
            gate=self._oauth.gate,
            clock=self.clock,
            is_stopping=self._is_stopping,
        )
        self._links = ReconnectLinks(self.settings.frontend.connect_url)
        self.tokens = TokenService(
            database=self.database,
            refresher=self.refresher,
            answers=TokenAnswers(
                unit_of_work=self.unit_of_work,
                providers=self.providers,
                vault=self.vault,
                status=self._status,
                links=self._links,
                default_issuer=self.settings.clerk.issuer,
                clock=self.clock,
            ),
            key_usage=self._key_usage,
        )
        self.token_exchange = TokenExchange(self.tokens, self.sessions)

    def _build_connections(self) -> None:
        """Connecting, looking, ending."""
        self.integrations = IntegrationService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            refresher=self.refresher,
            signer=self.signer,
            links=self._links,
        )
        self.connect_flows = ConnectFlows(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            oauth=self._oauth,
            vault=self.vault,
            signer=self.signer,
            policy=ConnectPolicy(
                self.settings.public_url,
                tuple(self.settings.frontend.return_urls),
                tuple(self.settings.frontend.redirect_uris),
            ),
            clock=self.clock,
        )
        self.confirmations = Confirmations(
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            oauth=self._oauth,
            vault=self.vault,
            status=self._status,
            integrations=self.integrations,
            signer=self.signer,
        )
        self.revocations = RevocationService(
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            oauth=self._oauth,
            vault=self.vault,
            start_slice=self.start_slice,
        )

    def _build_users(self) -> None:
        """Who signs in, their profiles, what upstream says of them, and the services beside them."""
        self.states = UserStates(self.database, self.clock)
        self.upstream = UpstreamUsers(preferences=PreferencesManager(), signer=self.signer)
        self.sign_in = SignIn(
            states=self.states,
            upstream=self.upstream,
            unit_of_work=self.unit_of_work,
            admin_user_ids=frozenset(self.settings.admin.user_ids),
            clock=self.clock,
        )
        self.profiles = ProfileService(
            database=self.database, unit_of_work=self.unit_of_work, states=self.states, providers=self.providers
        )
        hold_back = timedelta(days=self.settings.erasure.after_days)
        self.administration = UserAdministration(
            database=self.database,
            unit_of_work=self.unit_of_work,
            states=self.states,
            signer=self.signer,
            hold_back=hold_back,
        )
        self.erasure = UserErasure(
            unit_of_work=self.unit_of_work,
            signer=self.signer,
            states=self.states,
            providers=self.providers,
            hold_back=hold_back,
            start_slice=self.start_slice,
        )
        self.webhooks = WebhookService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            upstream=self.upstream,
            states=self.states,
            issuer=self.settings.clerk.issuer,
            instance_id=self.settings.clerk.instance_id,
            start_slice=self.start_slice,
        )
        self.service_clients = ServiceClientService(
            database=self.database, unit_of_work=self.unit_of_work, providers=self.providers, key_usage=self._key_usage
        )

    def _build_upkeep(self) -> None:
        """What workers do by themselves."""
        self.jobs = JobService(self.unit_of_work)
        self.refresh_jobs = RefreshJobs(
            database=self.database,
            refresher=self.refresher,
            start_slice=self.start_slice,
            spread_seconds=self.settings.refresh.spread_seconds,
        )
        self.key_rotation = KeyRotationService(
            vault=self.vault,
            database=self.database,
            unit_of_work=self.unit_of_work,
            status=self._status,
            clock=self.clock,
            start_slice=self.start_slice,
        )

    def _build_checks(self) -> None:
        """Whether connections are well, and why not."""
        probe = ConnectionProbe(database=self.database, providers=self.providers, oauth=self._oauth, vault=self.vault)
        self.diagnosis = DiagnosisService(
            database=self.database, gatherer=EvidenceGatherer(self.providers, self.vault), probe=probe
        )
        self.integration_health = IntegrationHealthService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            providers=self.providers,
            examination=Examination(
                unit_of_work=self.unit_of_work,
                providers=self.providers,
                probe=probe,
                refresher=self.refresher,
                vault=self.vault,
                status=self._status,
            ),
            scopes=ScopeEnforcement(unit_of_work=self.unit_of_work, providers=self.providers, status=self._status),
            start_slice=self.start_slice,
        )

    def _build_webhooks(self) -> None:
        """Telling others."""
        self.outbox = OutboxService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            redis=self.redis,
            policy=OutboxPolicy(
                source=self.settings.public_url,
                stream=self.settings.redis.stream,
                stream_length=self.settings.redis.stream_length,
                channel=self.settings.redis.channel,
            ),
            start_slice=self.start_slice,
        )
        webhook_targets = WebhookTargets(allow_local=not self.settings.is_production)
        self.webhook_sender = WebhookSender(webhook_targets, self.clock)
        self.webhook_subscriptions = WebhookSubscriptionService(
            database=self.database,
            unit_of_work=self.unit_of_work,
            targets=webhook_targets,
            vault=self.vault,
            signer=self.signer,
            source=self.settings.public_url,
        )
        self.webhook_deliveries = WebhookDeliveryService(
            unit_of_work=self.unit_of_work,
            sender=self.webhook_sender,
            vault=self.vault,
            clock=self.clock,
            start_slice=self.start_slice,
        )

    async def start(self) -> None:
        """Get the keys, open the pools and prove the keys. Raises StartupError when this process must not serve."""
        await self.vault.load()
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
        await self.webhook_sender.aclose()
        await self.redis.aclose()
        await self._counting_redis.aclose()
        await self.database.disconnect()

    def _signing_keys(self) -> RenewedKeys:
        clerk = self.settings.clerk
        if clerk.jwt_key is not None:
            return PinnedKey(clerk.jwt_key)
        return RemoteKeySet(lambda: fetch_json(self.issuer_http, clerk.keys_url), self.clock)


def _encryption(settings: Settings) -> TokenEncryption:
    """Ask the key source and derive the root keys: blocks for seconds. Raises StartupError."""
    salt = settings.encryption.salt.get_secret_value().encode()
    return TokenEncryption.from_secrets(load_secrets(open_key_source(settings.encryption)), salt)
