"""Settings of the sandbox process, from `SANDBOX_…` environment variables."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.sandbox.state import Sandbox


class SandboxSettings(BaseSettings):
    """Settings of the process. `base_url` is the address at which others reach the sandbox, by default
    `http://{host}:{port}`. Without `webhook_url` no webhook is sent; without `webhook_secret` a new one is made;
    without `ledger_file` the ledger is in memory only."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = 8001
    base_url: str | None = None
    webhook_url: str | None = None
    webhook_secret: SecretStr | None = None
    frontend_origin: str = "http://localhost:3000"
    ledger_file: Path | None = None

    def sandbox(self) -> Sandbox:
        """Return a new sandbox with these settings."""
        return Sandbox(
            base_url=self.base_url or f"http://{self.host}:{self.port}",
            frontend_origin=self.frontend_origin,
            webhook_url=self.webhook_url,
            webhook_secret=self.webhook_secret.get_secret_value() if self.webhook_secret else None,
            ledger_file=self.ledger_file,
        )
