"""The resources that the groups of services share: settings, clock, connections, clients, and other objects that keep
state in the process, such as rate limits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from services.user_management.core import failpoints
from services.user_management.core.clock import Clock, OffsetClock, SystemClock
from services.user_management.database import Database
from services.user_management.http_client import HttpClient, create_http_client
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import ProviderRegistry, configured_providers
from services.user_management.integrations.webhook_sender import WebhookSender
from services.user_management.integrations.webhook_target import WebhookTargets
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import RedisClient, create_redis_client
from services.user_management.security.signing import Signer
from services.user_management.services.slice_time import SliceTime
from services.user_management.settings import Environment, Settings
from services.user_management.unit_of_work import UnitOfWorkFactory, unit_of_work_factory


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources that all groups of one process share. Building them reads provider files and connects to nothing."""

    settings: Settings
    clock: Clock
    database: Database
    unit_of_work: UnitOfWorkFactory
    redis: RedisClient
    counting_redis: RedisClient
    """Client without the command timeout of `redis`, because the rate limits have a time limit of their own."""
    rate_limits: RateLimits
    http: HttpClient
    issuer_http: HttpClient
    """Client for the session issuer. It is separate from `http`, so that sign-in does not wait behind calls to a
    provider that hangs."""
    providers: ProviderRegistry
    oauth: OAuthClient
    webhook_targets: WebhookTargets
    webhook_sender: WebhookSender
    signer: Signer
    is_stopping: Callable[[], bool]
    """Returns whether the process is about to end; in a worker's child, whether its parent is."""
    start_slice: Callable[[], SliceTime]

    async def aclose(self) -> None:
        """Close every connection of these resources."""
        await self.http.aclose()
        await self.issuer_http.aclose()
        await self.webhook_sender.aclose()
        await self.redis.aclose()
        await self.counting_redis.aclose()
        await self.database.disconnect()


def build_resources(
    settings: Settings, *, clock: Clock | None, http: HttpClient | None, is_stopping: Callable[[], bool]
) -> Resources:
    """Build the resources, without connecting to anything; `clock` and `http`, if given, replace the real clock and
    network. Raises StartupError for provider files or settings that cannot be used."""
    clock = clock or _clock(settings)
    http_client = http or create_http_client()
    redis_url = settings.redis.url.get_secret_value()
    counting_redis = create_redis_client(redis_url, timeout_seconds=None)
    webhook_targets = WebhookTargets(allow_local=not settings.is_production)
    return Resources(
        settings=settings,
        clock=clock,
        database=Database(settings.database),
        unit_of_work=unit_of_work_factory(clock),
        redis=create_redis_client(redis_url),
        counting_redis=counting_redis,
        rate_limits=RateLimits(counting_redis, settings.limits.policies(), clock),
        http=http_client,
        issuer_http=http or create_http_client(),
        providers=configured_providers(settings),
        oauth=OAuthClient(http_client, clock),
        webhook_targets=webhook_targets,
        webhook_sender=WebhookSender(webhook_targets, clock),
        signer=Signer(settings.signing.secret.get_secret_value().split()),
        is_stopping=is_stopping,
        start_slice=partial(SliceTime, clock, is_stopping),
    )


def _clock(settings: Settings) -> Clock:
    """Return the system's clock; in the test environment, one that is wrong by the configured offset.

    In the test environment this also arms the configured failpoint, a place at which a crash test ends the process.
    """
    clock: Clock = SystemClock()
    if settings.environment is Environment.TEST:
        failpoints.arm(settings.failpoint)
        clock = OffsetClock(clock, settings.clock_offset_seconds)
    return clock
