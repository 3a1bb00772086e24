"""The container of one process: it builds the groups of services, and starts and stops the process's resources."""

import asyncio
import math
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
from services.user_management.services.health_service import Phase
from services.user_management.services.service_client_service import ServiceClientService
from services.user_management.settings import Settings

SCHEMA_MISSING: Final = "DATABASE_URL: the schema is missing; run `cli db upgrade` first"
BOOT_PATIENCE_SECONDS: Final = 30.0
"""Seconds for which a starting process waits for Postgres. Then it fails, and its supervisor can start it again."""
DRAIN_SECONDS: Final = 8.5
"""The most seconds from SIGTERM until token refreshes end: enough for a provider call (8 s) and for storing its
answer."""

log = structlog.get_logger(__name__)


class Container:
    """All services and resources of a process. A group is built when it is first used; `start` builds those whose
    settings must be checked before the process serves. `drain`, `settle` and `stop` build none."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        http: HttpClient | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Build the resources, without I/O except for the reading of provider files. Raises StartupError.

        `clock` and `http` replace the real clock and network; `is_stopping` returns whether the process is about to end
        (in a worker's child, whether its parent is).
        """
        self.resources = build_resources(settings, clock=clock, http=http, is_stopping=is_stopping)
        self._is_started = False
        self._drain_ends = math.inf

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
        tokens = build_tokens(self.resources, keys=self.keys, identity=self.identity, credentials=self.credentials)
        tokens.refresher.stop_by(self._drain_ends)
        return tokens

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
        return build_operations(self.resources, phase=self._phase)

    async def start(self) -> None:
        """Prepare to serve requests or jobs: build the verifiers of sessions and webhooks, call `prove_keys`, and enter
        the phase `serving`. Raises StartupError if the setting of a verifier cannot be used, or if `prove_keys` raises
        it."""
        # Built before anything is opened: a verifier whose setting cannot be used must end the start, not a request.
        _ = self.identity, self.clerk
        await self.prove_keys()
        self._is_started = True

    async def prove_keys(self) -> None:
        """Load the vault's keys, connect to Postgres, waiting up to 30 s for it, and prove the keys.

        Raises StartupError if a key is missing or wrong, a setting cannot be used, Postgres does not answer, or the
        schema is missing.
        """
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
                return

    @property
    def is_draining(self) -> bool:
        """Tell whether `drain` was called, which means that the process has begun to end."""
        return self._drain_ends < math.inf

    def drain(self) -> None:
        """Begin to shut down: from now on the process reports itself as "draining", and token refreshes have
        DRAIN_SECONDS to end. A second call does not prolong this time."""
        if not self.is_draining:
            self._drain_ends = self.resources.clock.monotonic() + DRAIN_SECONDS
            if "tokens" in vars(self):
                self.tokens.refresher.stop_by(self._drain_ends)

    async def settle(self, timeout_seconds: float) -> None:
        """Wait until the token refreshes under way have ended, but for at most `timeout_seconds`; those left go on."""
        if "tokens" in vars(self):
            await self.tokens.refresher.drain(timeout_seconds)

    async def stop(self) -> None:
        """Call `drain`, wait for the token refreshes under way, at most until DRAIN_SECONDS after the first `drain`
        (but 0.1 s at least), and close all connections."""
        self.drain()
        await self.settle(max(0.1, self._drain_ends - self.resources.clock.monotonic()))
        await self.resources.aclose()

    def _phase(self) -> Phase:
        if self.is_draining:
            return "draining"
        return "serving" if self._is_started else "starting"
