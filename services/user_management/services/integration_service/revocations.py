"""Revoking at the providers what users have given up here: tried until it sticks, or is known to be impossible."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind, RevocationState
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import REVOCATION_IMPOSSIBLE, ProviderCallError
from services.user_management.queries import token_revocation as queries
from services.user_management.queries.token_revocation import DueRevocation
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

SLICE_SECONDS: Final = 5.0
BATCH: Final = 8
LEASE_SECONDS: Final = 30.0
"""Longer than a slice and its last call take."""
BACK_OFF_SECONDS: Final = (10.0, 60.0, 300.0, 1800.0, 7200.0, 21_600.0, 43_200.0)
"""After each failure; the last one again and again."""
GIVEN_UP_AFTER_SECONDS: Final = 7 * 86_400.0

log = structlog.get_logger(__name__)


class RevocationService:
    """The job's side of disconnecting."""

    def __init__(
        self,
        *,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        oauth: OAuthClient,
        vault: VaultService,
        clock: Clock,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._oauth = oauth
        self._vault = vault
        self._clock = clock
        self._is_stopping = is_stopping

    async def revoke_due(self, _cursor: Any = None) -> None:
        """Slice: what is due now, for up to five seconds. A call that is cut off is made again by whoever comes next:
        to revoke twice is to revoke once (RFC 7009 section 2.2)."""
        ends = self._clock.monotonic() + SLICE_SECONDS
        while self._clock.monotonic() < ends and not self._is_stopping():
            async with self._unit_of_work() as uow:
                due = await queries.claim_due(uow.connection, limit=BATCH, lease_seconds=LEASE_SECONDS)
            if not due:
                return
            async with asyncio.TaskGroup() as group:
                for revocation in due:
                    group.create_task(self._revoke(revocation))

    async def _revoke(self, revocation: DueRevocation) -> None:
        if revocation.provider not in self._providers:
            await self._postpone(revocation, "unknown_provider")
            return
        provider = self._providers.get(revocation.provider)
        described = provider.config.revocation
        if revocation.account_is_connected and described is not None and described.whole_grant:
            await self._finish(revocation, RevocationState.SUPERSEDED)
            return
        try:
            await self._call(provider, revocation)
        except KeyUnavailableError:
            await self._postpone(revocation, "key_unavailable")
        except PoisonedCiphertextError:
            await self._finish(revocation, RevocationState.IMPOSSIBLE, failure="token_unreadable")
        except ProviderCallError as error:
            await self._judge(revocation, error)
        else:
            await self._finish(revocation, RevocationState.DONE)

    async def _call(self, provider: Provider, revocation: DueRevocation) -> None:
        binding = token_binding(revocation.user_id, revocation.integration_id, revocation.kind)
        token = self._vault.open(revocation.ciphertext, binding, revocation.key_version)
        await self._oauth.revoke(provider, token=token)

    async def _judge(self, revocation: DueRevocation, error: ProviderCallError) -> None:
        if error.code == REVOCATION_IMPOSSIBLE:
            await self._finish(revocation, RevocationState.IMPOSSIBLE)
            return
        if error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}:
            # The grant is dead already, which is all that was wanted.
            await self._finish(revocation, RevocationState.DONE, failure=error.code)
            return
        if error.kind is ProviderErrorKind.OPERATOR:
            log.error("provider.misconfigured", provider=revocation.provider, reason=error.code)
        if revocation.age_seconds > GIVEN_UP_AFTER_SECONDS:
            log.error("revocation.given_up", provider=revocation.provider, reason=error.code, id=str(revocation.id))
            await self._finish(revocation, RevocationState.GIVEN_UP, failure=error.code)
            return
        await self._postpone(revocation, error.code, at_least=error.retry_after or 0.0)

    async def _postpone(self, revocation: DueRevocation, failure: str, *, at_least: float = 0.0) -> None:
        step = min(revocation.attempts, len(BACK_OFF_SECONDS)) - 1
        seconds = max(BACK_OFF_SECONDS[step], min(at_least, BACK_OFF_SECONDS[-1]))
        async with self._unit_of_work() as uow:
            await queries.postpone(uow.connection, revocation.id, seconds=seconds, failure=failure)
        log.warning("revocation.postponed", provider=revocation.provider, reason=failure, seconds=seconds)

    async def _finish(self, revocation: DueRevocation, state: RevocationState, *, failure: str | None = None) -> None:
        async with self._unit_of_work() as uow:
            if await queries.finish(uow.connection, revocation.id, state, failure=failure):
                uow.audit(
                    "integration.revocation_finished",
                    target=("integration", str(revocation.integration_id)),
                    user_id=revocation.user_id,
                    changes={"revocation": [RevocationState.PENDING.value, state.value]},
                )
        log.info("revocation.finished", provider=revocation.provider, state=state.value)
