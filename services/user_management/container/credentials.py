"""The group of services for service keys: they find the sibling service that a key belongs to, and record the use of
keys."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.services.service_credentials import ServiceAuthentication, key_usage
from services.user_management.services.use_recorder import UseRecorder


@dataclass(frozen=True, kw_only=True)
class CredentialServices:
    """`authentication` finds the sibling service of a key; `usage` records when a key was last used."""

    authentication: ServiceAuthentication
    usage: UseRecorder


def build_credentials(resources: Resources) -> CredentialServices:
    """Build the services for service keys."""
    usage = key_usage(resources.unit_of_work, resources.clock)
    return CredentialServices(
        authentication=ServiceAuthentication(resources.database, usage, resources.clock), usage=usage
    )
