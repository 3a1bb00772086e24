"""Entry point of `python -m services.sandbox`, which serves the sandbox (imitations of Clerk and of providers) over
HTTP."""

from services.sandbox.server import create_server
from services.sandbox.settings import SandboxSettings


def main() -> None:
    """Serve a sandbox that the `SANDBOX_…` variables set up, until SIGTERM or SIGINT."""
    settings = SandboxSettings()
    create_server(settings.sandbox(), host=settings.host, port=settings.port).run()


if __name__ == "__main__":
    main()
