"""Copies of the service's provider files that lead to the sandbox, which serves the real providers' paths. A provider
for which the developer has a client of their own gets none."""

import json
import re
from collections.abc import Collection
from pathlib import Path

BUILT_IN = Path(__file__).resolve().parents[1] / "user_management" / "integrations" / "providers"
COPY_MARK = (
    "# A copy that leads to the sandbox, written anew at each start. Without this line the file is left alone.\n"
)
_ADDRESSES = re.compile(r"^(?:issuer|id_token_issuers|jwks_uri|discovery|\w*endpoint)\s*=.*$", re.MULTILINE)
"""Pattern of the lines that say where a provider is. Scopes may look like URLs too, but are names."""


def copy_provider_files(folder: Path, sandbox_url: str, *, except_for: Collection[str] = ()) -> list[str]:
    """Write a copy of every built-in provider file into `folder` (made if absent); return the names of the copied
    providers.

    Providers in `except_for` are not copied, and copies that an earlier run made of them are removed. A file that is
    not a copy is the developer's own: it stays, and its name is not returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied: list[str] = []
    for file in sorted(BUILT_IN.glob("*.toml")):
        copy = folder / file.name
        if copy.exists() and not copy.read_text(encoding="utf-8").startswith(COPY_MARK):
            continue
        if file.stem in except_for:
            copy.unlink(missing_ok=True)
            continue
        copy.write_text(COPY_MARK + _pointed_at(sandbox_url, file.read_text(encoding="utf-8")), encoding="utf-8")
        copied.append(file.stem)
    return copied


def _pointed_at(sandbox_url: str, text: str) -> str:
    place = f"{sandbox_url.rstrip('/')}/as/"
    return _ADDRESSES.sub(lambda line: line[0].replace("https://", place), text)


def configured_clients(oauth_clients: str) -> set[str]:
    """Return the names of the providers in a value of OAUTH_CLIENTS; none if the value is not a JSON object, which the
    service rejects."""
    try:
        clients = json.loads(oauth_clients or "{}")
    except ValueError:
        return set()
    return set(clients) if isinstance(clients, dict) else set()
