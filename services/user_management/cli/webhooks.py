"""`cli webhooks …`: commands that show the events received from the identity provider by webhook, and apply them
again."""

import json
import sys
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container import Container

app = typer.Typer(no_args_is_help=True)

EventId = Annotated[UUID, typer.Argument(help="Id of the event, as listed.")]


@app.command(name="list")
def list_events(
    failed: Annotated[bool, typer.Option("--failed", help="Only events that have not taken effect.")] = False,
    subject: Annotated[str | None, typer.Option(help="Only events about this user of the identity provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """List the events received from the identity provider, the newest first: id, time, type, subject, state, attempts,
    error. The states are "applied", "to be retried", and "parked": not applied, and tried again only by `replay`."""
    rows = run(
        lambda container: container.clerk.webhooks.list_events(
            OPERATOR, failed_only=failed, subject=subject, limit=limit
        )
    )
    for row in rows:
        state = "applied" if row.applied_at else ("to be retried" if row.next_attempt_at else "parked")
        columns = (row.id, row.received_at.isoformat(), row.event_type, row.subject or "-", state)
        print(*columns, f"attempts: {row.attempts}", row.error or "", sep="\t")


@app.command()
def show(event_id: EventId) -> None:
    """Show one event with its whole content, as JSON; this may include personal data."""
    row = run(lambda container: container.clerk.webhooks.get_event(OPERATOR, event_id))
    print(json.dumps(asdict(row), default=str, indent=2, ensure_ascii=False))


@app.command()
def replay(
    event_id: Annotated[UUID | None, typer.Argument(help="Id of the event.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All events that have not taken effect.")] = False,
) -> None:
    """Apply a stored event again, or all that have not taken effect (--failed). An event that was applied before has no
    further effect. Exits with 1 if any of them cannot be applied."""
    if (event_id is None) != failed:
        raise typer.BadParameter("give the id of an event, or --failed")

    async def replay_all(container: Container) -> list[bool]:
        wanted = [event_id] if event_id else await container.clerk.webhooks.failed_events(OPERATOR)
        return [await container.clerk.webhooks.replay(OPERATOR, one) for one in wanted]

    applied = run(replay_all)
    print(f"{sum(applied)} of {len(applied)} event(s) applied.", file=sys.stderr)
    if not all(applied):
        sys.exit(1)
