"""Sends the webhook deliveries that are due, signed, and retries each for about a day. A delivery is one event on its
way to one subscription. A subscription is disabled when its receiver answers 410 (Gone), or when all its deliveries
have failed for five days."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import is_unavailable
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.webhook_sender import SendFailure, WebhookAnswer, WebhookSender
from services.user_management.queries import webhook_delivery as queries
from services.user_management.queries import webhook_subscription as subscription_queries
from services.user_management.queries.webhook_delivery import ClaimedDelivery, FailedAttempt
from services.user_management.schemas.webhook_subscription import MESSAGE_PREFIX
from services.user_management.security.webhook_signature import sign
from services.user_management.services.cloud_events import STRUCTURED
from services.user_management.services.slice_time import SliceTime, StartSlice
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.vault_service import VaultService, webhook_secret_binding
from services.user_management.services.webhook_subscription_service import LEASE_SECONDS, disable
from services.user_management.unit_of_work import UnitOfWorkFactory

DELAYS_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)
"""The seconds to wait after the first failed attempt, after the second and so on: eight attempts in 27.5 hours. Source:
Svix's retry schedule."""
JITTER: Final = 0.1
MAX_RETRY_AFTER_SECONDS: Final = 6 * 3600.0
PATIENCE_SECONDS: Final = 5 * 86_400.0
"""How long all deliveries must have failed before the subscription is disabled."""
KEY_WAIT_SECONDS: Final = 60.0
DELIVERY_PRUNING: Final = Pruning(timedelta(days=35), queries.prune)
"""Deliveries are kept as long as the events themselves."""

CONCURRENCY: Final = 8
PER_SUBSCRIPTION: Final = 2
FAILING_SLOTS: Final = 4
"""How many of the CONCURRENCY deliveries at once may go to receivers whose last delivery failed."""
FAILING_START_SECONDS: Final = 1.0
"""For how long after the beginning of a slice (a few seconds of this job's work) deliveries to receivers whose last
delivery failed may be started. A slice ends only when its calls have ended, and a call that hangs takes ten seconds, so
it has to begin early."""
LAST_START_SECONDS: Final = 7.0
"""For how long after its beginning a slice may start calls while other calls are under way. A call takes at most ten
seconds, so all end before the slice is cancelled after twenty."""
POLL_SECONDS: Final = 0.5

SECRET_UNREADABLE: Final = "secret_unreadable"  # noqa: S105 - an error code
KEY_UNAVAILABLE: Final = "key_unavailable"
INTERNAL_ERROR: Final = "internal_error"
"""The error code for a fault of ours; the log has the cause."""
DISABLED_GONE: Final = "gone"
DISABLED_FAILING: Final = "failing"

log = structlog.get_logger(__name__)


def retry_delay(attempts: int, *, retry_after: float | None) -> float | None:
    """Return the seconds until the next attempt after the `attempts`-th has failed; None if that was the last one.

    `retry_after` is the pause in seconds that the receiver asks for, if it does. It can make the pause longer, up to
    six hours, but never shorter.
    """
    if attempts > len(DELAYS_SECONDS):
        return None
    delay = DELAYS_SECONDS[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, guards nothing
    return max(delay, min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))


@dataclass
class _Slice:
    """The deliveries that a slice has under way at this moment: `per_subscription` counts them for each subscription,
    `failing` those to receivers whose last delivery failed."""

    time: SliceTime
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    per_subscription: Counter[UUID] = field(default_factory=Counter)
    failing: int = 0

    def add(self, delivery: ClaimedDelivery, task: "asyncio.Task[None]") -> None:
        """Count `task`, which sends `delivery`, until it is done."""
        self.tasks.add(task)
        self.per_subscription[delivery.subscription_id] += 1
        self.failing += delivery.is_failing

        def forget(done: "asyncio.Task[None]") -> None:
            self.tasks.discard(done)
            self.per_subscription[delivery.subscription_id] -= 1
            self.failing -= delivery.is_failing

        task.add_done_callback(forget)

    @property
    def busy(self) -> list[UUID]:
        """List the subscriptions that have as many deliveries under way as they may."""
        return [one for one, count in self.per_subscription.items() if count >= PER_SUBSCRIPTION]


@dataclass(kw_only=True, eq=False)
class WebhookDeliveryService:
    """The job that sends deliveries. A lease gives each delivery to one worker at a time. A delivery that was under way
    in a crash is sent again, so receivers can get one twice."""

    unit_of_work: UnitOfWorkFactory
    sender: WebhookSender
    vault: VaultService
    clock: Clock
    start_slice: StartSlice
    admins: frozenset[str]
    """The ids of the users who are administrators. A user's subscription is served only if the user is one of them."""

    async def deliver_due(self, actor: Principal, _cursor: Any = None) -> None:
        """Slice: send due deliveries, at most eight at once and two per subscription, until none is left or the time is
        over. Failures are recorded with the delivery."""
        current = _Slice(self.start_slice())
        async with asyncio.TaskGroup() as group:
            while self._may_start(current):
                under_way = set(current.tasks)
                delivery = await self._claim(actor, current) if len(under_way) < CONCURRENCY else None
                if delivery is not None:
                    current.add(delivery, group.create_task(self._deliver(actor, delivery)))
                elif under_way:
                    # Tasks that ended during the claim count too: the claim left out subscriptions that they kept busy.
                    await asyncio.wait(under_way, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                else:
                    return

    def _may_start(self, current: _Slice) -> bool:
        return current.time.may_begin(within_seconds=LAST_START_SECONDS if current.tasks else None)

    async def _claim(self, actor: Principal, current: _Slice) -> ClaimedDelivery | None:
        too_late = current.time.elapsed_seconds >= FAILING_START_SECONDS
        async with self.unit_of_work(actor) as uow:
            return await queries.claim_due(
                uow.connection,
                admins=self.admins,
                busy=current.busy,
                healthy_only=too_late or current.failing >= FAILING_SLOTS,
                lease_seconds=LEASE_SECONDS,
            )

    async def _deliver(self, actor: Principal, delivery: ClaimedDelivery) -> None:
        """Send one delivery and record the result. This raises nothing: an error would cancel all other deliveries
        under way, and those that their receivers have accepted would be sent again."""
        try:
            await self._attempt(actor, delivery)
        except Exception as error:
            log.exception("webhook.attempt_failed", **_named(delivery))
            # While Postgres is unavailable nothing can be recorded, and the receiver is not to blame: the lease runs
            # out, and the delivery is sent again.
            if not is_unavailable(error):
                await self._record_internal_error(actor, delivery)

    async def _record_internal_error(self, actor: Principal, delivery: ClaimedDelivery) -> None:
        try:
            await self._record_failure(actor, delivery, None, INTERNAL_ERROR)
        except Exception:
            # An error here would cancel the other deliveries too. This one is tried again when its lease ends.
            log.exception("webhook.failure_unrecorded", **_named(delivery))

    async def _attempt(self, actor: Principal, delivery: ClaimedDelivery) -> None:
        try:
            headers = self._headers(delivery)
        except KeyUnavailableError:
            await self._postpone(actor, delivery)
            return
        except PoisonedCiphertextError:
            log.critical("webhook_secret.unreadable", subscription_id=str(delivery.subscription_id))
            await self._record_failure(actor, delivery, None, SECRET_UNREADABLE)
            return
        answer = await self.sender.send(delivery.url, headers=headers, body=delivery.body.encode())
        if answer.failure is None:
            await self._record_success(actor, delivery, answer)
        else:
            await self._record_failure(actor, delivery, answer, answer.failure.value)

    def _headers(self, delivery: ClaimedDelivery) -> dict[str, str]:
        """Return the headers of a delivery, with its signatures (source: the Standard Webhooks specification). Raises
        KeyUnavailableError or PoisonedCiphertextError if a signing secret cannot be decrypted."""
        message_id = f"{MESSAGE_PREFIX}{delivery.event_id}"
        timestamp = int(self.clock.now().timestamp())
        signature = sign(
            self._secrets(delivery), message_id=message_id, timestamp=timestamp, body=delivery.body.encode()
        )
        return {
            "Content-Type": STRUCTURED,
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature,
        }

    def _secrets(self, delivery: ClaimedDelivery) -> list[str]:
        """Decrypt the signing secrets: the present one, then the former one if its overlap is not over. Raises
        KeyUnavailableError, PoisonedCiphertextError."""
        binding = webhook_secret_binding(delivery.subscription_id)
        secrets = [self.vault.open(delivery.secret_ciphertext, binding, delivery.secret_key_version)]
        if delivery.former_secret_ciphertext is not None and delivery.former_secret_key_version is not None:
            former = self.vault.open(delivery.former_secret_ciphertext, binding, delivery.former_secret_key_version)
            secrets.append(former)
        return secrets

    async def _postpone(self, actor: Principal, delivery: ClaimedDelivery) -> None:
        async with self.unit_of_work(actor) as uow:
            await subscription_queries.lock(uow.connection, delivery.subscription_id, owner=None, admins=self.admins)
            await queries.postpone(uow.connection, delivery, error=KEY_UNAVAILABLE, seconds=KEY_WAIT_SECONDS)

    async def _record_success(self, actor: Principal, delivery: ClaimedDelivery, answer: WebhookAnswer) -> None:
        async with self.unit_of_work(actor) as uow:
            # The subscription is locked first, since every change locks a subscription before its deliveries.
            await subscription_queries.note_success(uow.connection, delivery.subscription_id)
            await queries.mark_delivered(uow.connection, delivery.id, status=answer.status or 200)
        log.info("webhook.delivered", **_named(delivery), status=answer.status)

    async def _record_failure(
        self, actor: Principal, delivery: ClaimedDelivery, answer: WebhookAnswer | None, error: str
    ) -> None:
        wish, status = (None, None) if answer is None else (answer.retry_after, answer.status)
        failed = FailedAttempt(status, error, retry_delay(delivery.attempts, retry_after=wish))
        reason = None

        async with self.unit_of_work(actor) as uow:
            state = await subscription_queries.note_failure(
                uow.connection, delivery.subscription_id, patience_seconds=PATIENCE_SECONDS
            )
            if state is None:
                return
            await queries.mark_failed(uow.connection, delivery, failed)
            if state.is_active and (error == SendFailure.GONE or state.too_long):
                reason = DISABLED_GONE if error == SendFailure.GONE else DISABLED_FAILING
                await disable(uow, delivery.subscription_id, reason=reason)
        log.info("webhook.refused", **_named(delivery), status=status, error=error, final=failed.retry_seconds is None)
        if reason is not None:
            log.warning("webhook_subscription.disabled", subscription_id=str(delivery.subscription_id), reason=reason)


def _named(delivery: ClaimedDelivery) -> JSONObject:
    return {
        "subscription_id": str(delivery.subscription_id),
        "event_id": str(delivery.event_id),
        "attempts": delivery.attempts,
    }
