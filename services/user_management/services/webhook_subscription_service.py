"""The management of webhook subscriptions by administrators and services, and of their deliveries (one event on its way
to one subscription).

A subscription belongs to the user or service that made it. It gets an event only if its owner would be allowed to make
a subscription at that moment: a user has to be an active administrator; a service has to be enabled, with a valid key
and the permission `webhooks:manage` or `admin`.
"""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final, cast
from urllib.parse import urlsplit
from uuid import UUID

from services.user_management.core.ids import uuid7
from services.user_management.core.json_types import JSONObject
from services.user_management.core.pagination import Page
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database
from services.user_management.enums import DeliveryState, SubscriptionStatus
from services.user_management.exceptions import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionFailedError,
    UnauthenticatedError,
    ValidationFailedError,
)
from services.user_management.integrations.webhook_target import TargetRefusedError, WebhookTargets
from services.user_management.models import WebhookSubscription
from services.user_management.queries import service_client as client_queries
from services.user_management.queries import webhook_delivery as delivery_queries
from services.user_management.queries import webhook_subscription as queries
from services.user_management.queries.webhook_subscription import ShownSubscription, SubscriptionColumns
from services.user_management.schemas.events import WebhookTest
from services.user_management.schemas.webhook_subscription import (
    DEFAULT_OVERLAP_SECONDS,
    MESSAGE_PREFIX,
    CreateSubscriptionRequest,
    DeliveryResponse,
    NewSecret,
    NewSubscription,
    QueuedDelivery,
    Replayed,
    ReplayRequest,
    SubscriptionResponse,
    SubscriptionUpdate,
)
from services.user_management.security.signing import Signer
from services.user_management.security.webhook_signature import new_secret
from services.user_management.services.cloud_events import cloud_event
from services.user_management.services.vault_service import VaultService, webhook_secret_binding
from services.user_management.services.webhook_fan_out import deliver_alone
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

MAX_PER_OWNER: Final = 20
MAX_REPLAYED: Final = 10_000
LEASE_SECONDS: Final = 30.0
"""For how long a delivery belongs to the worker that sends it. This is longer than a worker may take, so only
deliveries of a worker that died are tried by another one."""
DISABLED_BY_OWNER: Final = "owner"
NO_SUBSCRIPTION: Final = "There is no such subscription."
_OWNER_MAY_NOT_HEAR: Final = (
    "The subscription's owner is told nothing at present: a service needs to be enabled, a live key and the permission"
    " webhooks:manage or admin; a user must be active and an administrator."
)
_URL_REFUSED: Final = (
    "must lead to public addresses alone; in production by https, without user or fragment, on port 443 or above 1023"
)


@dataclass(kw_only=True, eq=False)
class WebhookSubscriptionService:
    """Manages subscriptions. A service without the permission `admin` sees only its own subscriptions; administrators
    see all. For a subscription that the caller does not see, a method raises NotFoundError.

    The owner's rights decide what is sent, whatever an administrator changes. So only the owner may change the URL and
    the signing secret: an administrator's change would otherwise outlast that administrator's own rights."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    targets: WebhookTargets
    vault: VaultService
    signer: Signer
    source: str
    """The attribute `source` of our events (CloudEvents): our public URL."""
    admins: frozenset[str]
    """The ids of the users who are administrators. A user's subscription is served only if the user is one of them."""

    async def create_subscription(self, actor: Principal, request: CreateSubscriptionRequest) -> NewSubscription:
        """Make a subscription that belongs to the caller, and return it with its signing secret, which is never shown
        again.

        Raises ValidationFailedError for a URL that does not lead to public addresses alone, ConflictError if the caller
        has 20 subscriptions already, KeyUnavailableError if the secret cannot be sealed, and UnauthenticatedError for a
        service that no longer exists.
        """
        await self._check_url(request.url)
        subscription_id, secret = uuid7(), new_secret()
        key_version = await self.vault.active_version()
        sealed = self.vault.seal(secret, webhook_secret_binding(subscription_id), key_version)

        async with self.unit_of_work(actor) as uow:
            client_id = await _client_of(uow, actor)
            await queries.lock_creation(uow.connection)
            owned = await queries.count_owned(uow.connection, client_id=client_id, created_by=actor.id)
            if owned >= MAX_PER_OWNER:
                raise ConflictError(f"There are {MAX_PER_OWNER} subscriptions already; remove one first.")
            now = uow.clock.now()
            values: SubscriptionColumns = {
                "url": request.url,
                "description": request.description,
                "event_types": _unique(request.event_types),
                "status": SubscriptionStatus.ACTIVE.value,
            }
            await WebhookSubscription.objects.create(
                **values,
                id=subscription_id,
                client_id=client_id,
                created_by=actor.id,
                secret_ciphertext=sealed,
                secret_key_version=key_version,
                last_sequence=0,
                version=1,
                created_at=now,
                updated_at=now,
            )
            _audit(
                uow, "created", subscription_id, {name: [None, value] for name, value in _told(dict(values)).items()}
            )
            row = await self._lock(uow, actor, subscription_id)
        return NewSubscription.model_validate({**asdict(row), "secret": secret})

    async def list_subscriptions(
        self, actor: Principal, *, limit: int, cursor: str | None
    ) -> Page[SubscriptionResponse]:
        """List a page of the subscriptions that the caller sees, the newest first. Raises ValidationFailedError for a
        cursor that was not made for this list."""
        owner = _owner(actor)
        scope = f"webhook_subscriptions:{owner or '*'}"
        before = UUID(self.signer.decode_cursor(scope, cursor)[0]) if cursor else None
        async with self.database.reading() as connection:
            rows = await queries.list_owned(connection, owner=owner, admins=self.admins, before=before, limit=limit + 1)
        items = [SubscriptionResponse.model_validate(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next_cursor=self.signer.encode_cursor(scope, [str(items[-1].id)]) if more else None)

    async def get_subscription(self, actor: Principal, subscription_id: UUID) -> SubscriptionResponse:
        """Return one of the subscriptions that the caller sees, without its secret. Raises NotFoundError."""
        async with self.database.reading() as connection:
            row = await queries.find(connection, subscription_id, owner=_owner(actor), admins=self.admins)
        if row is None:
            raise NotFoundError(NO_SUBSCRIPTION)
        return SubscriptionResponse.model_validate(row)

    async def update_subscription(
        self,
        actor: Principal,
        subscription_id: UUID,
        update: SubscriptionUpdate,
        *,
        expected: frozenset[int] | None = None,
    ) -> SubscriptionResponse:
        """Change the members that were set in `update`. Disabling a subscription makes its pending deliveries wait;
        enabling it makes them due at once.

        Raises NotFoundError, ValidationFailedError for a URL that is not acceptable, PreconditionFailedError if
        `expected` is given and does not contain the subscription's version, and ForbiddenError for another URL from
        anybody but the owner.
        """
        if update.url is not None:
            await self._check_url(update.url)
        wanted = cast("SubscriptionColumns", update.model_dump(mode="json", include=update.model_fields_set))
        if "event_types" in wanted:
            wanted["event_types"] = _unique(wanted["event_types"] or [])

        async with self.unit_of_work(actor) as uow:
            row = await self._lock(uow, actor, subscription_id, expected=expected)
            changed = {name: value for name, value in wanted.items() if getattr(row, name) != value}
            if "url" in changed:
                _require_owner(row, actor)
            if changed:
                await _change(uow, row, cast("SubscriptionColumns", changed))
                row = await self._lock(uow, actor, subscription_id)
        return SubscriptionResponse.model_validate(row)

    async def delete_subscription(
        self, actor: Principal, subscription_id: UUID, *, expected: frozenset[int] | None = None
    ) -> None:
        """Delete a subscription with all its deliveries. Raises NotFoundError, and PreconditionFailedError if
        `expected` is given and does not contain the subscription's version."""
        async with self.unit_of_work(actor) as uow:
            row = await self._lock(uow, actor, subscription_id, expected=expected)
            await queries.delete(uow.connection, subscription_id)
            _audit(uow, "deleted", subscription_id, {"url": [_origin(row.url), None]})

    async def rotate_secret(
        self, actor: Principal, subscription_id: UUID, *, overlap_seconds: int = DEFAULT_OVERLAP_SECONDS
    ) -> NewSecret:
        """Make a new signing secret and return it; it is never shown again. For `overlap_seconds` deliveries are signed
        with the present secret too; a still older one is no longer used.

        Raises NotFoundError, ForbiddenError for anybody but the owner, KeyUnavailableError.
        """
        secret = new_secret()
        key_version = await self.vault.active_version()
        sealed = self.vault.seal(secret, webhook_secret_binding(subscription_id), key_version)

        async with self.unit_of_work(actor) as uow:
            _require_owner(await self._lock(uow, actor, subscription_id), actor)
            await queries.replace_secret(
                uow.connection, subscription_id, (sealed, key_version), overlap=timedelta(seconds=overlap_seconds)
            )
            _audit(uow, "secret_rotated", subscription_id, {"overlap_seconds": [None, overlap_seconds]})
            row = await self._lock(uow, actor, subscription_id)
        return NewSecret(secret=secret, former_secret_until=row.former_secret_until)

    async def send_test(self, actor: Principal, subscription_id: UUID) -> QueuedDelivery:
        """Queue an event of the type `webhook.test` for the subscription. If one is pending already, return that one
        instead, and make it due now unless it is due within 30 s anyway.

        Raises NotFoundError, and ConflictError while the subscription is disabled or its owner may not receive events.
        """
        async with self.unit_of_work(actor) as uow:
            row = await self._lock_active(uow, actor, subscription_id)
            pending = await delivery_queries.hasten_pending(
                uow.connection, subscription_id, event_type=WebhookTest.event_type, lease_seconds=LEASE_SECONDS
            )
            if pending is not None:
                return QueuedDelivery(delivery_id=pending[0], webhook_id=f"{MESSAGE_PREFIX}{pending[1]}")
            event = cloud_event(
                event_id=uuid7(),
                event_type=WebhookTest.event_type,
                source=self.source,
                subject=str(subscription_id),
                moment=uow.clock.now(),
                data=WebhookTest(subscription_id=subscription_id).model_dump(mode="json"),
            )
            delivery_id = await deliver_alone(uow, row, event)
            _audit(uow, "tested", subscription_id, {"event_id": [None, event["id"]]})
        return QueuedDelivery(delivery_id=delivery_id, webhook_id=f"{MESSAGE_PREFIX}{event['id']}")

    async def list_deliveries(
        self, actor: Principal, subscription_id: UUID, *, state: DeliveryState | None, limit: int, cursor: str | None
    ) -> Page[DeliveryResponse]:
        """List a page of a subscription's deliveries, the newest first; with `state` only those in that state. Raises
        NotFoundError, and ValidationFailedError for a cursor that was not made for this list."""
        scope = f"webhook_deliveries:{subscription_id}:{state or '*'}"
        before = int(self.signer.decode_cursor(scope, cursor)[0]) if cursor else None
        async with self.database.reading() as connection:
            found = await queries.find(connection, subscription_id, owner=_owner(actor), admins=self.admins)
            if found is None:
                raise NotFoundError(NO_SUBSCRIPTION)
            rows = await delivery_queries.list_deliveries(
                connection, subscription_id, state=state, before=before, limit=limit + 1
            )
        items = [DeliveryResponse.model_validate(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next_cursor=self.signer.encode_cursor(scope, [items[-1].sequence]) if more else None)

    async def replay(self, actor: Principal, subscription_id: UUID, request: ReplayRequest) -> Replayed:
        """Queue deliveries to be sent again under their old ids, the oldest first, and at most 10,000 per call: those
        that `request` selects, delivered ones too, or those that failed if it has no criterion.

        If there may be more (`has_more`), ask again with `next_since` as `since`; if that is None, repeat the request.
        Raises NotFoundError, and ConflictError while the subscription is disabled or its owner may not receive events.
        """
        wanted = delivery_queries.ReplayFilter(since=request.since, until=request.until, event_ids=request.event_ids)

        async with self.unit_of_work(actor) as uow:
            await self._lock_active(uow, actor, subscription_id)
            made = await delivery_queries.requeue(uow.connection, subscription_id, wanted, limit=MAX_REPLAYED)
            _audit(uow, "replayed", subscription_id, {"deliveries": [None, len(made)]})
        has_more = len(made) == MAX_REPLAYED
        # Failed deliveries are pending now, so the same request finds the rest. By time, accepted ones would be found
        # too.
        next_since = made[-1] if has_more and not wanted.failed_only else None
        return Replayed(queued=len(made), has_more=has_more, next_since=next_since)

    async def _check_url(self, url: str) -> None:
        try:
            await self.targets.check(url)
        except TargetRefusedError as error:
            # One answer for all reasons, since callers must not learn what our resolver knows.
            failure = {"loc": ("body", "url"), "msg": _URL_REFUSED, "type": "webhook_target"}
            raise ValidationFailedError.of_fields([failure]) from error

    async def _lock(
        self, uow: UnitOfWork, actor: Principal, subscription_id: UUID, *, expected: frozenset[int] | None = None
    ) -> ShownSubscription:
        row = await queries.lock(uow.connection, subscription_id, owner=_owner(actor), admins=self.admins)
        if row is None:
            raise NotFoundError(NO_SUBSCRIPTION)
        if expected is not None and row.version not in expected:
            raise PreconditionFailedError
        return row

    async def _lock_active(self, uow: UnitOfWork, actor: Principal, subscription_id: UUID) -> ShownSubscription:
        row = await self._lock(uow, actor, subscription_id)
        if row.status != SubscriptionStatus.ACTIVE:
            raise ConflictError("The subscription is disabled; enable it first.")
        if not row.owner_may_hear:
            raise ConflictError(_OWNER_MAY_NOT_HEAR)
        return row


async def disable(uow: UnitOfWork, subscription_id: UUID, *, reason: str) -> None:
    """Step (part of a transaction): disable a subscription, which must be locked and active, and audit that. Pending
    deliveries wait until it is enabled."""
    await queries.disable(uow.connection, subscription_id, reason=reason)
    await delivery_queries.park(uow.connection, [subscription_id])
    changes = {"status": [SubscriptionStatus.ACTIVE.value, SubscriptionStatus.DISABLED.value]}
    _audit(uow, "disabled", subscription_id, {**changes, "disabled_reason": [None, reason]})


async def _change(uow: UnitOfWork, row: ShownSubscription, changed: SubscriptionColumns) -> None:
    values: SubscriptionColumns = {**changed, "version": row.version + 1, "updated_at": uow.clock.now()}
    status = changed.get("status")
    if status == SubscriptionStatus.DISABLED:
        values["disabled_reason"] = DISABLED_BY_OWNER
    if status == SubscriptionStatus.ACTIVE:
        values["disabled_reason"] = None
    if status == SubscriptionStatus.ACTIVE or "url" in changed:
        # Enabled again, or with another receiver: former failures must not make us give up soon.
        values["failing_since"] = None
    await queries.update(uow.connection, row.id, values)
    if status == SubscriptionStatus.DISABLED:
        await delivery_queries.park(uow.connection, [row.id])
    if status == SubscriptionStatus.ACTIVE:
        await delivery_queries.unpark(uow.connection, [row.id])
    former, new = _told({name: getattr(row, name) for name in changed}), _told(dict(changed))
    _audit(uow, "updated", row.id, {name: [former[name], new[name]] for name in changed})


def _owner(actor: Principal) -> str | None:
    """Return the caller's name if it sees only its own subscriptions, as a service without `admin` does; None if it
    sees all."""
    return None if actor.is_admin or actor.kind is PrincipalKind.SYSTEM else actor.id


def _require_owner(row: ShownSubscription, actor: Principal) -> None:
    if actor.id != row.owner:
        raise ForbiddenError("Only its owner may change the URL or the secret of a subscription.")


async def _client_of(uow: UnitOfWork, actor: Principal) -> UUID | None:
    """Lock the service that calls, and return its row's id, which a new subscription is to belong to; None if a user
    calls. Raises UnauthenticatedError if the service no longer exists."""
    if actor.kind is PrincipalKind.USER:
        return None
    client = await client_queries.lock_client(uow.connection, actor.id)
    if client is None:
        raise UnauthenticatedError
    return client.id


def _unique(names: list[str]) -> list[str]:
    return sorted(set(names))


def _origin(url: str) -> str:
    """Return the scheme, host and port of a URL. The rest is left out, since it often serves as the receiver's
    password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _told(values: JSONObject) -> JSONObject:
    """Return columns as the audit may record them: of a URL only scheme, host and port."""
    return {name: _origin(str(value)) if name == "url" else value for name, value in values.items()}


def _audit(uow: UnitOfWork, verb: str, subscription_id: UUID, changes: JSONObject) -> None:
    target = ("webhook_subscription", str(subscription_id))
    uow.audit(f"webhook_subscription.{verb}", target=target, user_id=None, changes=changes)
