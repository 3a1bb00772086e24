"""The end of a connect attempt (a flow): the user who started it confirms it, and only then is the authorization code
exchanged for tokens."""

from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.user_management.core.principal import Principal
from services.user_management.enums import IntegrationStatus, ReauthReason
from services.user_management.exceptions import (
    FlowNotFoundError,
    FlowRefusedError,
    PoisonedCiphertextError,
    ProviderUnavailableError,
    UserNotFoundError,
)
from services.user_management.integrations.oauth_client import Account, OAuthClient, TokenAnswer
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import oauth_flow as flow_queries
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries.integration import Connected, Consent
from services.user_management.queries.oauth_flow import ConsumedFlow
from services.user_management.queries.token_revocation import Origin
from services.user_management.schemas.events import IntegrationConnected
from services.user_management.schemas.integration import ConfirmRequest, IntegrationResponse
from services.user_management.security.signing import Signer, sha256
from services.user_management.services.integration_service.integrations import IntegrationService
from services.user_management.services.integration_service.provider_returns import exchange_problem, issuer_error
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.token_service.storage import store_tokens
from services.user_management.services.unkept_tokens import revoke_unkept, revokes_whole_consent
from services.user_management.services.vault_service import VaultService, code_binding
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

CONFIRM_SECONDS: Final = 30.0
"""For how long after a confirmation no revocation of the user's consents at the provider begins. This is longer than
the exchange of a code takes."""
_DEAD: Final = (IntegrationStatus.NEEDS_REAUTH, IntegrationStatus.REVOKED, IntegrationStatus.DISCONNECTED)

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class Confirmations:
    """Turns a connect attempt that its user confirms into an integration with tokens."""

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    oauth: OAuthClient
    vault: VaultService
    status: IntegrationStatusTracker
    integrations: IntegrationService
    signer: Signer

    async def confirm_integration(
        self, actor: Principal, user_id: str, provider_name: str, request: ConfirmRequest
    ) -> IntegrationResponse:
        """Finish a connect attempt that this user started: use up the flow, exchange the code, store the tokens, and
        return the integration, which is new or connected again.

        Raises UnknownProviderError; FlowNotFoundError for a flow that is unknown, expired, used up or another user's;
        FlowRefusedError if the provider or the user gave no consent, the issuer is not the provider's, or the provider
        refuses the code; ProviderUnavailableError, ProviderMisconfiguredError or ProviderAnswerError if the exchange
        fails; ProviderUnavailableError also while an earlier consent is being revoked; UserNotFoundError if the user is
        not active any more, in which case the new tokens are revoked; KeyUnavailableError.
        """
        provider = self.providers.get(provider_name)
        key_version = await self.vault.active_version()
        flow = await self._consume(actor, user_id, provider, request)
        if flow.error is not None:
            raise FlowRefusedError(extra={"reason": flow.error})
        if request.code is not None and (mix_up := await issuer_error(self.oauth, provider, request.iss)) is not None:
            raise FlowRefusedError(extra={"reason": mix_up})
        code = request.code or self._open_code(user_id, flow)
        answer = await self._exchange(provider, flow, code)
        origin = Origin(flow.id, user_id, provider.name, account_id="")
        account = await self._identify(actor, provider, flow, answer=answer, origin=origin)

        async with self.unit_of_work(actor) as uow:
            if not await integration_queries.lock_active_user(uow.connection, user_id):
                # Deleted or suspended since they began; nobody will use what they have consented to.
                origin = replace(origin, account_id=account.id)
                await revoke_unkept(uow, self.vault, provider, origin, answer=answer, key_version=key_version)
                raise uow.keep(UserNotFoundError())
            consent = await self._consent(uow, user_id, provider, flow=flow, answer=answer, account=account)
            connected = await self._connect(uow, user_id, provider, consent)
            await store_tokens(
                uow, self.vault, answer, user_id=user_id, integration_id=connected.id, key_version=key_version
            )
            missing = provider.config.missing_required(consent.granted)
            await self._qualify(uow, connected, missing=missing, answer=answer)
        return await self.integrations.get_integration(actor, user_id, provider.name, account.id)

    async def _consent(
        self,
        uow: UnitOfWork,
        user_id: str,
        provider: Provider,
        *,
        flow: ConsumedFlow,
        answer: TokenAnswer,
        account: Account,
    ) -> Consent:
        """Step (part of the caller's transaction): put together what the account's owner consented to. If `answer` has
        no refresh token, that of a working integration with the same account counts as if it had come with `answer`."""
        held = await integration_queries.find_shown(
            uow.connection, user_id=user_id, provider=provider.name, account=account.id
        )
        is_renewable = held is not None and held.has_refresh_token and held.status not in _DEAD
        granted = provider.config.granted(
            answer.scopes,
            flow.requested_scopes,
            has_refresh_token=answer.refresh_token is not None or is_renewable,
        )
        return Consent(
            account_id=account.id,
            account_email=account.email,
            granted=granted,
            requested=flow.requested_scopes,
            clock_skew_seconds=account.clock_skew_seconds,
        )

    async def _connect(self, uow: UnitOfWork, user_id: str, provider: Provider, consent: Consent) -> Connected:
        """Step: store the account's integration, which is new or connected again; audit, publish and count that.

        What would harm it is removed: pending revocations that would end the new consent, and a refresh token of a
        consent that has ended.
        """
        connected = await integration_queries.connect(
            uow.connection, user_id=user_id, provider=provider.name, consent=consent
        )
        if revokes_whole_consent(provider):
            # A pending revocation would end the new consent with the old one.
            await revocation_queries.supersede(uow.connection, connected.id)
        if connected.former_status in _DEAD:
            # Google gives no new refresh token with a repeated consent, and then the old one stays; but not one that
            # was refused or given up.
            await integration_queries.forget_refresh_token(uow.connection, connected.id)
        self.status.record(
            uow, IntegrationConnected(integration_id=connected.id, user_id=user_id, provider=provider.name)
        )
        return connected

    async def _consume(
        self, actor: Principal, user_id: str, provider: Provider, request: ConfirmRequest
    ) -> ConsumedFlow:
        """Use up the flow and return it, in a transaction of its own, so that it stays used up whatever the provider
        answers next.

        Raises FlowNotFoundError; ProviderUnavailableError, without using up the flow, while a revocation is under way
        that would end the new consent too.
        """
        flow_id = self.signer.read_flow_ticket(request.flow) if request.flow else None
        state_hash = sha256(request.state) if request.state else None
        async with self.unit_of_work(actor) as uow:
            if revokes_whole_consent(provider) and await revocation_queries.hold_back(
                uow.connection, user_id=user_id, provider=provider.name, seconds=CONFIRM_SECONDS
            ):
                # The revocation that is under way would end the new consent too.
                raise ProviderUnavailableError("An earlier consent is just being revoked; confirm again.")
            flow = await flow_queries.consume(
                uow.connection,
                user_id=user_id,
                provider=provider.name,
                flow_id=flow_id,
                state_hash=state_hash,
            )
            if flow is None:
                raise FlowNotFoundError
            uow.audit("integration.connect_confirmed", target=("oauth_flow", str(flow.id)), user_id=user_id)
        return flow

    def _open_code(self, user_id: str, flow: ConsumedFlow) -> str:
        if flow.code_ciphertext is None or flow.code_key_version is None:
            raise FlowNotFoundError
        try:
            return self.vault.open(flow.code_ciphertext, code_binding(user_id, flow.id), flow.code_key_version)
        except PoisonedCiphertextError:
            log.error("connect.code_unreadable", flow_id=str(flow.id))  # noqa: TRY400 - the cause is in the event
            raise FlowNotFoundError from None

    async def _exchange(self, provider: Provider, flow: ConsumedFlow, code: str) -> TokenAnswer:
        verifier = self.signer.pkce_verifier(flow.state_hash) if provider.config.pkce else None
        try:
            return await self.oauth.exchange_code(
                provider, code=code, redirect_uri=flow.redirect_uri, code_verifier=verifier
            )
        except ProviderCallError as error:
            log.warning("connect.exchange_failed", provider=provider.name, reason=error.code, detail=error.detail)
            raise exchange_problem(error) from None

    async def _identify(
        self, actor: Principal, provider: Provider, flow: ConsumedFlow, *, answer: TokenAnswer, origin: Origin
    ) -> Account:
        """Ask the provider for the account of the new tokens. If that fails, queue the revocation of the tokens, unless
        it would end the account's whole consent and so other integrations, and raise what `exchange_problem`
        returns."""
        nonce = self.signer.nonce(flow.state_hash) if provider.config.nonce else None
        try:
            return await self.oauth.fetch_account(provider, answer, nonce=nonce)
        except ProviderCallError as error:
            log.warning("connect.account_unknown", provider=provider.name, reason=error.code, detail=error.detail)
            if not revokes_whole_consent(provider):
                version = await self.vault.active_version()
                async with self.unit_of_work(actor) as uow:
                    await revoke_unkept(uow, self.vault, provider, origin, answer=answer, key_version=version)
            raise exchange_problem(error) from None

    async def _qualify(self, uow: UnitOfWork, connected: Connected, *, missing: list[str], answer: TokenAnswer) -> None:
        """Step: set the integration to needs_reauth if it lacks required scopes, or to degraded if it has no refresh
        token and so works only until its access token expires."""
        integration = IntegrationVersion(connected.id, connected.token_version)
        if missing:
            await self.status.mark_needs_reauth(uow, integration, ReauthReason.SCOPE_MISSING)
        elif answer.lifetime_seconds is not None and not await integration_queries.has_refresh_token(
            uow.connection, connected.id
        ):
            await self.status.mark_degraded(uow, integration, ReauthReason.NO_REFRESH_TOKEN)
