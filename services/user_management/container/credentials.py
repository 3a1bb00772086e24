"""Service keys: whom they belong to, and when they were last used."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.services.service_credentials import KeyUsage, ServiceAuthentication


@dataclass(frozen=True, kw_only=True)
class CredentialServices:
    """Authentication of sibling services."""

    authentication: ServiceAuthentication
    usage: KeyUsage


def build_credentials(resources: Resources) -> CredentialServices:
    """Build the group."""
    usage = KeyUsage(resources.unit_of_work, resources.clock)
    return CredentialServices(authentication=ServiceAuthentication(resources.database, usage), usage=usage)
