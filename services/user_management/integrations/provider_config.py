"""The configuration of one provider: the keys of its file, and the rules for scopes and errors that follow from
them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints

from services.user_management.enums import ProviderErrorKind, RefreshKind
from services.user_management.integrations.provider_sections import (
    AccountMapping,
    DailyExpiry,
    ErrorDetails,
    GrantLimits,
    Revocation,
    Section,
    TokenAnswer,
    UserInfoMapping,
    WebUrl,
    fill,
)

_STANDARD_ERRORS: Final[Mapping[str, ProviderErrorKind]] = {
    "invalid_grant": ProviderErrorKind.REAUTH,
    "interaction_required": ProviderErrorKind.REAUTH,
    "consent_required": ProviderErrorKind.REAUTH,
    "login_required": ProviderErrorKind.REAUTH,
    "access_denied": ProviderErrorKind.REAUTH,
    "invalid_client": ProviderErrorKind.OPERATOR,
    "unauthorized_client": ProviderErrorKind.OPERATOR,
    "unsupported_grant_type": ProviderErrorKind.OPERATOR,
    "invalid_request": ProviderErrorKind.OPERATOR,
    "invalid_scope": ProviderErrorKind.OPERATOR,
    "temporarily_unavailable": ProviderErrorKind.TRANSIENT,
    "server_error": ProviderErrorKind.TRANSIENT,
}
"""Error code → who has to act on it, unless a provider's file says otherwise. The codes are from RFC 6749 sections
4.1.2.1 and 5.2 and OpenID Connect Core section 3.1.2.6."""

OFFLINE_ACCESS: Final = "offline_access"
"""The scope that asks for a refresh token (OpenID Connect Core section 11)."""

ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{0,32}$")]


class ProviderConfig(Section):
    """One provider file. URLs may hold placeholders: those of `parameters`, and `{client_id}`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    display_name: str = Field(min_length=1, max_length=64)
    issuer: WebUrl
    discovery: bool = False
    """Whether endpoints that the file does not give are read from `{issuer}/.well-known/openid-configuration`."""
    authorization_endpoint: WebUrl | None = None
    token_endpoint: WebUrl | None = None
    userinfo_endpoint: WebUrl | None = None
    revocation_endpoint: WebUrl | None = None
    """The endpoint, if it follows RFC 7009; one that differs is described in `[revocation]` instead."""
    jwks_uri: WebUrl | None = None
    parameters: dict[str, Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]] = {}
    """Placeholder in URLs → its value, unless the operator's client gives another one."""

    refresh: RefreshKind
    pkce: bool = True
    nonce: bool = False
    """Whether an ID token is required, with the nonce that we sent (OpenID Connect Core section 3.1.3.7)."""
    answers_iss: bool = False
    """Whether every authorization answer names its issuer (RFC 9207); one that does not is then refused. A discovered
    document may promise it too (`authorization_response_iss_parameter_supported`)."""
    id_token_issuers: tuple[str, ...] = ()
    """Permitted values of `iss` in ID tokens; `{claim}` stands for the value of that claim in the same token. If there
    are none, `iss` must be the issuer."""
    client_authentication: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    authorization_parameters: dict[str, str] = {}
    consent_parameters: dict[str, str] = {}
    """Added to the authorization request when the provider has to show its consent page."""
    login_hint_parameter: ParameterName = "login_hint"
    """The parameter for the login hint; empty if the provider takes none."""

    scope_parameter: ParameterName = "scope"
    scope_separator: str = Field(default=" ", min_length=1, max_length=1)
    answer_scope_separator: str | None = Field(default=None, min_length=1, max_length=1)
    """The separator of scopes in answers, if it differs from the one in requests."""
    required_scopes: tuple[str, ...] = ()
    """Scopes that are asked for with every connect attempt, whatever the caller wants."""
    unreported_scopes: tuple[str, ...] = ()
    """Scopes that a token answer never names; they count as granted when asked for."""
    scopes: dict[str, str] = {}
    """Scope → what it is for, in words for the person who consents to it."""
    scope_aliases: dict[str, str] = {}
    """The provider's name of a scope → our name of it."""
    scope_prefix: str = ""
    """A prefix of the provider's names of scopes, which our names leave out."""
    scopes_ignore_case: bool = False
    implied_scopes: dict[str, tuple[str, ...]] = {}
    """Scope → the narrower ones that come with it, and that an answer then leaves out."""

    default_lifetime_seconds: int | None = Field(default=None, ge=60)
    """Life of an access token whose answer gives no lifetime. If this is absent too, it is ten minutes if a refresh
    token comes with the access token or was used to get it; any other access token does not run out."""
    daily_expiry: DailyExpiry | None = None
    """The time of day at which all access tokens expire, for an answer that gives no lifetime."""
    max_concurrency: int = Field(default=20, ge=1, le=1000)
    """The most calls to this provider that one process makes at once."""

    token_answer: TokenAnswer = TokenAnswer()
    error_details: ErrorDetails = ErrorDetails()
    errors: dict[str, ProviderErrorKind] = {}
    """Error code, as `code` or `code/detail` → who has to act. These entries take precedence over the standard
    codes."""
    userinfo: UserInfoMapping | None = None
    account: AccountMapping | None = None
    revocation: Revocation | None = None
    revocation_note: str | None = None
    """Why we cannot revoke tokens, and where the user can end the access instead."""
    grant_limits: GrantLimits = GrantLimits()

    @property
    def account_mapping(self) -> AccountMapping:
        """Return `[account]`, or `[userinfo]` put into the same form."""
        if self.account is not None:
            return self.account
        short = self.userinfo or UserInfoMapping()
        return AccountMapping(id=(short.account_id,), email=(short.email,) if short.email else ())

    def consent_for(self, scopes: Collection[str]) -> dict[str, str]:
        """Return the parameters that make the provider show its consent page for `scopes`.

        An OpenID provider ignores `offline_access` unless the consent page is shown (OpenID Connect Core section 11).
        So a provider with discovery is asked to show it, unless the file sets `prompt` itself.
        """
        has_prompt = "prompt" in self.authorization_parameters or "prompt" in self.consent_parameters
        needs_prompt = self.discovery and OFFLINE_ACCESS in scopes and not has_prompt
        return {**({"prompt": "consent"} if needs_prompt else {}), **self.consent_parameters}

    @property
    def needs_id_token(self) -> bool:
        return self.nonce or self.account_mapping.source == "id_token"

    @property
    def rotates(self) -> bool:
        """Tell whether a refresh token stops working after its use, at once or a little later, so that using it again
        may end the consent."""
        return self.refresh in {RefreshKind.STRICT, RefreshKind.GRACE}

    @property
    def can_revoke(self) -> bool:
        """Tell whether revoking tokens may be possible. The document of a provider with discovery may still turn out to
        name no endpoint for that."""
        return self.revocation is not None or self.revocation_endpoint is not None or self.discovery

    def revocation_at(self, endpoint: str) -> Revocation:
        """Return a revocation as RFC 7009 defines it, at `endpoint`, with the client authentication of the token
        endpoint (section 2.1)."""
        return Revocation(endpoint=endpoint, authentication=self.client_authentication)

    def error_kind(self, code: str, details: Collection[str] = ()) -> ProviderErrorKind | None:
        """Return who has to act on an error code; None if neither the code nor any of its detail codes is known. A
        known detail code takes precedence over the code itself."""
        for detail in details:
            if (kind := self.errors.get(f"{code}/{detail}")) is not None:
                return kind
        return self.errors.get(code) or _STANDARD_ERRORS.get(code)

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes of a token answer under our names, together with the scopes that they imply and with the
        required scopes that an answer never names (`unreported_scopes`)."""
        reported = self.normalise(text.replace(self.answer_scope_separator or self.scope_separator, " ").split())
        implied = [narrow for scope in reported for narrow in self.implied_scopes.get(scope, ())]
        unnamed = set(self.unreported_scopes) & set(self.required_scopes)
        return tuple(sorted({*reported, *implied, *unnamed}))

    def normalise(self, scopes: Iterable[str]) -> tuple[str, ...]:
        """Return `scopes`, in the provider's spelling or in ours, under our names, sorted and without duplicates. A
        scope for which no other name is configured keeps its name."""
        return tuple(sorted({self._name(scope) for scope in scopes}))

    def granted(
        self, reported: Iterable[str] | None, requested: Collection[str], *, has_refresh_token: bool = True
    ) -> tuple[str, ...]:
        """Return the scopes that the user consented to: those that the answer names (`reported`) and the requested ones
        that an answer never names (`unreported_scopes`). If the answer names none (`reported` is None), these are all
        requested scopes (RFC 6749 section 5.1).

        Without a refresh token, `offline_access` is granted only if the answer names it: silence does not prove it.
        """
        assumed = set(requested) if reported is None else set(requested) & set(self.unreported_scopes)
        if not has_refresh_token:
            assumed.discard(OFFLINE_ACCESS)
        return self.normalise([*(reported or ()), *assumed])

    def missing_required(self, granted: Iterable[str]) -> list[str]:
        """Return the required scopes that are not among `granted`, except those that an answer never names
        (`unreported_scopes`)."""
        return sorted(set(self.required_scopes) - set(self.normalise(granted)) - set(self.unreported_scopes))

    def filled(self, parameters: Mapping[str, str]) -> Self:
        """Return the configuration with the placeholders in URLs and `id_token_issuers` filled from `parameters`."""
        update: dict[str, object] = {
            name: fill(url, parameters) for name in _URL_FIELDS if isinstance(url := getattr(self, name), str)
        }
        update["id_token_issuers"] = tuple(fill(issuer, parameters) for issuer in self.id_token_issuers)
        if self.revocation is not None:
            endpoint = fill(self.revocation.endpoint, parameters)
            update["revocation"] = self.revocation.model_copy(update={"endpoint": endpoint})
        if self.account is not None and self.account.emails_endpoint is not None:
            endpoint = fill(self.account.emails_endpoint, parameters)
            update["account"] = self.account.model_copy(update={"emails_endpoint": endpoint})
        return self.model_copy(update=update)

    def urls(self) -> Iterator[str]:
        """Yield every URL in the file that we call or send a browser to, and the issuer."""
        for name in _URL_FIELDS:
            if isinstance(url := getattr(self, name), str):
                yield url
        if self.revocation is not None:
            yield self.revocation.endpoint
        if self.account is not None and self.account.emails_endpoint is not None:
            yield self.account.emails_endpoint

    def _name(self, scope: str) -> str:
        prefixed = scope.startswith(self.scope_prefix)
        if self.scopes_ignore_case:
            prefixed = scope.lower().startswith(self.scope_prefix.lower())
        name = scope[len(self.scope_prefix) :] if prefixed else scope
        if self.scopes_ignore_case:
            known = {*self.scopes, *self.required_scopes, *self.unreported_scopes}
            name = next((one for one in known if one.lower() == name.lower()), name)
        return self.scope_aliases.get(name, name)


_URL_FIELDS: Final = (
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "userinfo_endpoint",
    "revocation_endpoint",
    "jwks_uri",
)
