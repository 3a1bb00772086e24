"""The whole state of the sandbox, in one object that tests may hold in their own process."""

from pathlib import Path

import httpx

from services.sandbox.clerk.party import Clerk
from services.sandbox.faults import Faults
from services.sandbox.imitations.github import GitHub
from services.sandbox.imitations.globex import Globex
from services.sandbox.imitations.google import Google
from services.sandbox.imitations.microsoft import Microsoft
from services.sandbox.imitations.slack import Slack
from services.sandbox.intake import Intake
from services.sandbox.ledger import Ledger
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import KINDS, Kind

DEFAULT_API_URL = "http://127.0.0.1:8000"


def _plain(kind: Kind, base_url: str) -> Persona:
    return Persona(kind, party=f"oidc:{kind}", issuer=f"{base_url}/oidc/{kind}", kind=kind)


def _imitated(base_url: str) -> tuple[Persona, ...]:
    return Google(base_url), Microsoft(base_url), GitHub(base_url), Slack(base_url), Globex(base_url)


class Sandbox:
    """The parties (Clerk and the providers), the ledger (the record of all calls to and from them), and the faults that
    are scripted for their calls.

    `base_url` is the sandbox's own address, which appears in issuers and metadata. `webhook_transport` replaces the
    network for outgoing webhooks if the service runs in the same process.
    """

    def __init__(
        self,
        *,
        base_url: str = "http://127.0.0.1:8001",
        frontend_origin: str = "http://localhost:3000",
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        webhook_transport: httpx.AsyncBaseTransport | None = None,
        ledger_file: Path | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.ledger = Ledger(ledger_file)
        self.faults = Faults()
        self.intake = Intake(self.ledger, self.faults)
        self.clerk = Clerk(
            self.ledger,
            base_url=self.base_url,
            frontend_origin=frontend_origin,
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
            webhook_transport=webhook_transport,
        )
        self.providers: dict[str, Provider] = {kind: Provider(_plain(kind, self.base_url)) for kind in KINDS}
        """The plain providers by refresh kind (what becomes of a refresh token that was used)."""
        self.imitations = {persona.name: Provider(persona) for persona in _imitated(self.base_url)}
        """The imitations of Google, Microsoft, GitHub, Slack, and Globex from the documentation, by name (`google`)."""

    @property
    def api_url(self) -> str:
        """Return user management's address, taken from the webhook URL; without one, `DEFAULT_API_URL`."""
        url = httpx.URL(self.clerk.webhooks.url or DEFAULT_API_URL)
        return str(url.copy_with(raw_path=b"/")).rstrip("/")

    def provider(self, name: str) -> Provider | None:
        """Return a plain provider by its kind or an imitation by its name; `None` if there is none."""
        return self.providers.get(name) or self.imitations.get(name)

    def close(self) -> None:
        """Close the ledger's file."""
        self.ledger.close()
