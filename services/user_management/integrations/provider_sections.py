"""The sections (TOML tables) of a provider file, the types of their values, and the filling of placeholders in URLs."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.user_management.enums import TokenKind

PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_DAILY: Final = re.compile(r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d) (?P<zone>\S+)")


def _web_url(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("must be an http(s) URL")
    return url


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


WebUrl = Annotated[str, AfterValidator(_web_url)]
"""A URL, which may hold placeholders such as `{tenant}`."""
Paths = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
"""Dotted paths of members in a JSON object; the first one that exists and is not null is used."""
Pattern = Annotated[str, AfterValidator(_pattern)]


class Section(BaseModel):
    """Base of the sections: refuses unknown keys, and its instances cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UserInfoMapping(Section):
    """Names the claims of the user-info answer that hold the account's id and e-mail address: a short form of
    `[account]` for the common case."""

    account_id: str = "sub"
    email: str | None = "email"


class AccountMapping(Section):
    """Where to find the account that an integration belongs to."""

    source: Literal["id_token", "userinfo"] = "userinfo"
    id: Annotated[tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = ("sub",)
    """Claims that together identify the account; their values are joined with a full stop."""
    email: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ("email",)
    """Claims in which to look for the e-mail address; the first one that has an address is used."""
    emails_endpoint: WebUrl | None = None
    """The endpoint that returns a list of `{email, primary, verified}`; it is called if no claim has an address."""


class TokenAnswer(Section):
    """Where the members of a token answer are (RFC 6749 section 5.1)."""

    access_token: Paths = ("access_token",)
    refresh_token: Paths = ("refresh_token",)
    expires_in: Paths = ("expires_in",)
    scope: Paths = ("scope",)
    id_token: Paths = ("id_token",)


class ErrorDetails(Section):
    """Where an error answer has a more detailed code than its `error`."""

    members: dict[str, str] = {}
    """Dotted path of a member that holds detail codes → what is put before each, such as `AADSTS` before a number."""
    description_pattern: Pattern | None = None
    """A pattern that finds the detail code in `error_description`."""


class Revocation(Section):
    """How a token is revoked; the defaults are those of RFC 7009."""

    endpoint: WebUrl
    method: Literal["POST", "DELETE", "GET"] = "POST"
    body: Literal["form", "json"] = "form"
    token_member: str = "token"  # noqa: S105 - the name of a parameter
    """The parameter that carries the token; empty if the token goes only into the Authorization header."""
    token: TokenKind = TokenKind.REFRESH
    """Which kind of token is sent to be revoked, if we hold one of that kind."""
    authentication: Literal["client_secret_basic", "client_secret_post", "bearer", "none"] = "client_secret_basic"
    whole_consent: bool = False
    """Whether a revocation ends the user's whole consent to our client, other integrations of the same account
    included."""
    gone_codes: tuple[str, ...] = ("invalid_token", "invalid_grant")
    """Error codes that mean that the token no longer exists. After any other code the revocation is tried again."""
    gone_statuses: tuple[int, ...] = ()
    """HTTP statuses that mean that the token no longer exists."""


class GrantLimits(Section):
    """The limits after which the provider ends a consent by itself. Only the diagnosis reads them, to explain why an
    integration stopped working."""

    testing_days: int | None = Field(default=None, ge=1)
    """Life of a refresh token while the client is not published."""
    idle_days: int | None = Field(default=None, ge=1)
    """After how many days without use a refresh token no longer works."""
    live_tokens_per_account: int | None = Field(default=None, ge=1)
    """How many refresh tokens an account can have; one more silently ends the oldest."""
    spa_hours: int | None = Field(default=None, ge=1)
    """Life of a refresh token whose redirect URI is registered as a single-page application's."""


class DailyExpiry(Section):
    """A time of day at which all access tokens expire: `06:00 Asia/Kolkata`."""

    hour: int
    minute: int
    zone: str

    @model_validator(mode="before")
    @classmethod
    def read(cls, text: Any) -> Any:
        match = _DAILY.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError("must be a time and a zone, such as `06:00 Asia/Kolkata`")
        try:
            ZoneInfo(match["zone"])
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no time zone {match['zone']}") from None
        return {"hour": int(match["hour"]), "minute": int(match["minute"]), "zone": match["zone"]}

    def seconds_left(self, now: datetime) -> float:
        """Return the seconds from `now` until the tokens expire next."""
        local = now.astimezone(ZoneInfo(self.zone))
        ends = local.replace(hour=self.hour, minute=self.minute, second=0, microsecond=0)
        if ends <= local:
            ends += timedelta(days=1)
        return ends.timestamp() - now.timestamp()


def fill(url: str, parameters: Mapping[str, str]) -> str:
    """Return `url` with its placeholders replaced by their values in `parameters`; placeholders without a value
    stay."""
    return PLACEHOLDER.sub(lambda match: parameters.get(match[1], match[0]), url)
