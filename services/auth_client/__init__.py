"""Client library with which sibling services get users' access tokens from the user management service; its only
dependency is httpx."""

from services.auth_client.async_client import AsyncTokenClient
from services.auth_client.errors import (
    MisconfiguredError,
    NotAllowedError,
    Problem,
    ReconnectNeededError,
    TokenError,
    TryLaterError,
    UserGoneError,
)
from services.auth_client.options import ClientOptions
from services.auth_client.sync_client import TokenClient
from services.auth_client.tokens import Token, TokenRequest

__all__ = [
    "AsyncTokenClient",
    "ClientOptions",
    "MisconfiguredError",
    "NotAllowedError",
    "Problem",
    "ReconnectNeededError",
    "Token",
    "TokenClient",
    "TokenError",
    "TokenRequest",
    "TryLaterError",
    "UserGoneError",
]
