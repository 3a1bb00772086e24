"""The management of sibling services (programs that call us with a key) by administrators and operators: their
permissions, their keys, and their grants, each of which lets a service read tokens of one provider."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import Database, constraint_name
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import (
    ConflictError,
    NotFoundError,
    ValidationFailedError,
)
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.models import ServiceClient, ServiceGrant
from services.user_management.queries import service_client as queries
from services.user_management.queries.service_client import ClientRow
from services.user_management.schemas.service import (
    DEFAULT_OVERLAP_SECONDS,
    MAX_OVERLAP_SECONDS,
    SERVICE_NAME_PATTERN,
    ServiceGrantSummary,
    ServiceKeySummary,
    ServiceResponse,
)
from services.user_management.services.service_credentials import issue_key
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

_NAME_TAKEN: Final = "uc_service_clients_name"


@dataclass(kw_only=True, eq=False)
class ServiceClientService:
    """Manages sibling services. Changes to one service are made one after another, since each locks the service's row.
    A call that changes nothing is not audited."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry

    async def create_service(self, actor: Principal, name: str, permissions: Collection[str] = ()) -> str:
        """Register a service and return the text of its first key, of which only a hash is stored.

        Raises ValidationFailedError for a name or permission that is not acceptable, ConflictError if the name is
        taken.
        """
        if not re.fullmatch(SERVICE_NAME_PATTERN, name):
            raise ValidationFailedError(
                "A service's name has at most 63 lower-case letters, digits and hyphens, and begins with a letter."
            )
        allowed = _permissions(permissions)
        client_id = uuid7()

        async with self.unit_of_work(actor) as uow:
            try:
                await ServiceClient.objects.create(
                    id=client_id, name=name, permissions=allowed, created_at=uow.clock.now()
                )
            except IntegrityError as error:
                if constraint_name(error) != _NAME_TAKEN:
                    raise
                raise ConflictError(f"There is a service named {name} already.") from None
            key = await issue_key(uow, client_id)
            _audit(uow, "service.created", name, {"permissions": [None, allowed], "key_id": [None, key.id]})
        return key.text

    async def set_permissions(self, actor: Principal, name: str, permissions: Collection[str]) -> ServiceResponse:
        """Replace a service's permissions. Without `webhooks:manage` or `admin` its webhook subscriptions get nothing:
        new events are not queued for them, and deliveries that were queued wait until it has one of the two again.

        Raises NotFoundError, ValidationFailedError.
        """
        wanted = _permissions(permissions)

        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            if client.permissions != wanted:
                await queries.set_permissions(uow.connection, client.id, wanted)
                _audit(uow, "service.permitted", name, {"permissions": [client.permissions, wanted]})
            return await _describe(uow.connection, name)

    async def grant(
        self, actor: Principal, name: str, provider: str, *, scopes: Iterable[str] | None, reason_required: bool
    ) -> ServiceResponse:
        """Let a service read tokens of `provider`, with at most `scopes` and the scopes that they imply (None allows
        any scope); this replaces an earlier grant.

        `reason_required` says whether each read must give a reason. Raises NotFoundError if there is no such service,
        UnknownProviderError, ValidationFailedError if `scopes` yields no scope."""
        config = self.providers.get(provider).config
        # Resolve aliases as a token read does; otherwise the grant would never cover an alias.
        limited = None if scopes is None else list(config.parse_scopes(" ".join(scopes)))
        if limited == []:
            raise ValidationFailedError("A grant is for any scope, or for at least one.")
        wanted = {"scopes": limited, "reason_required": reason_required}

        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            earlier = await ServiceGrant.objects.get_or_none(client_id=client.id, provider=provider)
            former = None if earlier is None else _terms(earlier)
            if former != wanted:
                if earlier is not None:
                    await earlier.delete()
                await ServiceGrant.objects.create(
                    id=uuid7(), client_id=client.id, provider=provider, created_at=uow.clock.now(), **wanted
                )
                _audit(uow, "service.granted", name, {provider: [former, wanted]})
            return await _describe(uow.connection, name)

    async def withdraw_grant(self, actor: Principal, name: str, provider: str) -> None:
        """Withdraw a service's grant to read tokens of `provider`, which need not be configured any more.

        Raises NotFoundError if there is no such service or no such grant.
        """
        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            grant = await ServiceGrant.objects.get_or_none(client_id=client.id, provider=provider)
            if grant is None:
                raise NotFoundError(f"{name} has no grant for that provider.")
            await grant.delete()
            _audit(uow, "service.grant_withdrawn", name, {provider: [_terms(grant), None]})

    async def rotate_key(self, actor: Principal, name: str, *, overlap_seconds: int = DEFAULT_OVERLAP_SECONDS) -> str:
        """Issue a new key and return its text, of which only a hash is stored. The keys that were valid so far expire
        after `overlap_seconds` (0 means at once), unless they expire earlier anyway.

        Raises NotFoundError, ValidationFailedError for an overlap out of bounds.
        """
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise ValidationFailedError(f"The overlap has 0 to {MAX_OVERLAP_SECONDS} seconds.")

        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            ended = await queries.end_live_keys(uow.connection, client.id, overlap_seconds=overlap_seconds)
            key = await issue_key(uow, client.id)
            ends = {f"{one.id}.expires_at": [_text(one.former_end), _text(one.new_end)] for one in ended}
            _audit(uow, "service.key_rotated", name, {"key_id": [None, key.id], **ends})
        return key.text

    async def revoke_key(self, actor: Principal, name: str, key_id: str) -> None:
        """Refuse one key of a service from now on; `key_id` is the key's public part. Raises NotFoundError if there is
        no such service or it has no such key."""
        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            if key_id not in {key.id for key in await queries.list_keys(uow.connection, [client.id])}:
                raise NotFoundError(f"{name} has no key of that id.")
            if await queries.revoke_keys(uow.connection, client.id, key_id=key_id):
                _audit(uow, "service.key_revoked", name, {"key_id": [key_id, None]})

    async def revoke_service(self, actor: Principal, name: str) -> int:
        """Revoke every key of a service, and return how many were not revoked before. The service and its grants stay,
        so that it can get a new key. Raises NotFoundError."""
        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            revoked = await queries.revoke_keys(uow.connection, client.id)
            if revoked:
                _audit(uow, "service.revoked", name, {"key_ids": [revoked, []]})
            return len(revoked)

    async def disable_service(self, actor: Principal, name: str) -> ServiceResponse:
        """Refuse every key of a service, and send its webhook subscriptions nothing, until it is enabled again.

        Raises NotFoundError.
        """
        return await self._set_disabled(actor, name, disabled=True)

    async def enable_service(self, actor: Principal, name: str) -> ServiceResponse:
        """Accept the keys of a disabled service again, and let the deliveries that were queued for it be sent. Raises
        NotFoundError."""
        return await self._set_disabled(actor, name, disabled=False)

    async def list_services(self, _actor: Principal) -> list[ServiceResponse]:
        """List all services, disabled ones too, in the order of their names, with their keys and grants."""
        async with self.database.reading() as connection:
            return await _describe_all(connection)

    async def get_service(self, _actor: Principal, name: str) -> ServiceResponse:
        """Return one service with its keys and grants. Raises NotFoundError."""
        async with self.database.reading() as connection:
            return await _describe(connection, name)

    async def _set_disabled(self, actor: Principal, name: str, *, disabled: bool) -> ServiceResponse:
        async with self.unit_of_work(actor) as uow:
            client = await _lock(uow, name)
            if (client.disabled_at is not None) != disabled:
                await queries.set_disabled(uow.connection, client.id, disabled=disabled)
                action = "service.disabled" if disabled else "service.enabled"
                _audit(uow, action, name, {"disabled": [not disabled, disabled]})
            return await _describe(uow.connection, name)


def _permissions(values: Collection[str]) -> list[str]:
    """Return each permission once, in alphabetical order. Raises ValidationFailedError if one is unknown."""
    known = {permission.value for permission in ServicePermission}
    wanted = {str(value) for value in values}
    if wanted - known:
        raise ValidationFailedError(f"The permissions are {', '.join(sorted(known))}.")
    return sorted(wanted)


async def _lock(uow: UnitOfWork, name: str) -> ClientRow:
    client = await queries.lock_client(uow.connection, name)
    if client is None:
        raise NotFoundError(f"There is no service named {name}.")
    return client


def _audit(uow: UnitOfWork, action: str, name: str, changes: JSONObject) -> None:
    uow.audit(action, target=("service", name), user_id=None, changes=changes)


def _terms(grant: ServiceGrant) -> JSONObject:
    return {"scopes": grant.scopes, "reason_required": grant.reason_required}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


async def _describe(connection: AsyncConnection, name: str) -> ServiceResponse:
    services = await _describe_all(connection, name)
    if not services:
        raise NotFoundError(f"There is no service named {name}.")
    return services[0]


async def _describe_all(connection: AsyncConnection, name: str | None = None) -> list[ServiceResponse]:
    clients = await queries.list_clients(connection, name)
    ids = [client.id for client in clients]
    keys = await queries.list_keys(connection, ids)
    grants = await queries.list_grants(connection, ids)
    return [
        ServiceResponse(
            name=client.name,
            created_at=client.created_at,
            disabled_at=client.disabled_at,
            permissions=client.permissions,
            grants=[ServiceGrantSummary.model_validate(grant) for grant in grants if grant.client_id == client.id],
            keys=[ServiceKeySummary.model_validate(key) for key in keys if key.client_id == client.id],
        )
        for client in clients
    ]
