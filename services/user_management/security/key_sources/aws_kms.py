"""The key source for secrets that are wrapped (encrypted) by a symmetric key of AWS KMS. Imported only by a process
that uses it (see `selection`).

The encryption context is part of what KMS authenticates: KMS refuses a blob that was wrapped for another service, or
for another version. https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import botocore.session  # type: ignore[import-untyped]  # botocore ships no types
from botocore.config import Config  # type: ignore[import-untyped]  # see above
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # see above

from services.user_management.exceptions import StartupError
from services.user_management.security.key_sources.source import KEYS_VARIABLE, SERVICE, of_right_length

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 5.0
ATTEMPTS: Final = 3
"""The number of attempts in all. botocore waits between them, and repeats only calls for which that can help
(throttling, 5xx, timeouts)."""
_ABOUT_THE_BLOB: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


@dataclass(frozen=True, slots=True)
class KmsTarget:
    """The KMS key that wraps the secrets, and where it is."""

    key_id: str
    region: str
    endpoint: str | None
    """The URL of KMS; None for the region's own endpoint."""


class AwsKmsKeySource:
    """A key source that asks KMS to decrypt the wrapped secret of each version."""

    def __init__(self, target: KmsTarget, wrapped: Mapping[int, bytes]) -> None:
        self._target = target
        self._wrapped = dict(wrapped)
        self._opened: Any = None

    def versions(self) -> list[int]:
        """Return the versions for which there are wrapped secrets, ascending. KMS is not asked."""
        return sorted(self._wrapped)

    def load(self, version: int) -> bytes:
        """Return the secret of `version`. Raises StartupError naming the variable and the version."""
        try:
            blob = base64.b64decode(self._wrapped[version], validate=True)
        except binascii.Error:
            raise StartupError(f"{KEYS_VARIABLE}: version {version} is not base64 of a KMS CiphertextBlob") from None
        answer = self._ask("decrypt", version, CiphertextBlob=blob)
        return of_right_length(version, answer["Plaintext"])

    def wrap(self, version: int, secret: bytes) -> str:
        """Have KMS encrypt `secret` for `version`, and return base64 of its CiphertextBlob. Raises StartupError."""
        answer = self._ask("encrypt", version, Plaintext=secret)
        return base64.b64encode(answer["CiphertextBlob"]).decode()

    def _ask(self, operation: str, version: int, **parameters: bytes) -> Any:
        """Call `operation` of KMS with the key and the encryption context of `version`. Raises StartupError, which
        names the variable to look at and quotes no secret."""
        context = {"service": SERVICE, "key_version": str(version)}
        try:
            call = getattr(self._client(), operation)
            return call(KeyId=self._target.key_id, EncryptionContext=context, **parameters)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            variable = KEYS_VARIABLE if code in _ABOUT_THE_BLOB else "ENCRYPTION_KMS_KEY_ID"
            raise StartupError(
                f"{variable}: version {version}: AWS KMS refuses to {operation} with {self._target.key_id}: {code}"
            ) from None
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            where = "ENCRYPTION_KMS_REGION" if self._target.endpoint is None else "ENCRYPTION_KMS_ENDPOINT"
            raise StartupError(f"{where}: version {version}: AWS KMS cannot be asked: {type(error).__name__}") from None

    def _client(self) -> Any:
        if self._opened is None:
            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            )
            self._opened = botocore.session.get_session().create_client(
                "kms", region_name=self._target.region, endpoint_url=self._target.endpoint, config=config
            )
        return self._opened
