"""The plan that tells a keeper (the process that starts, watches and stops all others of a stack) what to run; the
front (the process that the developer started) makes it and sends it as one line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Service:
    """A process to start. It is ready when it has printed `ready_text` or, without such a text, when `ready_url`
    answers 200; with neither, it is ready at once."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    """Variables laid over the environment of the plan."""
    ready_url: str | None = None
    ready_text: str | None = None
    port: int | None = None
    """Port on which this very process has to answer `ready_url`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a keeper starts, in this order: servers, migration, service key, services."""

    data_dir: str
    environment: dict[str, str]
    services: list[Service]
    postgres_sockets: str | None
    """Socket folder of the embedded Postgres; None if DATABASE_URL names another Postgres."""
    valkey_sockets: str | None
    """Socket folder of the embedded Valkey; None if REDIS_URL names another server."""
    postgres_settings: dict[str, str]
    cli: list[str]
    """Command of the service's CLI; empty if there is nothing to migrate and no key to make."""
    providers: list[str]
    """Names of the providers whose tokens the development service key may read."""
    echo: bool
    """Whether the services' output is shown in the terminal; it is logged in any case."""

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a plan from the output of `to_json`."""
        fields: Mapping[str, Any] = json.loads(text)
        return cls(**{**fields, "services": [Service(**service) for service in fields["services"]]})
