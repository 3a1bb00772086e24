"""The interface of key sources, and the constants and the check that they share."""

from typing import Final, Protocol

from services.user_management.exceptions import StartupError
from services.user_management.security.encryption import KEY_BYTES

SERVICE: Final = "user-management"
"""The name of this service, which is authenticated with each wrapped secret, together with the key version, so that a
secret that was wrapped for another service or another version is refused."""
KEYS_VARIABLE: Final = "ENCRYPTION_KEYS"


class KeySource(Protocol):
    """Gives the secrets of the key versions, 32 bytes each, when a process starts. Its methods block."""

    def versions(self) -> list[int]:
        """Return the versions that this source offers, ascending, without a call over the network."""

    def load(self, version: int) -> bytes:
        """Return the secret of `version`, 32 bytes. Raises StartupError naming the variable and the version."""

    def wrap(self, version: int, secret: bytes) -> str:
        """Return `secret`, that of `version`, in the form in which ENCRYPTION_KEYS holds it. Raises StartupError."""


def of_right_length(version: int, secret: bytes) -> bytes:
    """Return `secret` if it has 32 bytes; otherwise raise StartupError."""
    if len(secret) != KEY_BYTES:
        raise StartupError(f"{KEYS_VARIABLE}: version {version} unwraps to {len(secret)} bytes, {KEY_BYTES} are needed")
    return secret
