"""The class of all settings, as pydantic-settings reads them from the environment, and the names of their variables."""

from collections.abc import Iterator

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.user_management.settings.groups import (
    AdminGroup,
    ClerkGroup,
    DatabaseGroup,
    DocsGroup,
    DrainGroup,
    EncryptionGroup,
    Environment,
    ErasureGroup,
    FrontendGroup,
    LimitsGroup,
    LogGroup,
    OAuthGroup,
    ProvidersGroup,
    ProxyGroup,
    RedisGroup,
    RefreshGroup,
    SandboxGroup,
    SigningGroup,
)


class Settings(BaseSettings):
    """All settings, from environment variables or `.env`; an empty variable counts as not set.

    The variable of a field is its name in upper case; that of a field in a group has the group's name before it:
    `DOCS_ENABLED` is `docs.enabled`.
    """

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
    failpoint: str | None = None
    """Where a crash test ends the process (`name:action[:pass]`); read in the test environment alone."""
    clock_offset_seconds: float = 0.0
    """By how many seconds this process's wall clock is wrong; read in the test environment alone."""
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
    erasure: ErasureGroup = ErasureGroup()
    refresh: RefreshGroup = RefreshGroup()
    limits: LimitsGroup = LimitsGroup()
    proxy: ProxyGroup = ProxyGroup()
    docs: DocsGroup = DocsGroup()
    log: LogGroup = LogGroup()
    drain: DrainGroup = DrainGroup()
    sandbox: SandboxGroup = SandboxGroup()

    @property
    def is_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def serves_docs(self) -> bool:
        return not self.is_production if self.docs.enabled is None else self.docs.enabled

    @property
    def log_json_lines(self) -> bool:
        return self.log.format == "json" or (self.log.format == "auto" and self.is_production)


def variable_names(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield the name of every environment variable that is read, in order of definition."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from variable_names(annotation, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}".upper()
