"""`cli subscriptions …`: commands that show, enable and disable webhook subscriptions, and send deliveries again."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container import Container
from services.user_management.core.pagination import MAX_LIMIT
from services.user_management.enums import SubscriptionStatus
from services.user_management.schemas.webhook_subscription import (
    ReplayRequest,
    SubscriptionResponse,
    SubscriptionUpdate,
)

DELIVERIES_SHOWN: Final = 20

app = typer.Typer(no_args_is_help=True)

SubscriptionId = Annotated[UUID, typer.Argument(help="Id of the subscription, as listed.")]


@app.command(name="list")
def list_subscriptions() -> None:
    """List all subscriptions, the newest first: id, owner, status, since when deliveries fail (or -), events, URL."""
    for one in run(_all):
        status = one.status if one.disabled_reason is None else f"{one.status} ({one.disabled_reason})"
        if not one.owner_may_hear:
            status += " (owner may not hear)"
        failing = "-" if one.failing_since is None else f"failing since {one.failing_since.isoformat()}"
        events = " ".join(one.event_types) or "all events"
        print(one.id, one.owner, status, failing, events, one.url, sep="\t")


@app.command()
def show(subscription_id: SubscriptionId) -> None:
    """Show one subscription with its latest 20 deliveries, as JSON."""

    async def collect(container: Container) -> dict[str, Any]:
        service = container.events.subscriptions
        found = await service.get_subscription(OPERATOR, subscription_id)
        latest = await service.list_deliveries(
            OPERATOR, subscription_id, state=None, limit=DELIVERIES_SHOWN, cursor=None
        )
        return {**found.model_dump(mode="json"), "deliveries": latest.model_dump(mode="json")["items"]}

    print(json.dumps(run(collect), indent=2, ensure_ascii=False))


@app.command()
def replay(  # noqa: PLR0917 - typer passes by name
    subscription_id: SubscriptionId,
    failed: Annotated[bool, typer.Option("--failed", help="All deliveries that failed.")] = False,
    since: Annotated[
        datetime | None, typer.Option(help="Deliveries queued at this time (UTC, or with an offset) or later.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Deliveries queued before this time (as above).")] = None,
    event: Annotated[list[UUID] | None, typer.Option(help="Deliveries of this event; may be repeated.")] = None,
) -> None:
    """Queue deliveries to be sent again, under their old ids: those that failed (--failed), or those that the other
    options select, delivered ones too. Give --failed, or at least one of --since, --until and --event."""
    if failed == any((since, until, event)):
        raise typer.BadParameter("give --failed, or at least one of --since, --until and --event")
    wanted = ReplayRequest(since=_utc(since), until=_utc(until), event_ids=event or None)
    replayed = run(lambda container: container.events.subscriptions.replay(OPERATOR, subscription_id, wanted))
    print(f"{replayed.queued} delivery(ies) queued.", file=sys.stderr)
    if replayed.has_more:
        same = "the same again" if replayed.next_since is None else f"--since {replayed.next_since.isoformat()}"
        print(f"There may be more: go on with {same}", file=sys.stderr)


@app.command()
def enable(subscription_id: SubscriptionId) -> None:
    """Enable a subscription: its waiting deliveries are sent, and new events are queued for it again."""
    _set_status(subscription_id, SubscriptionStatus.ACTIVE)
    print(f"{subscription_id} is active.", file=sys.stderr)


@app.command()
def disable(subscription_id: SubscriptionId) -> None:
    """Disable a subscription: until it is enabled, nothing is sent to it, and no new events are queued for it."""
    _set_status(subscription_id, SubscriptionStatus.DISABLED)
    print(f"{subscription_id} is disabled.", file=sys.stderr)


def _set_status(subscription_id: UUID, status: SubscriptionStatus) -> None:
    update = SubscriptionUpdate(status=status)
    run(lambda container: container.events.subscriptions.update_subscription(OPERATOR, subscription_id, update))


async def _all(container: Container) -> list[SubscriptionResponse]:
    found: list[SubscriptionResponse] = []
    cursor = None
    while True:
        page = await container.events.subscriptions.list_subscriptions(OPERATOR, limit=MAX_LIMIT, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def _utc(moment: datetime | None) -> datetime | None:
    """Return `moment`, set to UTC if it has no time zone; None for None."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
