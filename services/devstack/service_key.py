"""The service key a person uses in development: made once per DATA_DIR, granted every sandbox provider."""

from collections.abc import Callable, Sequence
from pathlib import Path

from services.devstack.errors import DevstackError
from services.devstack.private_file import write_private

SERVICE_NAME = "development"
KEY_FILE = "development-service-key"


def read_service_key(data_dir: Path) -> str:
    """The key of `data_dir`; empty when there is none."""
    path = data_dir / KEY_FILE
    return path.read_text().strip() if path.exists() else ""


def ensure_service_key(
    data_dir: Path,
    providers: Sequence[str],
    *,
    run_cli: Callable[[list[str]], str],
    progress: Callable[[str], None],
) -> None:
    """Make the key unless the file is there. It is written last, so a start that was cut short makes another one."""
    if read_service_key(data_dir):
        return
    progress("making the development service key …")
    key = run_cli(["service", "create", SERVICE_NAME]).strip()
    if not key or "\n" in key:
        raise DevstackError("`service create` printed no key")
    for provider in providers:
        run_cli(["service", "grant", SERVICE_NAME, provider])
    write_private(data_dir / KEY_FILE, f"{key}\n")
