"""The service key that a developer uses: made once per DATA_DIR, with grants for every sandbox provider."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from services.devstack.errors import DevstackError
from services.devstack.private_file import write_private

SERVICE_NAME = "development"
KEY_FILE = "development-service-key"
STARTED_FILE = "development-service-key.started"


def read_service_key(data_dir: Path) -> str:
    """Return the development service key of `data_dir`, or an empty string if there is none."""
    path = data_dir / KEY_FILE
    return path.read_text().strip() if path.exists() else ""


def ensure_service_key(
    data_dir: Path,
    providers: Sequence[str],
    *,
    run_cli: Callable[[list[str]], str],
    progress: Callable[[str], None],
) -> None:
    """Make a service with grants for `providers` and write its key to KEY_FILE, unless that file holds a key already.
    The file is written last: if a start is cut short, nobody knows the key of the service that it made, so the next
    start makes a service with another name. Raises `DevstackError` if the CLI fails or prints no key."""
    if read_service_key(data_dir):
        return
    progress("making the development service key …")
    name = SERVICE_NAME if not _is_cut_short(data_dir) else f"{SERVICE_NAME}-{secrets.token_hex(2)}"
    write_private(data_dir / STARTED_FILE, name)
    grants = [part for provider in providers for part in ("--grant", provider)]
    key = run_cli(["service", "create", name, *grants]).strip()
    if not key or "\n" in key:
        raise DevstackError("`service create` printed no key")
    write_private(data_dir / KEY_FILE, f"{key}\n")
    (data_dir / STARTED_FILE).unlink()


def _is_cut_short(data_dir: Path) -> bool:
    return (data_dir / STARTED_FILE).exists()
