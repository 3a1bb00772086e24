"""Reads provider files (TOML, built in or the operator's own), and holds the registry of the providers at which we have
an OAuth client.

The file of a provider that publishes its endpoints (OpenID Connect Discovery) can be as short as this:

    name = "acme"
    display_name = "Acme"
    issuer = "https://login.acme.example"
    discovery = true
    refresh = "overlap"
    required_scopes = ["openid", "email"]
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from services.user_management.exceptions import StartupError, UnknownProviderError
from services.user_management.integrations.provider_checks import contradictions
from services.user_management.integrations.provider_config import ProviderConfig
from services.user_management.integrations.provider_file import read_toml, refuse
from services.user_management.settings import Settings

__all__ = [
    "BUILT_IN",
    "Provider",
    "ProviderConfig",
    "ProviderRegistry",
    "Registration",
    "load_providers",
    "read_provider",
]

BUILT_IN = Path(__file__).parent / "providers"


class Registration(NamedTuple):
    """Our OAuth client at a provider."""

    client_id: str
    client_secret: SecretStr
    parameters: Mapping[str, str] = {}
    """Values of the placeholders in the URLs of the provider file, such as Microsoft's `tenant`."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider file with its placeholders filled, and our registration at that provider."""

    config: ProviderConfig
    client_id: str
    client_secret: SecretStr

    @property
    def name(self) -> str:
        return self.config.name


class ProviderRegistry:
    """The providers at which we have an OAuth client."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = {provider.name: provider for provider in providers}

    def get(self, name: str) -> Provider:
        """Return the provider called `name`. Raises UnknownProviderError."""
        try:
            return self._providers[name]
        except KeyError:
            raise UnknownProviderError from None

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    def __iter__(self) -> Iterator[Provider]:
        return iter(sorted(self._providers.values(), key=lambda provider: provider.name))


def configured_providers(settings: Settings) -> ProviderRegistry:
    """Load the built-in providers and the operator's own, but only those for which OAUTH_CLIENTS has a client. Raises
    StartupError for a mistake in a file or in OAUTH_CLIENTS, in production also for a provider's URL that is not
    https."""
    folders = [BUILT_IN] + ([settings.providers.dir] if settings.providers.dir else [])
    clients = {
        name: Registration(client.client_id, client.client_secret, client.parameters)
        for name, client in settings.oauth.clients.items()
    }
    registry = load_providers(folders, clients)
    if settings.is_production:
        for provider in registry:
            if any(not url.startswith("https://") for url in provider.config.urls()):
                raise StartupError(f"PROVIDERS_DIR: provider {provider.name} has an endpoint that is not https")
    return registry


def load_providers(folders: Iterable[Path], clients: Mapping[str, Registration]) -> ProviderRegistry:
    """Read every `*.toml` in `folders`, and return the providers for which there is a client. A provider in a later
    folder replaces one of the same name.

    `clients` maps a provider's name to our registration there. Raises StartupError, which names what is wrong: a folder
    that is missing, a mistake in a file (with its line and key), two files of one folder for the same provider, or a
    client without a file or with a parameter that its file does not have.
    """
    configs: dict[str, ProviderConfig] = {}
    for folder in folders:
        if not folder.is_dir():
            raise StartupError(f"PROVIDERS_DIR: {folder} is not a folder")
        configs |= _read_folder(folder)
    if unknown := sorted(set(clients) - set(configs)):
        raise StartupError(f"OAUTH_CLIENTS: there is no provider file for {', '.join(unknown)}")
    return ProviderRegistry(_registered(configs[name], client) for name, client in clients.items())


def _read_folder(folder: Path) -> dict[str, ProviderConfig]:
    """Return the providers of one folder by name. Raises StartupError if two files have the same `name`: one is
    probably an unfinished copy, and nobody knows which."""
    configs: dict[str, ProviderConfig] = {}
    paths: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        config = read_provider(path)
        if config.name in configs:
            raise StartupError(f"provider files {paths[config.name]} and {path}: both have the name {config.name}")
        configs[config.name], paths[config.name] = config, path
    return configs


def read_provider(path: Path) -> ProviderConfig:
    """Read one provider file. Raises StartupError, which names the file, and the line and key of each mistake in
    it."""
    document, text = read_toml(path)
    try:
        config = ProviderConfig.model_validate(document)
    except ValidationError as error:
        raise refuse(path, text, [(item["loc"], item["msg"]) for item in error.errors()]) from None
    if problems := list(contradictions(config)):
        raise refuse(path, text, problems)
    return config


def _registered(config: ProviderConfig, client: Registration) -> Provider:
    if unknown := sorted(set(client.parameters) - set(config.parameters)):
        raise StartupError(f"OAUTH_CLIENTS: provider {config.name} has no parameter {', '.join(unknown)}")
    parameters = {**config.parameters, **client.parameters}
    quoted = {name: quote(value, safe="") for name, value in {**parameters, "client_id": client.client_id}.items()}
    return Provider(config.filled(quoted), client.client_id, client.client_secret)
