"""`cli keys …`: commands that make, show, activate and retire key versions of the vault, and encrypt anew what is under
former ones."""

import json
import sys
import time
from collections.abc import Collection
from typing import Annotated, Final

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container import Container
from services.user_management.exceptions import ConflictError, StartupError, ValidationFailedError
from services.user_management.security.encryption import generate_secret
from services.user_management.security.key_sources import open_key_source
from services.user_management.services.key_rotation_service import KeyStatus, Progress
from services.user_management.settings import get_settings

app = typer.Typer(no_args_is_help=True)

_LINE_SECONDS = 1.0
"""Seconds between two lines of progress."""
_HIGHEST_VERSION: Final = 2**31 - 1
"""Highest number of a key version that ENCRYPTION_KEYS and the table's integer column accept."""


@app.command()
def generate(
    version: Annotated[int | None, typer.Option(help="Its number; default: one above the highest held here.")] = None,
) -> None:
    """Print a new key version for ENCRYPTION_KEYS, as JSON; give it to every process before activating it."""
    source = open_key_source(get_settings().encryption)
    number = _new_version(version, source.versions())
    print(json.dumps({str(number): source.wrap(number, generate_secret())}))
    print(f"Add it to ENCRYPTION_KEYS everywhere, then run: cli keys activate {number}", file=sys.stderr)


@app.command()
def status() -> None:
    """Show each key version: its state, whether it is held here and is the right key, how much is encrypted under it,
    and how much of that is unreadable."""

    async def read(container: Container) -> list[KeyStatus]:
        try:
            await container.keys.vault.load()
        except StartupError as error:
            # The keys are not proved first: an operator needs this list most on the day on which some are missing.
            print(f"user-management: {error}", file=sys.stderr)
        return await container.keys.rotation.status(OPERATOR)

    for row in run(read):
        held = ("canary good" if row.canary_good else "CANARY WRONG") if row.held else "-"
        unreadable = "-" if row.unreadable is None else row.unreadable
        columns = [str(row.version), row.state, "held" if row.held else "MISSING HERE", held]
        columns += [f"{count} {place}" for place, count in row.holds.items()]
        print("\t".join([*columns, f"{unreadable} unreadable"]))


@app.command()
def activate(version: Annotated[int, typer.Argument(help="The version that encrypts from now on.")]) -> None:
    """Use another version for encryption from now on; the former one is still used for decryption."""
    run(lambda container: container.keys.vault.activate(OPERATOR, version), prove_keys=True)
    print(f"Version {version} is active.", file=sys.stderr)


@app.command()
def rewrap() -> None:
    """Encrypt everything that is under other versions anew under the active one. This may be stopped at any moment and
    started again. Exits with 1 if something is left that cannot be read here."""
    lines = _ProgressLines()
    progress = run(lambda container: container.keys.rotation.rewrap_all(OPERATOR, lines.report), prove_keys=True)
    lines.print(progress)
    if progress.left:
        print("What is left cannot be read here; see: cli keys status", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def retire(
    version: Annotated[int, typer.Argument(help="The version that no process has to hold any more.")],
    discard_unreadable: Annotated[
        bool, typer.Option(help="Delete what cannot be read under it; users must connect those accounts again.")
    ] = False,
) -> None:
    """Retire a version, so that no process has to hold it. This is refused while the version is active, while anything
    is encrypted under it, and for a minute after the activation of another version."""
    discarded = run(
        lambda container: container.keys.rotation.retire(OPERATOR, version, discard_unreadable=discard_unreadable),
        prove_keys=True,
    )
    for place, count in discarded.items():
        print(f"Discarded: {count} {place}.", file=sys.stderr)
    print(f"Version {version} is retired; take it out of ENCRYPTION_KEYS.", file=sys.stderr)


def _new_version(wanted: int | None, held: Collection[int]) -> int:
    """Return `wanted`; if it is None, the number after the highest of `held`.

    This works without the database, so it may return the number of a retired version that is no longer held. That key
    cannot be activated; the operator then has to make one with a higher `--version`.

    Raises ValidationFailedError if `wanted` is out of bounds, ConflictError if it is in `held`.
    """
    if wanted is None:
        return max(held, default=0) + 1
    if not 0 < wanted <= _HIGHEST_VERSION:
        raise ValidationFailedError(f"--version must be from 1 to {_HIGHEST_VERSION}.")
    if wanted in held:
        raise ConflictError(f"Version {wanted} is held here already.")
    return wanted


class _ProgressLines:
    """Prints the progress of a rewrap about once a second: the numbers of ciphertexts done, left and unreadable, and
    those done per second."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def report(self, progress: Progress) -> None:
        """Print a line about `progress` if a second has passed since the last line or, before the first one, since this
        object was made."""
        if time.monotonic() - self._printed >= _LINE_SECONDS:
            self.print(progress)

    def print(self, progress: Progress) -> None:
        """Print a line with the figures in `progress` and the rate."""
        self._printed = time.monotonic()
        rate = progress.per_second(self._printed)
        print(f"done {progress.done}\tleft {progress.left}\tunreadable {progress.unreadable}\t{rate:.0f}/s", flush=True)
