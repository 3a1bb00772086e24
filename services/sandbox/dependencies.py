"""FastAPI dependencies of the routes: the sandbox that the application serves, and the provider named in the path."""

from typing import Annotated

from fastapi import Depends, Request

from services.sandbox.errors import SandboxError
from services.sandbox.oidc.provider import Provider
from services.sandbox.state import Sandbox


def _current_sandbox(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


CurrentSandbox = Annotated[Sandbox, Depends(_current_sandbox)]


def _current_provider(kind: str, sandbox: CurrentSandbox) -> Provider:
    if kind not in sandbox.providers:
        raise SandboxError(404, f"there is no provider kind {kind!r}; the kinds are {', '.join(sandbox.providers)}")
    return sandbox.providers[kind]


def _controlled_provider(kind: str, sandbox: CurrentSandbox) -> Provider:
    provider = sandbox.provider(kind)
    if provider is None:
        names = ", ".join([*sandbox.providers, *sandbox.imitations])
        raise SandboxError(404, f"there is no provider {kind!r}; the providers are {names}")
    return provider


CurrentProvider = Annotated[Provider, Depends(_current_provider)]
"""The plain provider named in the path (the sandbox has one for each refresh kind); imitations of real providers have
paths of their own. Raises `SandboxError` (404) for an unknown name."""
ControlledProvider = Annotated[Provider, Depends(_controlled_provider)]
"""The provider named in the path, whether plain or an imitation. Raises `SandboxError` (404) for an unknown name."""
