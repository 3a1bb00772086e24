"""The accounts that people have at a provider."""

import hashlib
from dataclasses import dataclass

DEFAULT_EMAIL = "ada@example.com"


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account at the provider. `id` is the `sub` claim of a plain provider; imitations of real ones may
    derive ids of their own from it."""

    id: str
    email: str
    name: str


class Accounts:
    """Accounts by id and by e-mail address. An account for `DEFAULT_EMAIL` exists from the start."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._by_id: dict[str, Account] = {}
        self._by_email: dict[str, Account] = {}
        self.get(DEFAULT_EMAIL)

    def get(self, reference: str) -> Account:
        """Return the account with this id or e-mail address, and make it if there is none. An account that is made for
        an address gets an id that is derived from the address, so that the id is the same after a restart; one that is
        made for an id gets the address `<id>@example.com`."""
        known = self._by_id.get(reference) or self._by_email.get(reference)
        return known or self._add(reference)

    def _add(self, reference: str) -> Account:
        email = reference if "@" in reference else f"{reference}@example.com"
        digest = hashlib.sha256(f"{self._namespace}:{email}".encode()).hexdigest()
        account_id = f"acct-{digest[:16]}" if "@" in reference else reference
        account = Account(id=account_id, email=email, name=email.partition("@")[0].replace(".", " ").title())
        self._by_id[account_id] = self._by_email[email] = account
        return account

    def all(self) -> list[Account]:
        """Return every account, oldest first."""
        return list(self._by_id.values())
