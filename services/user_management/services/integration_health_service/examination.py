"""The examination of one integration: asks the provider with its access token (a probe) or refreshes it, and changes
the integration's status by the answer."""

from dataclasses import dataclass
from typing import Final

import structlog

from services.user_management.core.principal import Principal
from services.user_management.enums import IntegrationStatus, ProviderErrorKind, ReauthReason
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.integrations.provider_errors import (
    NO_USERINFO_ENDPOINT,
    RATE_LIMIT_CODES,
    TOO_LATE,
    TOO_MANY_CALLS,
    ProviderCallError,
)
from services.user_management.queries import integration_health as queries
from services.user_management.queries.integration_health import Candidate
from services.user_management.queries.token_refresh import Failure
from services.user_management.services.integration_health_service.tally import Tallies
from services.user_management.services.integration_probe import IntegrationProbe
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.slice_time import SliceTime
from services.user_management.services.token_service import TokenRefresher
from services.user_management.services.token_service.refresh_attempt import RefreshOutcome
from services.user_management.services.vault_service import VaultService
from services.user_management.unit_of_work import UnitOfWorkFactory

REFUSED_SECONDS: Final = 900.0
"""For how long a token that cannot be refreshed must have been refused, by at least two probes, before its user is
asked to connect again."""
LAST_REFRESH_SECONDS: Final = 10.0
"""For how long after the beginning of a slice a refused probe is followed by a refresh. Thus the two calls (8 s each)
fit into the 20 s that a slice may take."""
REFRESH_FAILED: Final = "refresh_failed"
_NOT_ITS_TURN: Final = frozenset({TOO_MANY_CALLS, TOO_LATE})
"""Codes of calls that were not sent for reasons of our own, and that say nothing about the provider. `breaker_open` is
not among them: calls are then held back because the provider has failed several times."""
_NO_VERDICT: Final = RATE_LIMIT_CODES | {NO_USERINFO_ENDPOINT}
"""Codes of a provider that cannot be probed at all, or not this often; they say nothing about its state."""

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class Examination:
    """Examines integrations one by one, and counts in the run's tallies what each shows about its provider."""

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    probe: IntegrationProbe
    refresher: TokenRefresher
    vault: VaultService
    status: IntegrationStatusTracker

    async def examine(self, actor: Principal, held: Candidate, tallies: Tallies, time: SliceTime) -> None:
        """Examine one integration: refresh it if its access token has expired, or if it is degraded and has a refresh
        token; otherwise probe it. Its status is changed according to the result, and a failed call raises nothing.

        During the pause after a failed refresh it is probed instead, or left alone if its access token has expired.
        Without the key of its tokens the integration is skipped. The time of the examination is written first;
        otherwise integrations that fail would come first in every run.
        """
        async with self.unit_of_work(actor) as uow:
            await queries.note_probed(uow.connection, held.id)
        # An integration whose refreshes fail is not well, even if the provider still accepts the present access token.
        ailing = held.status == IntegrationStatus.DEGRADED and held.has_refresh_token
        try:
            if (held.expired or ailing) and not held.cooling:
                await self._refresh(held, tallies)
            elif not held.expired:
                await self.probe.probe(held)
                tallies.note_answer(held.provider)
                await self._accept(actor, held)
        except KeyUnavailableError:
            log.warning("check.skipped", integration_id=str(held.id), reason=KeyUnavailableError.code)
        except PoisonedCiphertextError:
            await self._mark_unreadable(actor, held)
        except ProviderCallError as error:
            await self._judge(actor, held, error, tallies=tallies, time=time)

    async def _judge(
        self, actor: Principal, held: Candidate, error: ProviderCallError, *, tallies: Tallies, time: SliceTime
    ) -> None:
        log.info(
            "check.failed",
            integration_id=str(held.id),
            provider=held.provider,
            kind=error.kind.value,
            reason=error.code,
            detail=error.detail,
        )
        _weigh(held.provider, error, tallies)
        if error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}:
            await self._refused(actor, held, Failure(error.code, error.detail), tallies=tallies, time=time)

    async def _refused(
        self, actor: Principal, held: Candidate, failure: Failure, *, tallies: Tallies, time: SliceTime
    ) -> None:
        """Act on a refused access token. If there is a refresh token, a refresh shows whether the consent has ended
        too; during the pause after a failed refresh, or too late in the slice, nothing is done. Without a refresh
        token, the user has to connect again once the refusals have lasted REFUSED_SECONDS."""
        if held.has_refresh_token:
            if not held.cooling and time.elapsed_seconds < LAST_REFRESH_SECONDS:
                await self._refresh(held, tallies)
            return
        integration = IntegrationVersion(held.id, held.token_version)
        async with self.unit_of_work(actor) as uow:
            seconds = await queries.note_refused(uow.connection, held, failure=failure.code, detail=failure.detail)
            if seconds < REFUSED_SECONDS:
                return
            kind = self.providers.get(held.provider).config.error_kind(failure.detail or "")
            if kind is ProviderErrorKind.REVOKED:
                await self.status.mark_revoked(uow, integration, failure)
            else:
                await self.status.mark_needs_reauth(uow, integration, ReauthReason.GRANT_REFUSED, failure)

    async def _refresh(self, held: Candidate, tallies: Tallies) -> None:
        """Refresh the tokens, which also changes the integration's status where that is called for, and count in the
        tallies what this shows about the provider. Raises KeyUnavailableError."""
        result = await self.refresher.refresh(held.id, held.token_version)
        if result.outcome is RefreshOutcome.MISCONFIGURED:
            tallies.note_misconfigured(held.provider, REFRESH_FAILED)
        elif result.outcome is not RefreshOutcome.UNAVAILABLE:
            tallies.note_answer(held.provider)
        elif result.failure is not None:
            _weigh(held.provider, result.failure, tallies)

    async def _accept(self, actor: Principal, held: Candidate) -> None:
        """Record that the provider accepted the access token. A degraded integration without a refresh token is active
        again, unless the missing refresh token is what degraded it. Failures of refreshes stay counted, since a probe
        says nothing about the refresh token."""
        alone = not held.has_refresh_token
        recovers = alone and held.status == IntegrationStatus.DEGRADED
        async with self.unit_of_work(actor) as uow:
            await queries.note_accepted(uow.connection, held, whole=alone)
            if not recovers or held.status_reason == ReauthReason.NO_REFRESH_TOKEN:
                return
            integration = IntegrationVersion(held.id, held.token_version)
            await self.status.mark_recovered(uow, integration, was=IntegrationStatus.DEGRADED)

    async def _mark_unreadable(self, actor: Principal, held: Candidate) -> None:
        if not self.vault.poison_guard.may_mark(held.id):
            return
        async with self.unit_of_work(actor) as uow:
            integration = IntegrationVersion(held.id, held.token_version)
            await self.status.mark_needs_reauth(uow, integration, ReauthReason.TOKEN_UNREADABLE)


def _weigh(provider: str, error: ProviderCallError, tallies: Tallies) -> None:
    """Count in the tallies what a failed call shows about the provider. A provider that refuses a token has answered,
    so it is not down; one that limits our calls or cannot be probed is left alone for the rest of the run; a call that
    was not sent, for reasons of ours, shows nothing."""
    if error.code in _NO_VERDICT:
        tallies.postpone(provider)
    elif error.kind is ProviderErrorKind.OPERATOR:
        tallies.note_misconfigured(provider, error.code)
    elif error.kind is not ProviderErrorKind.TRANSIENT:
        tallies.note_answer(provider)
    elif error.code not in _NOT_ITS_TURN:
        tallies.note_failure(provider, error.code)
