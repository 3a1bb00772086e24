"""The principal: the authenticated party on whose behalf the service acts, as a typed value."""

from dataclasses import dataclass
from enum import StrEnum


class PrincipalKind(StrEnum):
    """The kinds of parties that can act on the service."""

    USER = "user"
    SERVICE = "service"
    SYSTEM = "system"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated party, or ANONYMOUS. `id` is a user id, a service's name or, for the system, a job's name, `cli`
    or the identity provider's name."""

    kind: PrincipalKind
    id: str
    impersonator: str | None = None
    """Subject of the person who acts as the user in an impersonated session (`act` claim, RFC 8693 section 4.1)."""
    is_admin: bool = False
    permissions: frozenset[str] = frozenset()
    """The names of what a service may do beyond reading tokens (`ServicePermission`); empty for others."""


ANONYMOUS = Principal(PrincipalKind.ANONYMOUS, "anonymous")


def system(name: str) -> Principal:
    """Return the principal for this program itself, acting as `name`: a job, `cli`, or the identity provider whose news
    it applies."""
    return Principal(PrincipalKind.SYSTEM, name)
