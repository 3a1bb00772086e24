"""What every key source can do, and the words that they share."""

from typing import Final, Protocol

from services.user_management.exceptions import StartupError
from services.user_management.security.encryption import KEY_BYTES

SERVICE: Final = "user-management"
"""Wrapped with each secret beside its version, so that nothing wrapped for others, or for another version, passes."""
KEYS_VARIABLE: Final = "ENCRYPTION_KEYS"


class KeySource(Protocol):
    """Gives the 32-byte secret of a key version, once, at boot. Its methods block."""

    def versions(self) -> list[int]:
        """Versions on offer, ascending; asks nobody."""

    def load(self, version: int) -> bytes:
        """The secret of `version`, 32 bytes. Raises StartupError naming the variable and the version."""

    def wrap(self, version: int, secret: bytes) -> str:
        """`secret` as ENCRYPTION_KEYS holds it. Raises StartupError."""


def of_right_length(version: int, secret: bytes) -> bytes:
    """`secret`, if it is one. Raises StartupError."""
    if len(secret) != KEY_BYTES:
        raise StartupError(f"{KEYS_VARIABLE}: version {version} unwraps to {len(secret)} bytes, {KEY_BYTES} are needed")
    return secret
