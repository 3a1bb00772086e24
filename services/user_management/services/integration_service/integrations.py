"""The use cases of users on their integrations: list the providers, list and show integrations, list the services'
requests for their tokens, change the product's notes (`metadata`), choose the primary one, refresh tokens, disconnect.

In every method, `account` is the account's id at the provider or its e-mail; None means the primary integration."""

import math
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from services.user_management.core.json_types import JSONObject
from services.user_management.core.pagination import Page
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.enums import IntegrationStatus, ReauthReason
from services.user_management.exceptions import (
    ApplicationError,
    NeedsReauthError,
    NotConnectedError,
    PreconditionFailedError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    RevokedError,
    UnknownProviderError,
    UserNotFoundError,
    ValidationFailedError,
)
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import token_activity as activity_queries
from services.user_management.queries.integration import LiveIntegration, ShownIntegration
from services.user_management.queries.token_read import NEW_FOR_SECONDS
from services.user_management.schemas.integration import (
    MAX_METADATA_ENTRIES,
    DisconnectResponse,
    IntegrationList,
    IntegrationResponse,
    IntegrationUpdate,
    ProviderList,
    ProviderResponse,
)
from services.user_management.schemas.token import TokenReadEntry
from services.user_management.security.signing import Signer
from services.user_management.services.integration_service.disconnecting import disconnect, disconnect_response
from services.user_management.services.reconnect_links import ReconnectLinks
from services.user_management.services.token_service import RefreshOutcome, TokenRefresher
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

_NEEDS_USER: Final = {IntegrationStatus.NEEDS_REAUTH, IntegrationStatus.REVOKED}

ExpectedVersions = frozenset[int] | None
"""The versions that an integration's row may have for a change to be made (`If-Match`); None means that any version
will do."""


@dataclass(kw_only=True, eq=False)
class IntegrationService:
    """Shows, changes, refreshes and ends a user's integrations."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    refresher: TokenRefresher
    signer: Signer
    links: ReconnectLinks

    def list_providers(self) -> ProviderList:
        """List the providers at which accounts can be connected, with the purpose of each scope."""
        return ProviderList(items=[_provider_response(provider) for provider in self.providers])

    async def list_integrations(self, _actor: Principal, user_id: str) -> IntegrationList:
        """List the user's integrations without the disconnected ones."""
        async with self.database.reading() as connection:
            rows = await integration_queries.list_shown(connection, user_id)
        return IntegrationList(items=[self._response(row) for row in rows])

    async def get_integration(
        self, _actor: Principal, user_id: str, provider: str, account: str | None
    ) -> IntegrationResponse:
        """Return the integration of `account`, or the primary one if it is None; disconnected ones are not found.

        Raises UnknownProviderError or NotConnectedError.
        """
        return self._response(await self._find(user_id, provider, account))

    async def list_activity(
        self, _actor: Principal, user_id: str, provider: str, *, limit: int, cursor: str | None
    ) -> Page[TokenReadEntry]:
        """List a page of the requests of services for the user's tokens at `provider`, the newest first: by whom, when,
        why, and with which outcome. Raises UnknownProviderError if there are no such requests and the provider is
        neither configured nor one that the user has an integration with; ValidationFailedError for a cursor that was
        not made for this list."""
        scope = f"activity:{user_id}:{provider}"
        before = UUID(self.signer.decode_cursor(scope, cursor)[0]) if cursor else None
        async with self.database.reading() as connection:
            rows = await activity_queries.token_reads(
                connection, user_id=user_id, provider=provider, before=before, limit=limit + 1
            )
        if not rows and provider not in self.providers:
            await self._find(user_id, provider, None)
        items = [TokenReadEntry.model_validate(row, from_attributes=True) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next_cursor=self.signer.encode_cursor(scope, [str(items[-1].id)]) if more else None)

    async def update_integration(
        self,
        actor: Principal,
        user_id: str,
        provider: str,
        account: str | None,
        *,
        update: IntegrationUpdate,
        expected: ExpectedVersions = None,
    ) -> IntegrationResponse:
        """Apply a merge patch (RFC 7396) to the product's notes, and make the integration the primary one if the update
        says so; return the integration.

        Raises UnknownProviderError, UserNotFoundError if the user is not active, NotConnectedError,
        PreconditionFailedError if the version is not one of `expected`, ValidationFailedError for too many notes.
        """
        async with self.unit_of_work(actor) as uow:
            held, row = await self._lock(uow, user_id, provider, account)
            _expect(row, expected)
            if "metadata" in update.model_fields_set:
                await self._merge_metadata(uow, row, update.metadata)
            if update.is_primary:
                await self._make_primary(uow, held)
            changed = await integration_queries.find_shown(
                uow.connection, user_id=user_id, provider=provider, account=held.provider_account_id
            )
        return self._response(changed or row)

    async def refresh_integration(
        self, _actor: Principal, user_id: str, provider: str, account: str | None
    ) -> IntegrationResponse:
        """Refresh the integration's tokens at the provider now, unless they were refreshed in the last ten seconds, and
        return the integration.

        Raises UnknownProviderError, NotConnectedError, NeedsReauthError (also if there is no refresh token),
        RevokedError, ProviderUnavailableError, ProviderMisconfiguredError, KeyUnavailableError.
        """
        row = await self._find(user_id, provider, account)
        self._refuse_dead(row)
        age = row.refreshed_seconds_ago
        if age is not None and age < NEW_FOR_SECONDS:
            return self._response(row)
        result = await self.refresher.refresh(row.id, row.token_version)
        after = await self._find(user_id, provider, row.provider_account_id)
        self._refuse_dead(after)
        if result.outcome is RefreshOutcome.MISCONFIGURED:
            raise ProviderMisconfiguredError
        if result.outcome is RefreshOutcome.IMPOSSIBLE:
            raise NeedsReauthError(extra=self._refusal(after) | {"reason": ReauthReason.NO_REFRESH_TOKEN.value})
        if result.outcome is not RefreshOutcome.REFRESHED:
            raise ProviderUnavailableError(retry_after=math.ceil(result.retry_after_seconds))
        return self._response(after)

    async def disconnect_integration(
        self, actor: Principal, user_id: str, provider: str, account: str | None, *, expected: ExpectedVersions = None
    ) -> DisconnectResponse:
        """End the integration here at once, and queue the revocation of its consent at the provider, if that is
        possible.

        Raises UnknownProviderError, UserNotFoundError if the user is not active, NotConnectedError,
        PreconditionFailedError if the version is not one of `expected`.
        """
        async with self.unit_of_work(actor) as uow:
            held, row = await self._lock(uow, user_id, provider, account)
            _expect(row, expected)
            state = await disconnect(uow, self.providers, held, by="user")
        return disconnect_response(self.providers, held, state)

    async def _find(self, user_id: str, provider: str, account: str | None) -> ShownIntegration:
        async with self.database.reading() as connection:
            row = await integration_queries.find_shown(connection, user_id=user_id, provider=provider, account=account)
        if row is None:
            raise self._not_connected(provider)
        return row

    def _not_connected(self, provider: str) -> ApplicationError:
        """Build the error for an integration that was not found: UnknownProviderError or NotConnectedError. An unknown
        provider is refused only here, because an integration whose provider is no longer configured is still shown, and
        can be disconnected."""
        if provider not in self.providers:
            return UnknownProviderError()
        return NotConnectedError(extra={"reconnect_url": self.links.url(provider, [])})

    async def _lock(
        self, uow: UnitOfWork, user_id: str, provider: str, account: str | None
    ) -> tuple[LiveIntegration, ShownIntegration]:
        """Step (part of the caller's transaction): lock the user and all their integrations, so that changes of the
        primary one are made one after another. Return the wanted integration twice: the locked row, and the row as it
        is shown to users.

        The user's row is locked too, since a connect of one more account may be under way: its integration does not
        exist yet and so cannot be locked, and that connect would still see the former primary one. Raises
        UserNotFoundError if the user is not active, UnknownProviderError, NotConnectedError.
        """
        if not await integration_queries.lock_active_user(uow.connection, user_id):
            raise UserNotFoundError
        live = {held.id: held for held in await integration_queries.live_of_user(uow.connection, user_id)}
        row = await integration_queries.find_shown(uow.connection, user_id=user_id, provider=provider, account=account)
        if row is None or row.id not in live:
            raise self._not_connected(provider)
        return live[row.id], row

    async def _merge_metadata(
        self, uow: UnitOfWork, row: ShownIntegration, changes: dict[str, str | None] | None
    ) -> None:
        before: dict[str, str] = row.metadata or {}
        # Null in place of the notes removes them all (RFC 7396 section 2).
        patched = {} if changes is None else {**before, **changes}
        merged = {name: value for name, value in patched.items() if value is not None}
        if len(merged) > MAX_METADATA_ENTRIES:
            raise ValidationFailedError(f"At most {MAX_METADATA_ENTRIES} metadata entries.")
        if merged == before:
            return
        await integration_queries.set_metadata(uow.connection, row.id, merged or None)
        target = ("integration", str(row.id))
        uow.audit(
            "integration.metadata_changed",
            target=target,
            user_id=row.user_id,
            changes={"metadata": [before, merged]},
        )

    async def _make_primary(self, uow: UnitOfWork, held: LiveIntegration) -> None:
        changed = await integration_queries.make_primary(
            uow.connection, user_id=held.user_id, provider=held.provider, integration_id=held.id
        )
        if changed:
            target = ("integration", str(held.id))
            uow.audit("integration.made_primary", target=target, user_id=held.user_id)

    def _refuse_dead(self, row: ShownIntegration) -> None:
        if row.status == IntegrationStatus.NEEDS_REAUTH:
            raise NeedsReauthError(extra=self._refusal(row))
        if row.status == IntegrationStatus.REVOKED:
            raise RevokedError(extra=self._refusal(row))

    def _refusal(self, row: ShownIntegration) -> JSONObject:
        shown = self._response(row)
        # An integration that works shows no link, but a user who is refused here needs one to go on.
        link = shown.reconnect_url or self.links.url(row.provider, shown.granted_scopes)
        return {"reason": shown.status_reason, "reconnect_url": link}

    def _response(self, row: ShownIntegration) -> IntegrationResponse:
        wanted, unreported = set(row.requested_scopes or ()), set[str]()
        if row.provider in self.providers:
            config = self.providers.get(row.provider).config
            wanted |= set(config.required_scopes)
            unreported |= set(config.unreported_scopes)
        missing = sorted(wanted - set(row.granted_scopes) - unreported)
        needs_user = row.status in _NEEDS_USER or row.status_reason == ReauthReason.NO_REFRESH_TOKEN
        link = self.links.url(row.provider, sorted(wanted)) if missing or needs_user else None
        shown = asdict(row) | {"metadata": row.metadata or {}, "missing_scopes": missing, "reconnect_url": link}
        return IntegrationResponse.model_validate(shown)


def _expect(row: ShownIntegration, expected: ExpectedVersions) -> None:
    if expected is not None and row.version not in expected:
        raise PreconditionFailedError


def _provider_response(provider: Provider) -> ProviderResponse:
    config = provider.config
    return ProviderResponse(
        name=config.name,
        display_name=config.display_name,
        scopes=config.scopes,
        required_scopes=list(config.required_scopes),
        revocable=config.can_revoke,
        revocation_note=config.revocation_note,
    )
