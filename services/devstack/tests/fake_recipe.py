"""A Procfile of stand-ins."""

import shlex
import sys
from pathlib import Path

from services.devstack.preparation import Recipe

FAKE_SERVICE = Path(__file__).with_name("fake_service.py")


def fake_command(role: str) -> list[str]:
    """Return the command of a stand-in."""
    return [sys.executable, str(FAKE_SERVICE), role]


def write_procfile(folder: Path, *roles: str) -> Path:
    """Write and return a Procfile with these stand-ins."""
    path = folder / "Procfile"
    path.write_text("".join(f"{role}: {shlex.join(fake_command(role))}\n" for role in roles))
    return path


def fake_recipe(folder: Path, *roles: str) -> Recipe:
    """Return a recipe of stand-ins without a CLI."""
    return Recipe(procfile=write_procfile(folder, *roles), cli=(), postgres_settings={"fsync": "off"})
