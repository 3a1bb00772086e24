"""Stand-ins for other processes of the service over the same database, with other encryption keys."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from services.user_management.container import Container
from services.user_management.security.encryption import KEY_BYTES, TokenEncryption
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.key_rotation_service import KeyRotationService
from services.user_management.services.vault_service import VaultService

SECOND_ROOT = b"2" * KEY_BYTES
"""The root key of key version 2 in all tests that have one."""


def first_root(container: Container) -> bytes:
    """Return the root key of version 1, as `container` derived it."""
    return container.keys.vault.encryption._roots[1]


async def vault_with(container: Container, roots: Mapping[int, bytes]) -> VaultService:
    """Make the vault of another process that holds these root keys, and load it."""
    vault = VaultService(
        load_keys=lambda: TokenEncryption(roots),
        unit_of_work=container.resources.unit_of_work,
        clock=container.resources.clock,
    )
    await vault.load()
    return vault


async def vault_of_both(container: Container) -> VaultService:
    """Make the vault of another process that holds key versions 1 and 2, and load it."""
    return await vault_with(container, {1: first_root(container), 2: SECOND_ROOT})


def rotation_with(container: Container, vault: VaultService) -> KeyRotationService:
    """Make the key rotation of another process that uses this vault."""
    return KeyRotationService(
        vault=vault,
        database=container.resources.database,
        unit_of_work=container.resources.unit_of_work,
        status_tracker=IntegrationStatusTracker(),
        clock=container.resources.clock,
        start_slice=container.resources.start_slice,
    )


@contextmanager
def holding(container: Container, vault: VaultService) -> Iterator[None]:
    """Give `container` the keys of `vault` for the length of the block."""
    before = container.keys.vault._encryption
    container.keys.vault._encryption = vault.encryption
    try:
        yield
    finally:
        container.keys.vault._encryption = before
        container.keys.vault._proven &= set(before.versions)
