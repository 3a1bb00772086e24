"""Globex, the invented provider of the documentation: it publishes nothing and has every quirk that its file names."""

from collections.abc import Mapping
from typing import Any

from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.persona import Persona

_SCOPES = frozenset({"profile.read", "documents.read", "documents.write"})
_INCLUDED = {"documents.write": {"documents.read"}}
"""A scope → those that it includes, which answers then leave out."""
_PREFIX = "globex."
_OTHER_NAMES = {"documents.read": "docs_ro"}


class Globex(Persona):
    """OAuth without OpenID Connect: scopes between commas, answers that nest the token, claims of another shape."""

    extra_parameters = ("access_type",)
    seeding_parameters: Mapping[str, str] = {"access_type": "offline", "prompt": "consent"}
    sends_issuer = False
    revokes_account = True
    takes_basic_authentication = False
    userinfo_scope = "profile.read"

    def __init__(self, base_url: str) -> None:
        super().__init__("globex", party="globex", issuer=f"{base_url}/as/id.globex.example", kind="grace")

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes of a text that separates them by commas alone."""
        return tuple(dict.fromkeys(text.split(",")))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the scope is one of Globex's three."""
        return scope in _SCOPES

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],  # noqa: ARG002  Globex does not go by scopes
        parameters: Mapping[str, str],
        *,
        consented_before: bool,
    ) -> bool:
        """Tell whether a refresh token comes along: for offline access alone, and after the first consent only where
        the consent is asked for again."""
        asks_again = "consent" in parameters.get("prompt", "").split()
        return parameters.get("access_type") == "offline" and (asks_again or not consented_before)

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002  all to everybody
        """The person, and the workspace that their e-mail's domain has."""
        workspace = account.email.rpartition("@")[2]
        return {"id": account.id, "login": account.email, "workspace": {"id": workspace}}

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:  # noqa: ARG002  as declared
        """Answer without a lifetime, and with scopes in a spelling of Globex's own."""
        included = {narrow for scope in tokens.scope.split() for narrow in _INCLUDED.get(scope, ())}
        named = [
            _OTHER_NAMES.get(scope, f"{_PREFIX}{scope}") for scope in tokens.scope.split() if scope not in included
        ]
        members = tokens.as_json() | {"scope": " ".join(named)}
        del members["expires_in"]
        return members

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Put the first access token into an object of its own."""
        members = self.refresh_answer(tokens, account)
        return {"result": {"token": members.pop("access_token")}, **members}
