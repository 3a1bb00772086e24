"""The return of the browser from the provider when a user connects: its parameters, and the errors for a return or a
code that cannot be used."""

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
    """The parameters of the provider's redirect (RFC 6749 section 4.1.2); `issuer` is `iss` of RFC 9207."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


async def return_error(oauth: OAuthClient, provider: Provider, returned: ProviderReturn) -> str | None:
    """Return the code of the error that makes a provider's return unusable: a wrong issuer, the provider's own error
    code, or `no_code`. None if the return can be used."""
    if (mix_up := await issuer_error(oauth, provider, returned.issuer)) is not None:
        return mix_up
    if returned.error is not None:
        return error_code(returned.error)
    return None if returned.code else "no_code"


async def issuer_error(oauth: OAuthClient, provider: Provider, issuer: str | None) -> str | None:
    """Return `issuer_mismatch` if `issuer` is not the provider's, `issuer_missing` if it is None although this provider
    always sends it; otherwise None. Either can be a mix-up attack (RFC 9207 section 2.4)."""
    if issuer is None:
        return "issuer_missing" if await oauth.answers_iss(provider) else None
    return None if issuer == provider.config.issuer else "issuer_mismatch"


def exchange_problem(error: ProviderCallError) -> ApplicationError:
    """Return the error to raise when a call to the provider fails while a user connects: ProviderMisconfiguredError,
    FlowRefusedError, ProviderAnswerError or ProviderUnavailableError, each with the provider's code as `reason`."""
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
