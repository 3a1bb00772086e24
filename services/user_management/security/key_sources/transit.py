"""The key source for secrets that are wrapped (encrypted) by the transit engine of HashiCorp Vault or OpenBao.

Service and key version go into `associated_data`, which the AEAD key types of the engine authenticate: the engine
refuses a text that was wrapped for another version (https://openbao.org/api-docs/secret/transit/#decrypt-data). A
*derived* key would take a `context` instead; the engine refuses such a key with an error message that says so.
"""

import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from services.user_management.exceptions import StartupError
from services.user_management.http_client import (
    BlockingHttpClient,
    HttpError,
    HttpResponse,
    create_blocking_http_client,
)
from services.user_management.security.key_sources.source import KEYS_VARIABLE, SERVICE, of_right_length

ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.2
"""The pause before the second attempt; the one before the third is twice as long."""
_DENIED: Final = frozenset({401, 403})
_NO_SUCH_PATH: Final = 404


@dataclass(frozen=True, slots=True)
class TransitTarget:
    """The transit key, the engine's URL and `mount` (its path there), and the token or the file that has it, which goes
    first. `ca_file` holds the certificate authorities to trust; None: the public ones."""

    url: str
    key: str
    mount: str
    token: str | None
    token_file: Path | None
    ca_file: Path | None


class TransitKeySource:
    """A key source that asks the transit engine to decrypt the wrapped secret of each version."""

    def __init__(self, target: TransitTarget, wrapped: Mapping[int, bytes]) -> None:
        self._target = target
        self._wrapped = dict(wrapped)

    def versions(self) -> list[int]:
        """Return the versions for which there are wrapped secrets, ascending. The engine is not asked."""
        return sorted(self._wrapped)

    def load(self, version: int) -> bytes:
        """Return the secret of `version`. Raises StartupError naming the variable and the version."""
        given = self._ask("decrypt", version, "plaintext", ciphertext=self._wrapped[version].decode())
        try:
            secret = base64.b64decode(given, validate=True)
        except binascii.Error:
            raise self._not_an_answer(version) from None
        return of_right_length(version, secret)

    def wrap(self, version: int, secret: bytes) -> str:
        """Have the engine encrypt `secret` for `version`, and return its `vault:v…` text. Raises StartupError."""
        return self._ask("encrypt", version, "ciphertext", plaintext=base64.b64encode(secret).decode())

    def _ask(self, operation: str, version: int, member: str, **body: str) -> str:
        """Call the engine and return one member of its answer. Raises StartupError, which names the variable to look at
        and quotes no secret."""
        target = self._target
        path = f"v1/{quote(target.mount.strip('/'))}/{operation}/{quote(target.key, safe='')}"
        associated = base64.b64encode(f"{SERVICE}:{version}".encode()).decode()
        response = self._post(f"{target.url.rstrip('/')}/{path}", version, {**body, "associated_data": associated})
        if response.status_code in _DENIED:
            raise StartupError(
                f"ENCRYPTION_TRANSIT_TOKEN: version {version}: may not {operation} with the key {target.key}"
            )
        if response.status_code == _NO_SUCH_PATH:
            raise StartupError(
                f"ENCRYPTION_TRANSIT_MOUNT: version {version}: there is no transit engine at {target.mount}"
            )
        if response.status_code != 200:
            raise StartupError(
                f"{KEYS_VARIABLE}: version {version}: the key {target.key} at ENCRYPTION_TRANSIT_URL refuses to"
                f" {operation} it: {response.status_code}"
            )
        return self._member(response, version, member)

    def _post(self, url: str, version: int, body: dict[str, str]) -> HttpResponse:
        """POST to the engine and return its answer if the status is below 500. After a higher status or no answer, try
        again, up to three attempts in all. Raises StartupError, also if the token's file or the CA's cannot be read."""
        headers = {"X-Vault-Token": self._token(version), "X-Vault-Request": "true"}
        failure = ""
        with self._client() as client:
            for attempt in range(ATTEMPTS):
                time.sleep(PAUSE_SECONDS * attempt)  # this runs in a thread of its own, at boot
                try:
                    response = client.post(url, json=body, headers=headers)
                except HttpError as error:
                    failure = type(error).__name__
                    continue
                if response.status_code < 500:
                    return response
                failure = str(response.status_code)  # 503: sealed
        raise StartupError(f"ENCRYPTION_TRANSIT_URL: version {version}: {self._target.url} cannot be asked: {failure}")

    def _client(self) -> BlockingHttpClient:
        try:
            return create_blocking_http_client(ca_file=self._target.ca_file)
        except OSError as error:  # ssl.SSLError, for a file without certificates, is one too
            raise StartupError(f"ENCRYPTION_TRANSIT_CA_FILE: cannot be used: {error.strerror or error}") from None

    def _token(self, version: int) -> str:
        target = self._target
        if target.token_file is None:
            return target.token or ""
        try:
            return target.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(
                f"ENCRYPTION_TRANSIT_TOKEN_FILE: version {version}: cannot be read: {type(error).__name__}"
            ) from None

    def _member(self, response: HttpResponse, version: int, member: str) -> str:
        try:
            document: Any = response.json()
            value: Any = document["data"][member]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._not_an_answer(version) from None
        if not isinstance(value, str):
            raise self._not_an_answer(version)
        return value

    def _not_an_answer(self, version: int) -> StartupError:
        return StartupError(
            f"ENCRYPTION_TRANSIT_URL: version {version}: {self._target.url} answers, but not as a transit engine does"
        )
