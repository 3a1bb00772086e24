"""The group of services for the vault, which seals tokens and other secrets, and for the rotation of its keys."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.security.encryption import TokenEncryption
from services.user_management.security.key_sources import load_secrets, open_key_source
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.key_rotation_service import KeyRotationService
from services.user_management.services.vault_service import VaultService
from services.user_management.settings import Settings


@dataclass(frozen=True, kw_only=True)
class KeyServices:
    """`vault` seals and opens secrets; `rotation` encrypts them anew under newer keys."""

    vault: VaultService
    rotation: KeyRotationService


def build_keys(resources: Resources) -> KeyServices:
    """Build the services for the vault, which has no keys before `vault.load()` is called."""
    vault = VaultService(
        load_keys=lambda: _encryption(resources.settings),
        unit_of_work=resources.unit_of_work,
        clock=resources.clock,
    )
    rotation = KeyRotationService(
        vault=vault,
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        status_tracker=IntegrationStatusTracker(),
        clock=resources.clock,
        start_slice=resources.start_slice,
    )
    return KeyServices(vault=vault, rotation=rotation)


def _encryption(settings: Settings) -> TokenEncryption:
    """Get the keys from the key source and derive the root keys, which blocks for seconds. Raises StartupError."""
    salt = settings.encryption.salt.get_secret_value().encode()
    return TokenEncryption.from_secrets(load_secrets(open_key_source(settings.encryption)), salt)
