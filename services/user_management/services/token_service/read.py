"""Token reads: give a sibling service an access token that lives long enough, refreshed if need be, or a refusal that
names the cause.

Each read is one SQL statement, the door, which authenticates the service, and judges and records the read. A stale
reading is not recorded: the token has too little life left, or the caller says that the provider has refused it. It is
then refreshed and read again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.user_management.core.failpoints import Failpoint, failpoint
from services.user_management.database import Database, DatabaseError, is_unavailable
from services.user_management.enums import TokenOutcome
from services.user_management.exceptions import ApplicationError, KeyUnavailableError, UnauthenticatedError
from services.user_management.queries.token_read import TokenQuery, TokenReading, read_token
from services.user_management.queries.token_read_batch import read_tokens
from services.user_management.schemas.token import TokenBatchItem, TokenProblem, TokenRequest, TokenResponse
from services.user_management.services.service_credentials import ServiceCredential
from services.user_management.services.token_service.answers import TokenAnswers, present, unavailable
from services.user_management.services.token_service.refresh import TokenRefresher
from services.user_management.services.token_service.refresh_attempt import RefreshOutcome, RefreshResult
from services.user_management.services.use_recorder import UseRecorder

MINIMUM_TTL_SECONDS: Final = 30.0
"""The remaining life that a token must have to be handed out if the provider gives no newer one and the caller states
no demand."""
DOOR_TIMEOUT_SECONDS: Final = 2.0
BATCH_TIMEOUT_SECONDS: Final = 4.0
BATCH_CONCURRENCY: Final = 8
"""The most tokens of one batch that are refreshed at once."""
BATCH_SECONDS: Final = 7.0
"""The time for all refreshes of a batch. A refresh that is still under way when the time is over goes on, so the next
call can get the token."""
_NOT_RENEWED: Final = {RefreshOutcome.UNAVAILABLE, RefreshOutcome.MISCONFIGURED, RefreshOutcome.IMPOSSIBLE}


@dataclass(kw_only=True, eq=False)
class TokenService:
    """Answers the token requests of sibling services: one token, a newer token, many tokens."""

    database: Database
    refresher: TokenRefresher
    answers: TokenAnswers
    key_usage: UseRecorder

    async def get_valid_token(self, credential: ServiceCredential, request: TokenRequest) -> TokenResponse:
        """Return a token, refreshed first if it has too little life left. It must live as long as the request demands,
        or 300 s if it demands nothing; half of its whole life is always enough. If it cannot be refreshed and the
        request demands nothing, 30 s of remaining life are enough.

        Raises one of the errors in the table of `documentation/token-api.md`. All refusals are recorded as token reads,
        except `unauthenticated` and those with status 502 or 503.
        """
        query = self.answers.query(credential, request)
        reading = await self._read(query)
        result: RefreshResult | None = None
        if reading.outcome is TokenOutcome.STALE:
            reading, result = await self._renew(query, reading)
        return await self._hand_out(credential, request, reading, result)

    async def refresh_token(self, credential: ServiceCredential, request: TokenRequest) -> TokenResponse:
        """Refresh the token and return the new one, for a caller whose token the provider has just refused. A token
        that was issued less than ten seconds ago is returned as it is. If there is no refresh token, the present access
        token is returned while it lives as long as the request demands, or 30 s if it demands nothing.

        Raises what `get_valid_token` raises. Unlike there, ProviderUnavailableError or ProviderMisconfiguredError is
        raised when the provider gives no new token even if the present one would live long enough."""
        query = self.answers.query(credential, request)
        reading = await self._read(query._replace(replaces=True))
        result: RefreshResult | None = None
        if reading.outcome is TokenOutcome.STALE:
            result = await self._refresh(reading)
            if result.outcome in {RefreshOutcome.UNAVAILABLE, RefreshOutcome.MISCONFIGURED}:
                raise unavailable(result)
            # A token that cannot be replaced is handed out for as long as it lives.
            irreplaceable = result.outcome is RefreshOutcome.IMPOSSIBLE
            reading = await self._read(query._replace(default_seconds=MINIMUM_TTL_SECONDS) if irreplaceable else query)
        return await self._hand_out(credential, request, reading, result)

    async def get_many(self, credential: ServiceCredential, requests: Sequence[TokenRequest]) -> list[TokenBatchItem]:
        """Return for each request, in order, a token or the problem that explains why there is none. One statement
        answers all requests that need no refresh. For the others the tokens are refreshed; a request whose token has
        not been refreshed within seven seconds gets a problem.

        Raises UnauthenticatedError if the service's key is not valid.
        """
        queries = [self.answers.query(credential, request) for request in requests]
        readings = await read_tokens(self.database.door, queries, timeout_seconds=BATCH_TIMEOUT_SECONDS)
        if any(reading.outcome is TokenOutcome.UNAUTHENTICATED for reading in readings):
            raise UnauthenticatedError("The service key is not valid.")
        await self.key_usage.record(credential.key_id)
        at_once = asyncio.Semaphore(BATCH_CONCURRENCY)
        ends = asyncio.get_running_loop().time() + BATCH_SECONDS

        async def member(request: TokenRequest, reading: TokenReading) -> TokenBatchItem:
            try:
                if reading.outcome is TokenOutcome.STALE:
                    async with asyncio.timeout_at(ends), at_once:
                        return TokenBatchItem(token=await self.get_valid_token(credential, request))
                if reading.outcome is not TokenOutcome.GRANTED:
                    return TokenBatchItem(problem=TokenProblem.of(self.answers.refusal(request, reading, None)))
                return TokenBatchItem(token=await self.answers.answer(request, reading, None))
            except ApplicationError as error:
                return TokenBatchItem(problem=TokenProblem.of(error))
            except Exception as error:
                # Time has run out, or Postgres is unavailable by now. That concerns this member only: the others'
                # tokens are good.
                if not is_unavailable(error):
                    raise
                return TokenBatchItem(problem=TokenProblem.of(unavailable(None)))

        pairs = zip(requests, readings, strict=True)
        # All are awaited, even if one fails with an unexpected error, so that none goes on unobserved.
        return _all_or_the_first_error(await asyncio.gather(*(member(*pair) for pair in pairs), return_exceptions=True))

    async def _read(self, query: TokenQuery) -> TokenReading:
        return await read_token(self.database.door, query, timeout_seconds=DOOR_TIMEOUT_SECONDS)

    async def _refresh(self, stale: TokenReading) -> RefreshResult:
        result = await self.refresher.refresh(present(stale.integration_id), present(stale.token_version))
        failpoint(Failpoint.BEFORE_ANSWER)
        return result

    async def _renew(self, query: TokenQuery, stale: TokenReading) -> tuple[TokenReading, RefreshResult | None]:
        """Refresh the token and read it again. If there is no newer token and the caller states no demand, 30 s of
        remaining life are enough.

        The result of the refresh is None if this process could not refresh, for lack of a key or of Postgres, and the
        present token lives long enough. If it does not, KeyUnavailableError or the database's error is raised.
        """
        lowered = query._replace(default_seconds=MINIMUM_TTL_SECONDS)
        try:
            result = await self._refresh(stale)
        except (KeyUnavailableError, *DatabaseError):
            # This process cannot refresh, but the present token may still live long enough.
            reading = await self._read(lowered)
            if reading.outcome is TokenOutcome.STALE:
                raise
            return reading, None
        return await self._read(lowered if result.outcome in _NOT_RENEWED else query), result

    async def _hand_out(
        self, credential: ServiceCredential, request: TokenRequest, reading: TokenReading, result: RefreshResult | None
    ) -> TokenResponse:
        if reading.outcome is not TokenOutcome.GRANTED:
            raise self.answers.refusal(request, reading, result)
        await self.key_usage.record(credential.key_id)
        return await self.answers.answer(request, reading, result)


def _all_or_the_first_error(outcomes: Sequence[TokenBatchItem | BaseException]) -> list[TokenBatchItem]:
    items = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        items.append(outcome)
    return items
