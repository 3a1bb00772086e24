"""Rate-limit buckets in Redis: one EVALSHA for all the requests that wait at the same time."""

import asyncio
import hashlib
from contextvars import Context
from typing import Final, NamedTuple, cast

from redis.exceptions import NoScriptError

from services.user_management.rate_limiter.allowance import Quota, Verdict
from services.user_management.redis_client import RedisClient

PATIENCE_SECONDS: Final = 0.25
_MAX_QUESTIONS: Final = 128
"""The most requests in one EVALSHA, since Redis serves nobody else until it is done with them."""

# The arithmetic of `LocalBuckets`, by the server's clock, since the clients' clocks differ. Each of KEYS holds the
# microsecond at which that bucket is full again; without the key it is full. ARGV holds, for each key, the microseconds
# in which one request comes back, and the burst. Returns, for each key, the microseconds to wait and the microseconds
# until the bucket is full: numbers in one text, which the client parses faster than an array.
_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local verdicts = {}
for i, key in ipairs(KEYS) do
    local emission = tonumber(ARGV[2 * i - 1])
    local capacity = emission * ARGV[2 * i]
    -- Never emptier than a bucket can be: another server's clock, or a larger policy, may have written the time.
    local full_at = math.min(tonumber(redis.call('GET', key) or now), now + capacity)
    local after = math.max(full_at, now) + emission
    local wait = after - capacity - now
    if wait > 0 then
        verdicts[i] = string.format('%.0f %.0f', wait, full_at - now)
    else
        -- The key is gone by the time at which the bucket is full. %.0f: Lua writes a number with 14 digits by itself.
        redis.call('SET', key, string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
        verdicts[i] = string.format('0 %.0f', after - now)
    end
end
return table.concat(verdicts, ' ')
"""
# Redis names scripts by SHA-1.
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class _Question(NamedTuple):
    """A request that waits for the verdict of one bucket."""

    name: str
    quota: Quota
    verdict: asyncio.Future[Verdict]


class SharedBuckets:
    """The buckets of all rate classes, for every process that has the same Redis.

    While one question is at Redis, those that come in the meantime are collected, and the next EVALSHA asks them all: a
    busy process spends a third of the CPU on it that an EVALSHA for each request costs.
    """

    def __init__(self, redis: RedisClient) -> None:
        """Use `redis`, which must have no time limit of its own: the whole exchange is limited here."""
        self._redis = redis
        self._questions: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None

    async def spend(self, name: str, quota: Quota) -> Verdict:
        """Take one request from the bucket `name`, if it has one, and return the verdict.

        Raises RedisError or OSError (of which TimeoutError is one), usually after half a second at most: a quarter for
        the questions that were asked before, and a quarter for this one. It can take longer only while more than
        _MAX_QUESTIONS wait.
        """
        question = _Question(name, quota, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        if self._asking is None:
            # A task of its own, in an empty context: others wait for it too when this request is given up.
            self._asking = asyncio.create_task(self._ask_until_none_waits(), context=Context())
        return await question.verdict

    async def _ask_until_none_waits(self) -> None:
        try:
            while self._questions:
                asked, self._questions = self._questions[:_MAX_QUESTIONS], self._questions[_MAX_QUESTIONS:]
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        verdicts = await self._ask(asked)
                except Exception as error:  # noqa: BLE001  # each of those who wait raises it
                    self._give_up([*asked, *self._questions], error)
                    self._questions = []
                else:
                    for question, verdict in zip(asked, verdicts, strict=True):
                        if not question.verdict.done():  # the request was given up
                            question.verdict.set_result(verdict)
        finally:
            self._asking = None

    @staticmethod
    def _give_up(questions: list[_Question], error: Exception) -> None:
        for question in questions:
            if not question.verdict.done():
                question.verdict.set_exception(error)

    async def _ask(self, questions: list[_Question]) -> list[Verdict]:
        names = [question.name for question in questions]
        numbers = [number for question in questions for number in (question.quota.emission, question.quota.limit)]
        try:
            reply = await self._call("EVALSHA", _SHA, len(names), *names, *numbers)
        except NoScriptError:
            # Redis lost the script by a restart, a failover or SCRIPT FLUSH. EVAL loads it again for the next call.
            reply = await self._call("EVAL", _SCRIPT, len(names), *names, *numbers)
        found = map(int, reply.split())
        return [Verdict(wait, until_full) for wait, until_full in zip(found, found, strict=True)]

    async def _call(self, *command: str | int) -> str:
        # This bypasses the client's bookkeeping. Measured CPU per call: 65 µs instead of 86 µs through `evalsha()`.
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        try:
            await connection.send_command(*command, check_health=False)
            return cast("str", await connection.read_response())
        finally:
            await pool.release(connection)
