"""The service's and the sandbox's environment variables: their development values, overridden by the developer's
own."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.devstack.development_secrets import DevelopmentSecrets
from services.devstack.ports import LOOPBACK

FRONTEND_ORIGIN = "http://localhost:3000"  # where the front ends that use the service run in development


@dataclass(frozen=True, slots=True)
class Addresses:
    """Ports and URLs of the API, the sandbox, Postgres and Valkey of one stack."""

    port: int
    sandbox_port: int
    database_url: str
    database_migration_url: str
    redis_url: str

    @property
    def api_url(self) -> str:
        """Return the base URL of the API."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def sandbox_url(self) -> str:
        """Return the base URL of the sandbox."""
        return f"http://{LOOPBACK}:{self.sandbox_port}"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """OAuth client by which the providers know the service."""

    client_id: str
    client_secret: str


def development_environment(
    data_dir: Path,
    addresses: Addresses,
    secrets: DevelopmentSecrets,
    *,
    providers: Iterable[str],
    client: OAuthClient,
) -> dict[str, str]:
    """Return the development values of the environment variables, for every process of the stack; OAUTH_CLIENTS gives
    `client` to each of `providers`. `process_environment` then overrides the values with the developer's own."""
    clients = {name: {"client_id": client.client_id, "client_secret": client.client_secret} for name in providers}
    return {
        "ENVIRONMENT": "development",
        "HOST": LOOPBACK,
        "PORT": str(addresses.port),
        "PUBLIC_URL": addresses.api_url,
        "DATABASE_URL": addresses.database_url,
        "DATABASE_MIGRATION_URL": addresses.database_migration_url,
        "REDIS_URL": addresses.redis_url,
        "CLERK_ISSUER": f"{addresses.sandbox_url}/clerk",
        "CLERK_AUTHORIZED_PARTIES": json.dumps([FRONTEND_ORIGIN]),
        "CLERK_API_URL": f"{addresses.sandbox_url}/clerk/v1",
        "CLERK_SECRET_KEY": secrets.clerk_secret_key,
        "CLERK_WEBHOOK_SIGNING_SECRET": secrets.webhook_secret,
        "PROVIDERS_DIR": str(data_dir / "providers"),
        "OAUTH_CLIENTS": json.dumps(clients),
        "FRONTEND_RETURN_URLS": json.dumps([f"{FRONTEND_ORIGIN}/connected"]),
        "ENCRYPTION_KEYS": json.dumps({"1": secrets.encryption_key}),
        "ENCRYPTION_SALT": secrets.encryption_salt,
        "SIGNING_SECRET": secrets.signing_secret,
        **_sandbox_environment(addresses),
    }


def _sandbox_environment(addresses: Addresses) -> dict[str, str]:
    return {
        "SANDBOX_URL": addresses.sandbox_url,
        "SANDBOX_HOST": LOOPBACK,
        "SANDBOX_PORT": str(addresses.sandbox_port),
        "SANDBOX_FRONTEND_ORIGIN": FRONTEND_ORIGIN,
        "SANDBOX_WEBHOOK_URL": f"{addresses.api_url}/webhooks/clerk",
    }


def _merged_clients(ours: str, persons: str) -> str:
    """Return, as JSON, the sandbox's OAuth clients (`ours`) together with those that the developer configured
    (`persons`); where both have a client for a provider, the developer's wins. If `persons` is not a JSON object,
    return it unchanged, so that the service rejects it."""
    try:
        clients = json.loads(persons)
    except ValueError:
        return persons
    return json.dumps({**json.loads(ours), **clients}) if isinstance(clients, dict) else persons


def process_environment(development: Mapping[str, str], person: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the stack's processes: the development values, overridden by the developer's. A blank
    value overrides no development value, and the two values of OAUTH_CLIENTS are merged. PATH begins with our own
    virtual environment."""
    merged = {
        **development,
        **{name: value for name, value in person.items() if value.strip() or name not in development},
    }
    if person.get("OAUTH_CLIENTS", "").strip():
        merged["OAUTH_CLIENTS"] = _merged_clients(development["OAUTH_CLIENTS"], person["OAUTH_CLIENTS"])
    programs = str(Path(sys.executable).parent)
    merged["PATH"] = os.pathsep.join(filter(None, (programs, merged.get("PATH", os.defpath))))
    merged["PYTHONUNBUFFERED"] = "1"  # show a line when it is written, not when 8 KiB are full
    # The sandbox signs webhooks with the secret that the service checks; of several in a rotation, the first.
    merged["SANDBOX_WEBHOOK_SECRET"] = merged["CLERK_WEBHOOK_SIGNING_SECRET"].split()[0]
    return merged
