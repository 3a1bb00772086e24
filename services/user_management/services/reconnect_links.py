"""Links to the product's page on which users connect an account, or connect it again."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class ReconnectLinks:
    """Builds links from the setting FRONTEND_CONNECT_URL."""

    template: str
    """A URL with the placeholders {provider} and {scopes}."""

    def url(self, provider: str, scopes: Iterable[str]) -> str:
        """Return the URL of the product's page for connecting `provider` with `scopes`."""
        link = self.template.replace("{provider}", quote(provider, safe=""))
        return link.replace("{scopes}", quote(" ".join(scopes), safe=""))
