"""Configuration from the environment: groups under plain names (`DATABASE_POOL_SIZE` is `settings.database.pool_size`).

Development starts with no variable set. Production is strict: every problem is reported at once, by the
variable's name. Only the composition roots (`main`, `celery_app`, `cli`) read `get_settings()`.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.user_management.exceptions import StartupError

DEVELOPMENT_SECRET = "development-only-development-only"  # noqa: S105 - production refuses this value
"""Default of every secret in development."""
_LOOPBACK = ("localhost", "127.", "[::1]", "0.0.0.0")  # noqa: S104 - compared with, not bound to


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


def _parse_json(value: object) -> object:
    """A JSON object from the environment."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None


def _parse_list(value: object) -> object:
    """A JSON list, or plain values between commas."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    return _parse_json(value)


def _database_url(url: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?(\+[a-z0-9]+)?://", url.get_secret_value()):
        raise ValueError("must begin with postgresql://")
    return url


def _redis_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return url


TextList = Annotated[list[str], BeforeValidator(_parse_list)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]


class DatabaseGroup(BaseModel):
    url: DatabaseUrl = SecretStr("postgresql://user_management@localhost/user_management")
    """The runtime role: no UPDATE or DELETE on audit tables."""
    migration_url: DatabaseUrl | None = None
    """The owner role, used by `cli db` alone; default: `DATABASE_URL`."""
    pool_size: int = Field(default=5, ge=1, le=200)
    """Connections for units of work and reads, per process; up to as many again under load."""
    door_pool_size: int = Field(default=8, ge=1, le=200)
    """Connections for the token read statement, per process."""
    statement_cache_size: int = Field(default=100, ge=0, le=1000)
    """Prepared statements per connection; 0 behind pgbouncer in transaction mode."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """For connecting, for taking a connection from the pool, and for one statement."""


class RedisGroup(BaseModel):
    url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("redis://localhost:6379/0")
    stream: str = "user-management.events"
    """Redis Stream that the outbox is relayed to."""
    stream_length: int = Field(default=100_000, ge=100)
    """About how many events the stream keeps."""


class ClerkGroup(BaseModel):
    issuer: str = "http://127.0.0.1:8001/clerk"
    """Clerk's Frontend API URL, the `iss` of its session tokens."""
    jwks_url: str | None = None
    """Default: the issuer's `/.well-known/jwks.json`."""
    jwt_key: str | None = None
    """PEM public key from the dashboard; with it no JWKS is fetched. Line breaks may be written as \\n."""
    secret_key: SecretStr | None = None
    """Backend API key (`sk_…`)."""
    webhook_signing_secret: SecretStr = SecretStr("whsec_" + base64.b64encode(DEVELOPMENT_SECRET.encode()).decode())
    """`whsec_…`; several, separated by spaces, while one is being rotated."""
    authorized_parties: TextList = ["http://localhost:3000"]
    """Origins that may be in `azp`."""
    allow_missing_azp: bool = False
    instance_id: str | None = None
    """When set, webhooks of any other Clerk instance are refused."""

    @property
    def keys_url(self) -> str:
        return self.jwks_url or f"{self.issuer.rstrip('/')}/.well-known/jwks.json"


class EncryptionGroup(BaseModel):
    keys: dict[int, SecretBytes] = {1: SecretBytes(DEVELOPMENT_SECRET.encode()[:32])}
    """JSON object: key version → base64 of 32 random bytes (`cli keys generate` prints one)."""
    keys_file: Path | None = None
    """A file with the same JSON object; its versions are added to `ENCRYPTION_KEYS`, which then has no default."""
    salt: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Salt of the root key derivation, one for the life of the data."""

    @field_validator("keys", mode="before")
    @classmethod
    def decode_keys(cls, value: Any) -> Any:
        return decode_key_map(_parse_json(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def file_replaces_the_default(self) -> "EncryptionGroup":
        if self.keys_file is not None and "keys" not in self.model_fields_set:
            self.keys = {}
        return self


class SigningGroup(BaseModel):
    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Signs cursors and derives PKCE verifiers."""


class OAuthClient(BaseModel):
    client_id: str = Field(min_length=1)
    client_secret: SecretStr


class OAuthGroup(BaseModel):
    clients: Annotated[dict[str, OAuthClient], BeforeValidator(_parse_json)] = {}
    """JSON object: provider name → {"client_id": …, "client_secret": …}."""


class ProvidersGroup(BaseModel):
    dir: Path | None = None
    """Folder with the operator's own provider files (`*.toml`), added to the built-in ones."""


class FrontendGroup(BaseModel):
    origins: TextList = ["http://localhost:3000"]
    """Origins that may call the API from a browser (CORS)."""
    return_urls: Annotated[TextList, Field(min_length=1)] = ["http://localhost:3000/connected"]
    """Exact URLs the OAuth callback may return to; the first is the default."""
    connect_url: str = "http://localhost:3000/connect/{provider}?scopes={scopes}"
    """`reconnect_url` of token refusals, with `{provider}` and `{scopes}` filled in."""


class AdminGroup(BaseModel):
    user_ids: TextList = []


class LogGroup(BaseModel):
    level: str = Field(default="INFO", pattern="(?i)^(debug|info|warning|error|critical)$")
    format: str = Field(default="auto", pattern="^(auto|json|console)$")
    """`auto`: JSON in production, one readable line otherwise."""


class DrainGroup(BaseModel):
    delay_seconds: float = Field(default=0.0, ge=0, le=5)
    """From SIGTERM (`/ready` turns 503) to the closing of the listener; a load balancer's poll interval."""


class SandboxGroup(BaseModel):
    url: str | None = None
    """Set by the development stack; production refuses it."""


class Settings(BaseSettings):
    """All variables. Field names are variable names in lower case."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_file=".env",
        # An empty variable means "not set", as in every shell.
        env_ignore_empty=True,
        extra="ignore",
        enable_decoding=False,
    )

    environment: Environment = Environment.DEVELOPMENT
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str = "http://127.0.0.1:8000"
    """Our own base URL as browsers and providers see it; part of every OAuth redirect URI."""
    database: DatabaseGroup = DatabaseGroup()
    redis: RedisGroup = RedisGroup()
    clerk: ClerkGroup = ClerkGroup()
    encryption: EncryptionGroup = EncryptionGroup()
    signing: SigningGroup = SigningGroup()
    oauth: OAuthGroup = OAuthGroup()
    providers: ProvidersGroup = ProvidersGroup()
    frontend: FrontendGroup = FrontendGroup()
    admin: AdminGroup = AdminGroup()
    log: LogGroup = LogGroup()
    drain: DrainGroup = DrainGroup()
    sandbox: SandboxGroup = SandboxGroup()

    @property
    def is_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def log_json_lines(self) -> bool:
        return self.log.format == "json" or (self.log.format == "auto" and self.is_production)


def decode_key_map(keys: object) -> dict[int, bytes]:
    """Base64 values to bytes. Raises ValueError naming the version (never the value)."""
    decoded: dict[int, bytes] = {}
    if not isinstance(keys, dict):
        raise ValueError("is not a JSON object of version to base64")
    for version, value in keys.items():
        raw = value.encode() if isinstance(value, str) else b""
        try:
            secret = base64.b64decode(raw, validate=True)
        except binascii.Error:
            raise ValueError(f"version {version} is not base64") from None
        if len(secret) != 32:
            raise ValueError(f"version {version} is {len(secret)} bytes, 32 are needed")
        if not str(version).isdecimal() or not 1 <= int(version) < 2**31:
            raise ValueError(f"version {version} is not a positive number")
        decoded[int(version)] = secret
    return decoded


def variable_names(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every environment variable that exists, in order of definition."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from variable_names(annotation, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}".upper()


def _production_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """What production refuses, as (variable, reason)."""
    if settings.sandbox.url:
        yield "SANDBOX_URL", "must not be set in production"
    if settings.clerk.secret_key is None:
        yield "CLERK_SECRET_KEY", "is required"
    for variable, group in (("DATABASE_URL", settings.database), ("REDIS_URL", settings.redis)):
        if "url" not in group.model_fields_set:
            yield variable, "is required"
    yield from _weak_secrets(settings)
    yield from _weak_urls(settings)


def _weak_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    defaults = Settings.model_construct()
    for variable, given, default in (
        (
            "CLERK_WEBHOOK_SIGNING_SECRET",
            settings.clerk.webhook_signing_secret,
            defaults.clerk.webhook_signing_secret,
        ),
        ("ENCRYPTION_SALT", settings.encryption.salt, defaults.encryption.salt),
        ("SIGNING_SECRET", settings.signing.secret, defaults.signing.secret),
    ):
        if given == default:
            yield variable, "is the development default"
        elif len(given.get_secret_value()) < 32:
            yield variable, "is shorter than 32 characters"
    if defaults.encryption.keys[1] in settings.encryption.keys.values():
        yield "ENCRYPTION_KEYS", "contains the development key"


def _weak_urls(settings: Settings) -> Iterator[tuple[str, str]]:
    for variable, url in _urls(settings):
        if not url.startswith("https://"):
            yield variable, "must be an https URL"
        elif url.removeprefix("https://").startswith(_LOOPBACK):
            yield variable, "points at this machine"


def _urls(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "PUBLIC_URL", settings.public_url
    yield "CLERK_ISSUER", settings.clerk.issuer
    yield "CLERK_JWKS_URL", settings.clerk.keys_url
    yield "FRONTEND_CONNECT_URL", settings.frontend.connect_url
    for variable, urls in (
        ("CLERK_AUTHORIZED_PARTIES", settings.clerk.authorized_parties),
        ("FRONTEND_ORIGINS", settings.frontend.origins),
        ("FRONTEND_RETURN_URLS", settings.frontend.return_urls),
    ):
        yield from ((variable, url) for url in urls)


def load_settings(**overrides: Any) -> Settings:
    """Read the environment (and `.env`). Raises StartupError listing every problem, one line each."""
    problems: dict[str, str] = {}
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        defaults: dict[str, Any] = dict(overrides)
        for failure in error.errors():
            path = [str(part) for part in failure["loc"][:2]]
            problems["_".join(path).upper()] = failure["msg"].removeprefix("Value error, ")
            _use_default(defaults, path)
        # With the unreadable variables at their defaults the rest can still be judged: one message, every problem.
        settings = Settings(**defaults)
    if settings.is_production:
        for variable, reason in _production_problems(settings):
            problems.setdefault(variable, reason)
    if problems:
        lines = "\n".join(f"  {variable}: {reason}" for variable, reason in sorted(problems.items()))
        raise StartupError(f"the configuration cannot be used:\n{lines}")
    return settings


def _use_default(overrides: dict[str, Any], path: list[str]) -> None:
    """Write the default value of `path` into the nested `overrides`, which win over the environment."""
    default = Settings.model_fields[path[0]].default
    if len(path) == 1 or not isinstance(default, BaseModel):
        overrides[path[0]] = default
        return
    overrides.setdefault(path[0], {})[path[1]] = getattr(default, path[1], None)


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    return load_settings()
