"""Reader of the Procfile: one `NAME: command` per line, run without a shell.

`${NAME}` and `${NAME:-default}` are substituted inside the words that shell quoting gives; a value never becomes more
than one word. Pipes, redirections and `VAR=value command` need a shell and are not supported.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from services.devstack.errors import DevstackError

_LINE = re.compile(r"^([A-Za-z0-9_-]+):\s*(\S.*)$")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def read_procfile(path: Path, variables: Mapping[str, str]) -> dict[str, list[str]]:
    """Return process name → command, in the order of the file.

    Raises `DevstackError` naming the line that is malformed, repeats a name, or uses a variable that is not set and has
    no default.
    """
    commands: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, command = _parse(line, variables)
        except ValueError as error:
            raise DevstackError(f"{path.name} line {number}: {error}") from None
        if name in commands:
            raise DevstackError(f"{path.name} line {number}: {name} is named twice")
        commands[name] = command
    return commands


def _parse(line: str, variables: Mapping[str, str]) -> tuple[str, list[str]]:
    matched = _LINE.match(line)
    if matched is None:
        raise ValueError("is not `name: command`")
    return matched[1], [substitute(word, variables) for word in shlex.split(matched[2])]


def substitute(word: str, variables: Mapping[str, str]) -> str:
    """Return `word` with `${NAME}` and `${NAME:-default}` replaced; an empty variable counts as not set. Raises
    ValueError for a name that has neither value nor default."""

    def value(matched: re.Match[str]) -> str:
        name, default = matched[1], matched[2]
        if found := variables.get(name, ""):
            return found
        if default is None:
            raise ValueError(f"the variable {name} is not set")
        return str(default)

    return _VARIABLE.sub(value, word)
