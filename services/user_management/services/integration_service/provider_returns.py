"""What the provider's redirect brings back when a user connects, and the errors for a return that cannot be used."""

import math
from dataclasses import dataclass
from typing import Any

from services.user_management.enums import ProviderErrorKind
from services.user_management.exceptions import (
    ApplicationError,
    FlowRefusedError,
    ProviderAnswerError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
)
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import Provider
from services.user_management.integrations.provider_errors import ProviderCallError, error_code


@dataclass(frozen=True, slots=True)
class ProviderReturn:
    """What the provider's redirect carried (RFC 6749 section 4.1.2, `iss` per RFC 9207)."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


async def return_error(oauth: OAuthClient, provider: Provider, returned: ProviderReturn) -> str | None:
    """Return the code of the error that makes a provider's return unusable; None if it can be used."""
    if (mix_up := await issuer_error(oauth, provider, returned.issuer)) is not None:
        return mix_up
    if returned.error is not None:
        return error_code(returned.error)
    return None if returned.code else "no_code"


async def issuer_error(oauth: OAuthClient, provider: Provider, issuer: str | None) -> str | None:
    """Return an error if `iss` is wrong, or missing where it is always sent: a mix-up (RFC 9207 section 2.4)."""
    if issuer is None:
        return "issuer_missing" if await oauth.answers_iss(provider) else None
    return None if issuer == provider.config.issuer else "issuer_mismatch"


def exchange_problem(error: ProviderCallError) -> ApplicationError:
    """Return the error that tells the user that a call to the provider failed while they connected."""
    extra: dict[str, Any] = {"reason": error.code}
    if error.kind is ProviderErrorKind.OPERATOR:
        return ProviderMisconfiguredError(extra=extra)
    if error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED, ProviderErrorKind.UNKNOWN}:
        return FlowRefusedError("The provider refused the code; start connecting again.", extra=extra)
    if error.unusable:
        return ProviderAnswerError(extra=extra)
    return ProviderUnavailableError(
        "The provider does not answer; start connecting again.",
        retry_after=math.ceil(error.retry_after or 1),
        extra=extra,
    )
