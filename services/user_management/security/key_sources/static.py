"""The key source for secrets that are not wrapped: they stand in the environment or in a file as they are."""

import base64
from collections.abc import Mapping

from services.user_management.security.key_sources.source import of_right_length


class StaticKeySource:
    """A key source that holds the secrets themselves and needs no other party."""

    def __init__(self, secrets_by_version: Mapping[int, bytes]) -> None:
        self._secrets = dict(secrets_by_version)

    def versions(self) -> list[int]:
        """Return the versions that this source offers, ascending."""
        return sorted(self._secrets)

    def load(self, version: int) -> bytes:
        """Return the secret of `version`. Raises StartupError if it does not have 32 bytes."""
        return of_right_length(version, self._secrets[version])

    def wrap(self, version: int, secret: bytes) -> str:  # noqa: ARG002 - plain base64 says nothing of its version
        """Return base64 of the secret itself."""
        return base64.b64encode(secret).decode()
