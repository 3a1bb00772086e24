"""`cli keys …`"""

import base64
import json
import sys
from typing import Annotated

import typer

from services.user_management.cli.runtime import run
from services.user_management.container import key_source
from services.user_management.security.encryption import generate_secret
from services.user_management.settings import get_settings

app = typer.Typer(no_args_is_help=True)


@app.command()
def generate() -> None:
    """Print a new key version for ENCRYPTION_KEYS, as JSON; give it to every process before activating it."""
    version = max(key_source(get_settings()).versions()) + 1
    print(json.dumps({str(version): base64.b64encode(generate_secret()).decode()}))
    print(f"Add it to ENCRYPTION_KEYS everywhere, then run: cli keys activate {version}", file=sys.stderr)


@app.command()
def status() -> None:
    """Each key version: its state, whether it is held here, and how many tokens are under it."""
    for row in run(lambda container: container.vault.status()):
        print(f"{row.version}\t{row.state}\t{'held' if row.held else 'MISSING HERE'}\t{row.tokens} tokens")


@app.command()
def activate(version: Annotated[int, typer.Argument(help="The version that encrypts from now on.")]) -> None:
    """Switch the version that encrypts; the former one goes on decrypting."""
    run(lambda container: container.vault.activate(version), prove_keys=True)
    print(f"Version {version} is active.", file=sys.stderr)
