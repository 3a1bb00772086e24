"""Where key secrets come from."""

from collections.abc import Mapping
from typing import Protocol


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
