"""The groups of settings, with their defaults for development. Each field is read from an environment variable named
after its group in `Settings` and the field: `url` of `database` from `DATABASE_URL`."""

import base64
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretBytes,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from services.user_management.enums import RateClass
from services.user_management.settings.values import (
    DatabaseUrl,
    NetworkList,
    Quota,
    QuotaPolicy,
    TextList,
    decode_key_map,
    folder,
    parse_json,
    public_key,
    read_key_map,
    redis_url,
    webhook_secrets,
    wrapped_key_map,
)

DEVELOPMENT_SECRET = "development-only-development-only"  # noqa: S105 - production refuses this value
"""The default of all our secrets in development, some of which hold it in another form; production refuses it."""


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class DatabaseGroup(BaseModel):
    url: DatabaseUrl = SecretStr("postgresql://user_management@localhost/user_management")
    """URL for the runtime role, which has no UPDATE or DELETE on audit tables."""
    migration_url: DatabaseUrl | None = None
    """URL for the owner role, which only `cli db` uses; default: `DATABASE_URL`."""
    pool_size: int = Field(default=5, ge=1, le=200)
    """Connections for units of work and reads, per process; up to as many again under load."""
    door_pool_size: int = Field(default=8, ge=1, le=200)
    """Connections for token reads, checks of service keys, sign-in look-ups and profiles, per process."""
    statement_cache_size: int = Field(default=100, ge=0, le=1000)
    """Prepared statements per connection; 0 behind pgbouncer in transaction mode."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """The time limit for connecting, for taking a connection from the pool, and for one statement, each."""


class RedisGroup(BaseModel):
    url: Annotated[SecretStr, AfterValidator(redis_url)] = SecretStr("redis://localhost:6379/0")
    stream: str = "user-management.events"
    """Redis Stream to which the events of the outbox are sent."""
    stream_length: int = Field(default=100_000, ge=100)
    """About how many events the stream keeps."""
    channel: str = "user-management.events"
    """Redis channel that each event is published on too."""


class ClerkGroup(BaseModel):
    issuer: str = "http://127.0.0.1:8001/clerk"
    """Clerk's Frontend API URL, the `iss` of its session tokens."""
    jwks_url: str | None = None
    """URL of Clerk's signing keys; default: the issuer's `/.well-known/jwks.json`."""
    jwt_key: Annotated[str | None, AfterValidator(public_key)] = None
    """PEM public key from the dashboard; with it no JWKS is fetched. Line breaks may be written as \\n."""
    api_url: str = "https://api.clerk.com/v1"
    """Clerk's Backend API, its version included."""
    secret_key: SecretStr | None = None
    """Backend API key (`sk_…`)."""
    webhook_signing_secret: Annotated[SecretStr, AfterValidator(webhook_secrets)] = SecretStr(
        "whsec_" + base64.b64encode(DEVELOPMENT_SECRET.encode()).decode()
    )
    """The webhooks' signing secret, `whsec_…`; several, separated by spaces, while one is being rotated."""
    authorized_parties: TextList = ["http://localhost:3000"]
    """Origins that may be in the claim `azp` of session tokens (who the token was issued to)."""
    allow_missing_azp: bool = False
    """Whether session tokens without `azp` are accepted."""
    instance_id: str | None = None
    """The id of our Clerk instance (`ins_…`): if it is set, webhooks of any other instance are refused."""
    cookie_suffix: Annotated[str | None, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8}$")] = None
    """The suffix of the Clerk instance's own session cookie, `__session_<suffix>`: the first 8 characters of the
    base64url of the SHA-1 of its publishable key."""

    @property
    def keys_url(self) -> str:
        return self.jwks_url or f"{self.issuer.rstrip('/')}/.well-known/jwks.json"


class KeySourceKind(StrEnum):
    """Where the 32-byte secrets of the key versions come from, given the values of `ENCRYPTION_KEYS`."""

    STATIC = "static"
    """The values are the secrets themselves."""
    AWS_KMS = "aws_kms"
    """AWS KMS decrypts the values."""
    TRANSIT = "transit"
    """The transit engine of HashiCorp Vault or OpenBao decrypts the values."""


class EncryptionGroup(BaseModel):
    source: KeySourceKind = KeySourceKind.STATIC
    """`static`, or who decrypts the keys at boot: `aws_kms`, `transit` (HashiCorp Vault, OpenBao)."""
    keys: dict[int, SecretBytes] = {1: SecretBytes(DEVELOPMENT_SECRET.encode()[:32])}
    """JSON object: key version → base64 of 32 random bytes, or with another source than `static` the wrapped
    (encrypted) secret (`cli keys generate` prints one)."""
    keys_file: Path | None = None
    """A file with the same JSON object; its versions are added to those of `ENCRYPTION_KEYS`, which with a file has no
    default."""
    salt: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Salt of the root key derivation, one for the life of the data."""
    kms_key_id: str | None = None
    """Id, ARN or alias of the symmetric KMS key; credentials come from where AWS clients look for them."""
    kms_region: str | None = None
    kms_endpoint: str | None = None
    """A VPC endpoint's URL, where the region's own is not reachable."""
    transit_url: str | None = None
    """Base URL of Vault or OpenBao, or of an agent beside this process."""
    transit_key: str | None = None
    """Name of a key of the transit engine: of an AEAD type (`aes256-gcm96`), and not *derived*."""
    transit_mount: str = "transit"
    transit_token: SecretStr | None = None
    transit_token_file: Path | None = None
    """A file with the token, as an agent renews it; read at each start."""
    transit_ca_file: Path | None = None
    """PEM certificates to trust instead of the public ones."""

    @field_validator("keys", mode="before")
    @classmethod
    def decode_keys(cls, value: Any, given: ValidationInfo) -> Any:
        return cls._decode(parse_json(value), given) if isinstance(value, str) else value

    @field_validator("keys_file")
    @classmethod
    def check_keys_file(cls, path: Path | None, given: ValidationInfo) -> Path | None:
        if path is not None:
            cls._decode(read_key_map(path), given)
        return path

    @model_validator(mode="after")
    def nothing_is_added_to_the_default(self) -> "EncryptionGroup":
        own_keys = self.keys_file is not None or self.source is not KeySourceKind.STATIC
        if own_keys and "keys" not in self.model_fields_set:
            self.keys = {}
        return self

    def secrets(self) -> dict[int, bytes]:
        """Return, by key version, what the variable and the file hold: the secret or, with a source other than
        `static`, the text of the encrypted secret. Raises ValueError when the file cannot be used."""
        given = {version: key.get_secret_value() for version, key in self.keys.items()}
        if self.keys_file is None:
            return given
        decode = decode_key_map if self.source is KeySourceKind.STATIC else wrapped_key_map
        return given | decode(read_key_map(self.keys_file))

    @staticmethod
    def _decode(keys: object, given: ValidationInfo) -> dict[int, bytes]:
        is_static = given.data.get("source", KeySourceKind.STATIC) is KeySourceKind.STATIC
        return decode_key_map(keys) if is_static else wrapped_key_map(keys)


class SigningGroup(BaseModel):
    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Signs cursors, derives PKCE verifiers, hashes erased subjects. Several secrets are separated by spaces, and the
    first one signs. Keep a former one for as long as users who were erased under it must not be created again."""


class OAuthClient(BaseModel):
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    parameters: dict[str, Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]] = {}
    """Values of the placeholders in the provider file's URLs, such as Microsoft's `tenant`."""


class OAuthGroup(BaseModel):
    clients: Annotated[dict[str, OAuthClient], BeforeValidator(parse_json)] = {}
    """JSON object: provider name → {"client_id": …, "client_secret": …, "parameters": {…}}, the last one optional. Only
    these providers are on offer."""


class ProvidersGroup(BaseModel):
    dir: Annotated[Path | None, AfterValidator(folder)] = None
    """Folder with the operator's own provider files (`*.toml`), added to the built-in ones."""


class FrontendGroup(BaseModel):
    origins: TextList = ["http://localhost:3000"]
    """Origins that may call the API from a browser (CORS)."""
    return_urls: Annotated[TextList, Field(min_length=1)] = ["http://localhost:3000/connected"]
    """Exact URLs the OAuth callback may return to; the first is the default."""
    redirect_uris: TextList = []
    """Exact URLs of the front end to which a provider may return directly, instead of to our callback."""
    connect_url: str = "http://localhost:3000/connect/{provider}?scopes={scopes}"
    """The front end's page on which a user connects an account, also again. With `{provider}` and `{scopes}` filled in
    it is the `reconnect_url` in answers."""


class AdminGroup(BaseModel):
    user_ids: TextList = []
    """Ids of the users who are administrators."""


class ErasureGroup(BaseModel):
    after_days: int = Field(default=30, ge=0, le=3650)
    """Hold-back: for how many days after the deletion of a user an administrator can restore them; then everything is
    erased."""


class RefreshGroup(BaseModel):
    spread_seconds: float = Field(default=600.0, ge=0, le=800)
    """Over how long each run of the refresh job, one per quarter of an hour, spreads its calls, so that no provider
    gets all of them at once."""


class LimitsGroup(BaseModel):
    user: Quota = QuotaPolicy(100, 60)
    """Requests of each signed-in user. Each quota is COUNT/SECONDS: so many requests at once, which come back evenly
    over that time."""
    anonymous: Quota = QuotaPolicy(100, 60)
    """Requests without a sign-in from each address and, counted apart, those from it whose credential is refused."""
    sign_in: Quota = QuotaPolicy(5, 60)
    """Sign-in attempts of each address; at present no route counts any."""
    webhook: Quota = QuotaPolicy(600, 60)
    """Webhooks of Clerk that cannot be verified, from each address."""
    internal: Quota = QuotaPolicy(1000, 1)
    """Requests of each service (token reads: of each of its keys), in each process."""

    def policies(self) -> dict[RateClass, QuotaPolicy]:
        """Return the quota of each rate class."""
        return {
            RateClass.USER: self.user,
            RateClass.ANONYMOUS: self.anonymous,
            RateClass.SIGN_IN: self.sign_in,
            RateClass.WEBHOOK: self.webhook,
            RateClass.INTERNAL: self.internal,
        }


class ProxyGroup(BaseModel):
    trusted_networks: NetworkList = ()
    """Networks of our own reverse proxies; what they append to X-Forwarded-For is believed."""


class DocsGroup(BaseModel):
    enabled: bool | None = None
    """Whether `/docs` and `/openapi.json` are served; default: everywhere but in production."""


class LogGroup(BaseModel):
    level: str = Field(default="INFO", pattern="(?i)^(debug|info|warning|error|critical)$")
    format: str = Field(default="auto", pattern="^(auto|json|console)$")
    """`auto`: JSON in production, otherwise readable lines as with `console`."""


class DrainGroup(BaseModel):
    delay_seconds: float = Field(default=0.0, ge=0, le=5)
    """How long after SIGTERM the listener stays open, while `/ready` answers 503; it should be the interval at which a
    load balancer polls `/ready`."""


class SandboxGroup(BaseModel):
    url: str | None = None
    """URL of the sandbox, which imitates Clerk and the providers. Set by the development stack; production refuses
    it."""
