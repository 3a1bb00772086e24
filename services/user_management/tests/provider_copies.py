"""The built-in provider files, pointed at the sandbox."""

from pathlib import Path

from services.devstack.provider_copies import copy_provider_files


def copy_providers(folder: Path, sandbox_url: str) -> list[str]:
    """Write `google.toml` and the others into `folder` with the sandbox's addresses; returns the providers' names."""
    return copy_provider_files(folder, sandbox_url)
