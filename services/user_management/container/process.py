"""The container of one process: its groups of services, its start and its stop."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Final

import structlog
from sqlalchemy.exc import ProgrammingError

from services.user_management.container.clerk import ClerkServices, build_clerk
from services.user_management.container.credentials import CredentialServices, build_credentials
from services.user_management.container.events import EventServices, build_events
from services.user_management.container.identity import IdentityServices, build_identity
from services.user_management.container.integrations import IntegrationServices, build_integrations
from services.user_management.container.jobs import JobServices, build_jobs
from services.user_management.container.keys import KeyServices, build_keys
from services.user_management.container.operations import OperationServices, build_operations
from services.user_management.container.resources import build_resources
from services.user_management.container.tokens import TokenServices, build_tokens
from services.user_management.container.users import UserServices, build_users
from services.user_management.core.clock import Clock
from services.user_management.core.principal import system
from services.user_management.database import is_schema_missing, is_unavailable
from services.user_management.exceptions import StartupError
from services.user_management.http_client import HttpClient
from services.user_management.services.service_client_service import ServiceClientService
from services.user_management.settings import Settings

SCHEMA_MISSING: Final = "DATABASE_URL: the schema is missing; run `cli db upgrade` first"
BOOT_PATIENCE_SECONDS: Final = 30.0
"""Seconds for which a starting process waits for Postgres before it gives up and lets its supervisor try again."""
DRAIN_SECONDS: Final = 8.5
"""Seconds from SIGTERM to the end: a provider call of 8 s, and the time to store its answer."""

log = structlog.get_logger(__name__)


class Container:
    """Everything that a process needs. A group is built when it is first asked for, so each process builds only what
    it uses."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        http: HttpClient | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Build the resources: no I/O but reading provider files. Raises StartupError.

        `http` replaces the network; `is_stopping` tells a worker's child that its parent is about to end.
        """
        self.resources = build_resources(settings, clock=clock, http=http, is_stopping=is_stopping)
        self._drain_ends: float | None = None

    @cached_property
    def keys(self) -> KeyServices:
        return build_keys(self.resources)

    @cached_property
    def identity(self) -> IdentityServices:
        return build_identity(self.resources)

    @cached_property
    def credentials(self) -> CredentialServices:
        return build_credentials(self.resources)

    @cached_property
    def service_clients(self) -> ServiceClientService:
        resources = self.resources
        return ServiceClientService(
            database=resources.database, unit_of_work=resources.unit_of_work, providers=resources.providers
        )

    @cached_property
    def tokens(self) -> TokenServices:
        return build_tokens(self.resources, keys=self.keys, identity=self.identity, credentials=self.credentials)

    @cached_property
    def integrations(self) -> IntegrationServices:
        return build_integrations(self.resources, keys=self.keys, tokens=self.tokens)

    @cached_property
    def users(self) -> UserServices:
        return build_users(self.resources)

    @cached_property
    def clerk(self) -> ClerkServices:
        return build_clerk(self.resources, users=self.users)

    @cached_property
    def events(self) -> EventServices:
        return build_events(self.resources, keys=self.keys)

    @cached_property
    def jobs(self) -> JobServices:
        return build_jobs(self.resources)

    @cached_property
    def operations(self) -> OperationServices:
        return build_operations(self.resources)

    async def start(self) -> None:
        """Get the keys, open the pools and prove the keys. Raises StartupError when this process must not serve."""
        # Built before anything is opened: a verifier whose setting cannot be used must end the start, not a request.
        _ = self.identity, self.clerk
        vault, clock = self.keys.vault, self.resources.clock
        await vault.load()
        await self.resources.database.connect()
        deadline = clock.monotonic() + BOOT_PATIENCE_SECONDS
        while True:
            try:
                await vault.prove_keys(system("startup"))
            except ProgrammingError as error:
                if not is_schema_missing(error):
                    raise
                raise StartupError(SCHEMA_MISSING) from None
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if clock.monotonic() > deadline:
                    raise StartupError("DATABASE_URL: Postgres does not answer") from error
                log.warning("database.awaited", reason=type(error).__name__)
                await asyncio.sleep(0.5)
            else:
                self.operations.health.phase = "serving"
                return

    @property
    def is_draining(self) -> bool:
        """Tell whether the process has begun to end."""
        return self._drain_ends is not None

    def drain(self) -> None:
        """Answer "not ready" from now on. What is under way has DRAIN_SECONDS to end."""
        self.operations.health.phase = "draining"
        if self._drain_ends is None:
            self._drain_ends = self.resources.clock.monotonic() + DRAIN_SECONDS
            self.tokens.refresher.stop_by(self._drain_ends)

    async def stop(self) -> None:
        """Let refreshes under way end, then close everything."""
        self.drain()
        now = self.resources.clock.monotonic()
        await self.tokens.refresher.drain(max(0.1, (self._drain_ends or now) - now))
        await self.resources.aclose()
