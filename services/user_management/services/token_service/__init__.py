"""Tokens of a connection: reading, refreshing, storing."""

from services.user_management.services.token_service.jobs import REFRESH_PERIOD_SECONDS, RefreshJobs
from services.user_management.services.token_service.read import TokenPolicy, TokenService
from services.user_management.services.token_service.refresh import TokenRefresher
from services.user_management.services.token_service.storage import store_tokens

__all__ = [
    "REFRESH_PERIOD_SECONDS",
    "RefreshJobs",
    "TokenPolicy",
    "TokenRefresher",
    "TokenService",
    "store_tokens",
]
