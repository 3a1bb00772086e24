"""Where key secrets come from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from services.user_management.exceptions import StartupError


class KeySource(Protocol):
    """Anything that can give the 32-byte secret of a key version, once, at boot."""

    def versions(self) -> list[int]:
        """Versions on offer, ascending."""

    def load(self, version: int) -> bytes:
        """The secret of `version`, 32 bytes."""


class StaticKeySource:
    """Secrets that were already given: in the environment or in a file."""

    def __init__(self, secrets_by_version: Mapping[int, bytes]) -> None:
        self._secrets = dict(secrets_by_version)

    def versions(self) -> list[int]:
        return sorted(self._secrets)

    def load(self, version: int) -> bytes:
        return self._secrets[version]


def read_key_file(path: Path) -> object:
    """The JSON object in `path`. Raises StartupError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"ENCRYPTION_KEYS_FILE: {path} cannot be read: {error}") from None
