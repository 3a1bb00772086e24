"""The secrets of one DATA_DIR (the folder where a stack keeps everything): made once, and kept beside the data that
they protect."""

import base64
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from services.devstack.errors import DevstackError
from services.devstack.private_file import write_private

FILE = "secrets.json"


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class DevelopmentSecrets:
    """Random secrets, none of which is of any use outside this DATA_DIR."""

    encryption_key: str
    """Key of the vault: base64 of 32 bytes."""
    encryption_salt: str
    signing_secret: str
    webhook_secret: str
    """Secret of Clerk's webhooks: `whsec_` and base64 of 32 bytes (Standard Webhooks)."""
    clerk_secret_key: str

    @classmethod
    def generate(cls) -> Self:
        """Return new secrets."""
        return cls(
            encryption_key=_random_key(),
            encryption_salt=secrets.token_urlsafe(32),
            signing_secret=secrets.token_urlsafe(32),
            webhook_secret=f"whsec_{_random_key()}",
            clerk_secret_key=f"sk_test_{secrets.token_urlsafe(32)}",
        )

    @classmethod
    def of(cls, data_dir: Path) -> Self:
        """Return the secrets of `data_dir`; if its file is missing, write one with new secrets first. Raises
        `DevstackError` if the file is malformed."""
        path = data_dir / FILE
        if not path.exists():
            write_private(path, json.dumps(asdict(cls.generate()), indent=2) + "\n")
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DevstackError(f"{path} cannot be read, and without it neither can the tokens: {error}") from None
