"""Where the product sends its users to connect (again)."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class ReconnectLinks:
    """Fills in the setting FRONTEND_CONNECT_URL."""

    template: str
    """With {provider} and {scopes}."""

    def url(self, provider: str, scopes: Iterable[str]) -> str:
        """The product's page for connecting `provider` with `scopes`."""
        link = self.template.replace("{provider}", quote(provider, safe=""))
        return link.replace("{scopes}", quote(" ".join(scopes), safe=""))
