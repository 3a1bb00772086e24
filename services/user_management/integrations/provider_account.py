"""Finds the account at a provider that tokens belong to, in the ID token or in the user-info answer, whichever the
provider file says. If there are both, they must name the same subject."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from services.user_management.enums import ProviderErrorKind
from services.user_management.exceptions import RetryLaterError
from services.user_management.integrations.discovery import Endpoints
from services.user_management.integrations.oauth_config import Provider
from services.user_management.integrations.provider_answer import Answer, first_member, is_refusal, refusal
from services.user_management.integrations.provider_calls import CALL_TIMEOUT_SECONDS, ProviderCalls, Request
from services.user_management.integrations.provider_errors import NO_USERINFO_ENDPOINT, ProviderCallError
from services.user_management.integrations.token_answer import TokenAnswer
from services.user_management.security.id_token import IdToken, IdTokenError, IdTokenExpectation, IdTokenVerifier

ACCESS_TOKEN_REFUSED: Final = "access_token_refused"  # noqa: S105 - an error code
TRIES: Final = 3
_ALL_TRIES_SECONDS: Final = CALL_TIMEOUT_SECONDS + 0.5
"""The time for all tries together: a little more than for one call, so that a first call that hangs reaches its own
time limit and is counted by the breaker as a failure."""
_MAX_PAUSE_SECONDS: Final = 2.0
"""The longest pause between two tries. A provider that demands a longer one is not asked again while a user waits."""
_MAX_ACCOUNT_ID_CHARACTERS: Final = 255
_MAX_EMAIL_CHARACTERS: Final = 320

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """The account at the provider that an integration belongs to."""

    id: str
    email: str | None
    clock_skew_seconds: int | None = None
    """The provider's clock minus ours, as its ID token shows it; None without an ID token."""


@dataclass(kw_only=True, eq=False)
class AccountReader:
    """Finds the account at the provider of the user who consented."""

    calls: ProviderCalls
    id_tokens: IdTokenVerifier

    async def read(self, provider: Provider, endpoints: Endpoints, answer: TokenAnswer, nonce: str | None) -> Account:
        """Return the account that the tokens in `answer` belong to; its e-mail address is None if none can be found.
        `nonce` is the one that was sent to the provider: unless it is None, there must be an ID token that repeats it.
        Raises ProviderCallError if the account cannot be found."""
        mapping = provider.config.account_mapping
        id_token = await self._verified(provider, endpoints, answer, nonce)
        claims: Mapping[str, Any] = id_token.claims if id_token else {}
        if mapping.source == "userinfo":
            claims = await self._user_info(provider, endpoints, answer.access_token)
            # OpenID Connect Core section 5.3.2: a different subject means that the answer is about somebody else.
            if id_token is not None and claims.get("sub", id_token.subject) != id_token.subject:
                raise unusable("subject_mismatch")
        account_id = _account_id(claims, mapping.id)
        if account_id is None:
            raise unusable("no_account_id")
        email = next(filter(None, (_email(_claim(claims, name)) for name in mapping.email)), None)
        if email is None and mapping.emails_endpoint is not None:
            email = await self._listed_email(provider, mapping.emails_endpoint, answer.access_token)
        return Account(account_id, email, id_token.clock_skew_seconds if id_token else None)

    async def ask(self, provider: Provider, url: str, access_token: str) -> Answer:
        """Send one GET with the access token, and return the answer if it is a success. Raises ProviderCallError for
        anything else: with the code ACCESS_TOKEN_REFUSED if the provider refuses the token."""
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = (await self.calls.send(provider, Request("GET", url, headers))).answer
        if answer.status == 200 and not is_refusal(answer.members()):
            return answer
        error = refusal(provider.config, answer)
        if answer.status == 401 or error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}:
            # The detail code may say that the refresh token is dead too; the caller judges that.
            raise ProviderCallError(
                ProviderErrorKind.REAUTH, ACCESS_TOKEN_REFUSED, detail=error.detail or error.code, answered=True
            )
        raise error

    async def _verified(
        self, provider: Provider, endpoints: Endpoints, answer: TokenAnswer, nonce: str | None
    ) -> IdToken | None:
        """Verify the ID token in `answer` and return it. Return None if there is none, or if the URL of the provider's
        keys is unknown; raise ProviderCallError instead if the provider file or a nonce demands an ID token. Raises it
        also for an ID token that is refused, and if the provider's keys cannot be fetched."""
        config = provider.config
        demanded = config.needs_id_token or nonce is not None
        if answer.id_token is None or endpoints.jwks is None or answer.received_at is None:
            if demanded:
                raise unusable("id_token_missing")
            return None
        expected = IdTokenExpectation(
            jwks_uri=endpoints.jwks,
            issuers=config.id_token_issuers or (config.issuer,),
            client_id=provider.client_id,
            nonce=nonce,
            access_token=answer.access_token,
            received_at=answer.received_at,
        )
        try:
            return await self.id_tokens.verify(answer.id_token, expected)
        except IdTokenError as error:
            log.warning("id_token.refused", provider=provider.name, reason=error.problem.value)
            raise unusable("id_token_refused", detail=error.problem.value) from None
        except RetryLaterError:
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, "keys_unavailable", outcome_unknown=True) from None

    async def _user_info(self, provider: Provider, endpoints: Endpoints, access_token: str) -> Mapping[str, Any]:
        if endpoints.userinfo is None:
            raise ProviderCallError(ProviderErrorKind.OPERATOR, NO_USERINFO_ENDPOINT)
        return (await self._ask_again(provider, endpoints.userinfo, access_token)).members()

    async def _ask_again(self, provider: Provider, url: str, access_token: str) -> Answer:
        """Call `ask` up to three times, within about the time of one call, as long as its failures are temporary. The
        authorization code is used up by now, so if this fails, the user has to consent again. Raises
        ProviderCallError."""
        failure = ProviderCallError(ProviderErrorKind.TRANSIENT, "timeout_error", outcome_unknown=True)
        try:
            async with asyncio.timeout(_ALL_TRIES_SECONDS):
                for attempt in range(TRIES):
                    try:
                        return await self.ask(provider, url, access_token)
                    except ProviderCallError as error:
                        failure = error
                    jitter = 0.2 * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
                    pause = max(jitter, failure.retry_after or 0.0)
                    if failure.kind is not ProviderErrorKind.TRANSIENT or pause > _MAX_PAUSE_SECONDS:
                        break
                    if attempt + 1 < TRIES:
                        await asyncio.sleep(pause)
        except TimeoutError:
            log.warning("account.timed_out", provider=provider.name)
        raise failure

    async def _listed_email(self, provider: Provider, url: str, access_token: str) -> str | None:
        """Return the primary verified address of the list at `url`; None if there is none or the list cannot be
        fetched. An integration works without an address, so a failure is only logged."""
        try:
            entries = (await self._ask_again(provider, url, access_token)).json()
        except ProviderCallError as error:
            log.warning("account.email_unknown", provider=provider.name, reason=error.code)
            return None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("primary") is True and entry.get("verified") is True:
                return _email(entry.get("email"))
        return None


def unusable(code: str, *, detail: str | None = None) -> ProviderCallError:
    """Build the error for complete answers from which no account may be taken. The provider did what was asked: the
    authorization code is used up."""
    return ProviderCallError(
        ProviderErrorKind.TRANSIENT, code, detail=detail, answered=True, unusable=True, outcome_unknown=True
    )


def _account_id(claims: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    parts = [_claim(claims, name) for name in names]
    if any(isinstance(part, bool) or not isinstance(part, str | int) or not str(part) for part in parts):
        return None
    joined = ".".join(map(str, parts))
    return joined if len(joined) <= _MAX_ACCOUNT_ID_CHARACTERS else None


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return the claim called `name` (some names are URLs) or, if there is none, the value at `name` as a dotted path;
    None if there is neither."""
    return claims[name] if name in claims else first_member(claims, [name])


def _email(value: Any) -> str | None:
    usable = isinstance(value, str) and "@" in value and len(value) <= _MAX_EMAIL_CHARACTERS
    return value if usable else None
