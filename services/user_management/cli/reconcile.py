"""`cli reconcile …`"""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from services.user_management.cli.runtime import run
from services.user_management.reconciler import create_reconciler
from services.user_management.services.reconcile_service import MAX_DELETIONS

app = typer.Typer(no_args_is_help=True)


@app.callback()
def reconcile() -> None:
    """Compare with the identity provider."""


@app.command()
def clerk(
    dry_run: Annotated[bool, typer.Option(help="Only look; exit 1 when anything differs.")] = False,
    max_deletions: Annotated[int, typer.Option(help="Hold back more deletions than this.", min=0)] = MAX_DELETIONS,
) -> None:
    """Sweep all users of Clerk's Backend API; create, update and delete what differs here."""
    drift = run(lambda container: create_reconciler(container).sweep(repair=not dry_run, max_deletions=max_deletions))
    for kind, count in asdict(drift).items():
        print(f"{kind.replace('_', ' ')}\t{count}")
    if dry_run and drift.found:
        sys.exit(1)
