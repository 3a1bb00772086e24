"""Reads provider files (TOML), and builds errors that name the file, line and key of each mistake."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from services.user_management.exceptions import StartupError

Location = tuple[str | int, ...]
"""Path of a key, as pydantic gives it: `("errors", "slow_down")`."""
_TABLE: Final = re.compile(r"\s*\[\s*(?P<name>[^\[\]]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*(?P<name>"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*=""")


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the parsed content of the file, and its text. Raises StartupError if it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # TOML's own errors name line and column.
        raise StartupError(f"provider file {path}: {error}") from None


def refuse(path: Path, text: str, problems: Iterable[tuple[Location, str]]) -> StartupError:
    """Build one error with all `problems` of a file, each with the line of its key, if `line_of` finds one."""
    told = []
    for location, message in problems:
        line = line_of(text, location)
        told.append(f"{f'line {line}: ' if line else ''}{'.'.join(map(str, location))}: {message}")
    return StartupError(f"provider file {path}: {'; '.join(told)}")


def line_of(text: str, location: Sequence[str | int]) -> int | None:
    """Return the number of the line, from 1, that sets the key at `location`, or else of the nearest key that encloses
    it; None if the text has neither.

    The parser keeps no line numbers, so they are found in the text, where each key is on a line of its own. A value
    that is nested within one line gets the number of that line.
    """
    names = [part for part in location if isinstance(part, str)]
    lines = _lines_of_keys(text)
    for length in range(len(names), 0, -1):
        if (line := lines.get(tuple(names[:length]))) is not None:
            return line
    return None


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = tuple(part.strip().strip("\"'") for part in match["name"].split("."))
            lines.setdefault(table, number)
        elif match := _KEY.match(line):
            lines.setdefault((*table, match["name"].strip("\"'")), number)
    return lines
