"""Use cases on the tokens of integrations: sibling services read them, and they are refreshed at the providers and
stored."""

from services.user_management.services.token_service.answers import TokenAnswers
from services.user_management.services.token_service.exchange import GRANT_TYPE, JWT, USER_ID, TokenExchange
from services.user_management.services.token_service.jobs import REFRESH_PERIOD_SECONDS, RefreshJobs
from services.user_management.services.token_service.read import TokenService
from services.user_management.services.token_service.refresh import TokenRefresher
from services.user_management.services.token_service.refresh_attempt import RefreshAttempts, RefreshOutcome
from services.user_management.services.token_service.storage import store_tokens

__all__ = [
    "GRANT_TYPE",
    "JWT",
    "REFRESH_PERIOD_SECONDS",
    "USER_ID",
    "RefreshAttempts",
    "RefreshJobs",
    "RefreshOutcome",
    "TokenAnswers",
    "TokenExchange",
    "TokenRefresher",
    "TokenService",
    "store_tokens",
]
