"""Providers as data: one TOML file each, built in or the operator's own."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from services.user_management.enums import ProviderErrorKind, RefreshKind
from services.user_management.exceptions import StartupError, UnknownProviderError

BUILT_IN = Path(__file__).parent / "providers"
_STANDARD_ERRORS: Mapping[str, ProviderErrorKind] = {
    "invalid_grant": ProviderErrorKind.REAUTH,
    "interaction_required": ProviderErrorKind.REAUTH,
    "consent_required": ProviderErrorKind.REAUTH,
    "login_required": ProviderErrorKind.REAUTH,
    "access_denied": ProviderErrorKind.REAUTH,
    "invalid_client": ProviderErrorKind.OPERATOR,
    "unauthorized_client": ProviderErrorKind.OPERATOR,
    "unsupported_grant_type": ProviderErrorKind.OPERATOR,
    "invalid_request": ProviderErrorKind.OPERATOR,
    "invalid_scope": ProviderErrorKind.OPERATOR,
    "temporarily_unavailable": ProviderErrorKind.TRANSIENT,
    "server_error": ProviderErrorKind.TRANSIENT,
}
"""RFC 6749 sections 4.1.2.1 and 5.2, OpenID Connect Core section 3.1.2.6."""


def _web_url(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("must be an http(s) URL")
    return url


WebUrl = Annotated[str, AfterValidator(_web_url)]


class UserInfoMapping(BaseModel):
    """Which claim of the user-info answer gives which of our fields."""

    model_config = ConfigDict(extra="forbid")

    account_id: str = "sub"
    email: str | None = "email"


class ProviderConfig(BaseModel):
    """One provider file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    display_name: str = Field(min_length=1, max_length=64)
    issuer: WebUrl
    authorization_endpoint: WebUrl
    token_endpoint: WebUrl
    userinfo_endpoint: WebUrl
    revocation_endpoint: WebUrl | None = None
    refresh: RefreshKind
    pkce: bool = True
    scope_separator: str = Field(default=" ", min_length=1, max_length=1)
    client_authentication: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    required_scopes: tuple[str, ...] = ()
    """Asked for with every connection, whatever the caller wants."""
    default_lifetime_seconds: int | None = Field(default=None, ge=60)
    """Life of an access token whose answer names none; absent: it does not run out."""
    authorization_parameters: dict[str, str] = {}
    userinfo: UserInfoMapping = UserInfoMapping()
    scopes: dict[str, str] = {}
    """Scope → what it is for, in words for the person who grants it."""
    scope_aliases: dict[str, str] = {}
    """Spelling in the provider's answers → the scope as we name it."""
    errors: dict[str, ProviderErrorKind] = {}

    def error_kind(self, code: str) -> ProviderErrorKind | None:
        """Class of an error code; None for one that nobody knows."""
        return self.errors.get(code) or _STANDARD_ERRORS.get(code)

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Scopes of an answer: aliases resolved, sorted, each once."""
        parts = text.replace(self.scope_separator, " ").split()
        return tuple(sorted({self.scope_aliases.get(part, part) for part in parts}))

    def urls(self) -> Iterator[str]:
        """Everything we will send somebody to."""
        yield from (self.issuer, self.authorization_endpoint, self.token_endpoint, self.userinfo_endpoint)
        if self.revocation_endpoint:
            yield self.revocation_endpoint


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider file together with our registration there."""

    config: ProviderConfig
    client_id: str
    client_secret: SecretStr

    @property
    def name(self) -> str:
        return self.config.name


class ProviderRegistry:
    """The providers that have client credentials."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = {provider.name: provider for provider in providers}

    def get(self, name: str) -> Provider:
        """Raises UnknownProviderError."""
        try:
            return self._providers[name]
        except KeyError:
            raise UnknownProviderError from None

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    def __iter__(self) -> Iterator[Provider]:
        return iter(sorted(self._providers.values(), key=lambda provider: provider.name))


def load_providers(folders: Iterable[Path], clients: Mapping[str, tuple[str, SecretStr]]) -> ProviderRegistry:
    """Read every `*.toml` in `folders`; a later folder replaces a provider of the same name.

    `clients` maps a provider's name to (client id, client secret). Raises StartupError naming file and key.
    """
    configs: dict[str, ProviderConfig] = {}
    for folder in folders:
        if not folder.is_dir():
            raise StartupError(f"PROVIDERS_DIR: {folder} is not a folder")
        for path in sorted(folder.glob("*.toml")):
            config = read_provider(path)
            configs[config.name] = config
    if unknown := sorted(set(clients) - set(configs)):
        raise StartupError(f"OAUTH_CLIENTS: there is no provider file for {', '.join(unknown)}")
    return ProviderRegistry(
        Provider(configs[name], client_id, client_secret) for name, (client_id, client_secret) in clients.items()
    )


def read_provider(path: Path) -> ProviderConfig:
    """One provider file. Raises StartupError naming the file, and the line or the keys that are wrong."""
    try:
        return ProviderConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartupError(f"provider file {path}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise StartupError(f"provider file {path}: {problems}") from None
