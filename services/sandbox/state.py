"""Everything the sandbox knows, in one object that tests hold in process."""

from pathlib import Path

import httpx

from services.sandbox.clerk.party import Clerk
from services.sandbox.faults import Faults
from services.sandbox.intake import Intake
from services.sandbox.ledger import Ledger
from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import KINDS

DEFAULT_API_URL = "http://127.0.0.1:8000"


class Sandbox:
    """The parties, the ledger of what they were asked, and the faults they are to show.

    `base_url` is the sandbox's own address and goes into issuers and discovery. `webhook_transport` replaces the
    network for outgoing webhooks (an in-process service).
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
        self.providers: dict[str, Provider] = {kind: Provider(kind, base_url=self.base_url) for kind in KINDS}

    @property
    def api_url(self) -> str:
        """Where the service is, as far as the webhook URL tells."""
        url = httpx.URL(self.clerk.webhooks.url or DEFAULT_API_URL)
        return str(url.copy_with(raw_path=b"/")).rstrip("/")

    def close(self) -> None:
        """Close the ledger's file."""
        self.ledger.close()
