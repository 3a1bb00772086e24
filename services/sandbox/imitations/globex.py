"""The sandbox's imitation of Globex, the documentation's invented provider: it publishes no metadata, and differs from
the standards in every way that its provider file describes."""

from collections.abc import Mapping
from typing import Any

from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.persona import Persona

_SCOPES = frozenset({"profile.read", "documents.read", "documents.write"})
_INCLUDED = {"documents.write": {"documents.read"}}
"""Scope → the scopes that it includes. An answer that names the scope does not name them."""
_PREFIX = "globex."
_OTHER_NAMES = {"documents.read": "docs_ro"}


class Globex(Persona):
    """Globex: OAuth without OpenID Connect, with commas between the scopes of a request, an answer to a code that nests
    the access token, and claims of another shape."""

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
        """Tell whether the client gets a refresh token: only for offline access, and if the account has a live consent
        already, only if the request asks for consent again."""
        asks_again = "consent" in parameters.get("prompt", "").split()
        return parameters.get("access_type") == "offline" and (asks_again or not consented_before)

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002  the same for all scopes
        """Return the account's id, its e-mail address as `login`, and its workspace, whose id is the domain of the
        address."""
        workspace = account.email.rpartition("@")[2]
        return {"id": account.id, "login": account.email, "workspace": {"id": workspace}}

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:  # noqa: ARG002  as the base class declares it
        """Return the answer without `expires_in`, and with scopes in Globex's own spelling, except for scopes that
        another granted scope includes."""
        included = {narrow for scope in tokens.scope.split() for narrow in _INCLUDED.get(scope, ())}
        named = [
            _OTHER_NAMES.get(scope, f"{_PREFIX}{scope}") for scope in tokens.scope.split() if scope not in included
        ]
        members = tokens.as_json() | {"scope": " ".join(named)}
        del members["expires_in"]
        return members

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer to a code: the same as to a refresh token, but with the access token in `result.token`."""
        members = self.refresh_answer(tokens, account)
        return {"result": {"token": members.pop("access_token")}, **members}
