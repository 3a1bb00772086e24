"""Reads the answers of providers' token endpoints (RFC 6749 section 5.1), leniently: a malformed member must not make
us lose a rotated refresh token. Only the access token must be well-formed."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.user_management.integrations.provider_answer import Answer, first_member
from services.user_management.integrations.provider_config import ProviderConfig

_UNCLEAR_LIFETIME_SECONDS: Final = 600
_ACCESS_TOKEN: Final = re.compile("[ -~]+")
"""Printable ASCII (RFC 6749 appendix A.12): an access token goes into a header, which cannot hold anything else."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The tokens that a provider's token endpoint returned."""

    access_token: str
    refresh_token: str | None
    lifetime_seconds: float | None
    """Seconds that the access token lives from the moment the request was sent; None if it does not run out."""
    scopes: tuple[str, ...] | None
    """None when the answer names none, which means that the scopes are those that were requested."""
    sent_at: float
    """When the request was sent, in monotonic seconds."""
    id_token: str | None = None
    """The ID token, not verified yet. None in the answer to a refresh, where it proves nothing new."""
    received_at: datetime | None = None
    """When the answer arrived, by our clock."""

    @property
    def is_expired(self) -> bool:
        """Tell whether the provider said that the access token has already run out. A refresh token that came with it
        is still good."""
        return self.lifetime_seconds is not None and self.lifetime_seconds <= 0


def read_token_answer(
    config: ProviderConfig, answer: Answer, *, sent_at: float, is_refresh: bool
) -> TokenAnswer | None:
    """Return the tokens in `answer`, which was sent for an authorization code or, if `is_refresh`, for a refresh token.
    Return None if its status is not 200, it says `ok: false`, or it has no access token of printable ASCII."""
    document = answer.members()
    places = config.token_answer
    access_token = _text(first_member(document, places.access_token))
    if answer.status != 200 or document.get("ok") is False:
        return None
    if access_token is None or _ACCESS_TOKEN.fullmatch(access_token) is None:
        return None
    scope = first_member(document, places.scope)
    refresh_token = _text(first_member(document, places.refresh_token))
    lifetime = _lifetime(config, first_member(document, places.expires_in), answer.said_at)
    if lifetime is None and (is_refresh or refresh_token is not None):
        lifetime = _UNCLEAR_LIFETIME_SECONDS  # A token that can be refreshed runs out, even if nobody says when.
    return TokenAnswer(
        access_token=access_token,
        refresh_token=refresh_token,
        lifetime_seconds=lifetime,
        scopes=config.parse_scopes(scope) if isinstance(scope, str) and scope.strip() else None,
        sent_at=sent_at,
        id_token=_text(first_member(document, places.id_token)) if not is_refresh else None,
        received_at=answer.received_at,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _lifetime(config: ProviderConfig, expires_in: Any, said_at: datetime) -> float | None:
    """Return for how many seconds the access token lives; None if neither the answer nor the provider's file says so.

    An answer whose `expires_in` is nonsense is not refused, since that could lose a rotated refresh token. Nonsense is
    taken for ten minutes, so that the next refresh comes soon. Zero or less means what it says: the token is expired
    and is not handed out.
    """
    if expires_in is None:
        if config.daily_expiry is not None:
            return config.daily_expiry.seconds_left(said_at)
        return config.default_lifetime_seconds
    seconds = _seconds(expires_in)
    return _UNCLEAR_LIFETIME_SECONDS if seconds is None else seconds


def _seconds(value: Any) -> float | None:
    """Return `value` as seconds, 0 if it is negative; None if it is not a number or is 10**9 or more."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if seconds <= 0:
        return 0.0
    return seconds if seconds < 10**9 else None
