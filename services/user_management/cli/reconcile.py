"""`cli reconcile …`: the command that compares all users with those of the identity provider."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container.reconciliation import build_reconciliation

app = typer.Typer(no_args_is_help=True)


@app.callback()
def reconcile() -> None:
    """Compare all users with those of the identity provider."""


@app.command()
def clerk(
    dry_run: Annotated[bool, typer.Option(help="Only look; exit 1 when anything differs.")] = False,
    max_deletions: Annotated[
        int | None,
        typer.Option(help="Allow this many deletions; by default 50, and no more than a tenth of the users.", min=0),
    ] = None,
) -> None:
    """Compare all users with those in Clerk's Backend API, and create, update and delete users here where they differ.

    Prints how many differences of each kind there were. Exits with 1 if the database refused any of the writes, if
    deletions were held back because they were too many, or, with --dry-run, if anything differs.
    """
    drift = run(
        lambda container: build_reconciliation(container).sweep(
            OPERATOR, repair=not dry_run, max_deletions=max_deletions
        )
    )
    for kind, count in asdict(drift).items():
        print(f"{kind.replace('_', ' ')}\t{count}")
    if drift.failed or drift.deletions_held_back or (dry_run and drift.found):
        sys.exit(1)
