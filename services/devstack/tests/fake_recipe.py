"""Procfiles and recipes whose processes are the stand-ins of `fake_service.py`."""

import shlex
import sys
from pathlib import Path

from services.devstack.preparation import Recipe

FAKE_SERVICE = Path(__file__).with_name("fake_service.py")


def fake_command(role: str) -> list[str]:
    """Return the command that runs the stand-in `role`, such as `web`."""
    return [sys.executable, str(FAKE_SERVICE), role]


def write_procfile(folder: Path, *roles: str) -> Path:
    """Write a Procfile with one stand-in for each of `roles` into `folder`, and return its path."""
    path = folder / "Procfile"
    path.write_text("".join(f"{role}: {shlex.join(fake_command(role))}\n" for role in roles))
    return path


def fake_recipe(folder: Path, *roles: str) -> Recipe:
    """Write a Procfile with the stand-ins `roles` into `folder`, and return a recipe that runs it without a CLI:
    nothing is migrated and no service key is made."""
    return Recipe(procfile=write_procfile(folder, *roles), cli=(), postgres_settings={"fsync": "off"})
