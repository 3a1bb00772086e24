"""Defines the questions whose times `connection_scale` compares between a deployment of few integrations and one of
many, and chooses the users to ask about."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from benchmarks.connection_scale_jobs import DUE_AT_ONCE, JobCaller
from benchmarks.deployment import Deployment
from benchmarks.errors import BenchmarkError
from benchmarks.seeding import PROVIDER, SCOPE
from benchmarks.sequential import Caller, Request
from benchmarks.sessions import SessionIssuer
from services.user_management.exceptions import NotConnectedError, UserNotFoundError

READ: Final = "/internal/tokens/get"
BATCH_READ: Final = "/internal/tokens/batch-get"
BATCH_SIZE: Final = 50
LISTED: Final = 3
"""Number of integrations that a user must have for the case `own integrations`."""
READ_RATIO: Final = 1.3
OTHER_RATIO: Final = 1.5

# A random choice among all users, without integrations that are due or need a reconnect: those take another path.
_READABLE: Final = """
FROM integrations i
JOIN users u ON u.id = i.user_id AND u.status = 'active'
JOIN encrypted_tokens t ON t.integration_id = i.id AND t.kind = 'access' AND t.expires_at > now() + interval '1 day'
WHERE i.provider = '{provider}' AND i.status = 'active'
"""
_SAMPLE: Final = """
SELECT coalesce(json_agg(found), '[]') FROM (
    SELECT {found} AS found {of} ORDER BY md5(u.id || '{seed}') LIMIT {count}) AS sample
"""
_WITH_TOKEN: Final = _READABLE + "AND i.is_primary"
_WITH_SECOND_ACCOUNT: Final = _READABLE + "AND NOT i.is_primary"
_WITHOUT_CONNECTION: Final = """
FROM users u WHERE u.status = 'active' AND NOT EXISTS (SELECT FROM integrations i WHERE i.user_id = u.id)
"""
_WITH_SEVERAL: Final = """
FROM users u
WHERE u.status = 'active' AND u.id IN (SELECT user_id FROM integrations GROUP BY user_id HAVING count(*) = {listed})
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The time and the outcome of one answer."""

    milliseconds: float
    failed: bool
    """Whether the answer was unexpected: another outcome or reason than the case wants, or another number of rows."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of question, asked again and again, mostly about one user after another."""

    name: str
    maximum_ratio: float
    ask: Callable[[int], Sample]
    """Asks the question of the given number, from 0. Raises BenchmarkError when no answer comes."""


class Respondents:
    """The users about whom one deployment is asked, chosen by the seed.

    Where fewer than `count` users fit a question, some come several times. Raises BenchmarkError where none fits.
    """

    def __init__(self, deployment: Deployment, *, count: int, seed: int) -> None:
        self._deployment = deployment
        self._seed = seed
        self.with_token: list[str] = self._sample("u.id", _WITH_TOKEN, count)
        self.with_second_account: list[tuple[str, str]] = [
            (user, email)
            for user, email in self._sample("json_build_array(u.id, i.account_email)", _WITH_SECOND_ACCOUNT, count)
        ]
        self.without_connection: list[str] = self._sample("u.id", _WITHOUT_CONNECTION, count)
        self.with_several: list[str] = self._sample("u.id", _WITH_SEVERAL, count)

    def give_tokens(self) -> None:
        """Give the users whose tokens will be read tokens that the vault can open. Raises BenchmarkError."""
        path = Path(self._deployment.folder, "read_users.json")
        users = {*self.with_token, *(user for user, _ in self.with_second_account)}
        path.write_text(json.dumps(sorted(users)))
        self._deployment.run_python("-m", "benchmarks.connection_scale_seals", str(path))

    def _sample(self, found: str, of: str, count: int) -> list[Any]:
        those = of.format(provider=PROVIDER, listed=LISTED)
        sql = _SAMPLE.format(found=found, of=those, seed=self._seed, count=count)
        sample: list[Any] = json.loads(self._deployment.query(sql))
        if not sample:
            raise BenchmarkError(f"there is nobody to ask: {' '.join(those.split())}")
        return list(islice(cycle(sample), count))


class CaseMaker:
    """Makes the cases of one deployment."""

    def __init__(self, respondents: Respondents, caller: Caller, jobs: JobCaller, *, key: str) -> None:
        self._respondents = respondents
        self._caller = caller
        self._jobs = jobs
        self._key = f"Bearer {key}"

    def cases(self, issuer: SessionIssuer) -> list[Case]:
        """Return all cases, each with as many questions as there are respondents."""
        asked = self._respondents
        reads = [self._read(_wanted(user)) for user in asked.with_token]
        second = [self._read(_wanted(user, account=email)) for user, email in asked.with_second_account]
        strangers = [self._read(_wanted(_stranger(user))) for user in asked.with_token]
        unconnected = [self._read(_wanted(user)) for user in asked.without_connection]
        lists = [
            Request("GET", "/users/me/integrations", authorization)
            for authorization in issuer.authorizations(asked.with_several)
        ]
        return [
            Case("token", READ_RATIO, self._http(reads, _token)),
            Case("token, account by e-mail", READ_RATIO, self._http(second, _token)),
            Case("token, no such user", OTHER_RATIO, self._http(strangers, _refused_as(UserNotFoundError.code))),
            Case("token, not connected", OTHER_RATIO, self._http(unconnected, _refused_as(NotConnectedError.code))),
            Case(f"batch-get of {BATCH_SIZE}", OTHER_RATIO, self._http(self._batches(), _tokens)),
            Case("own integrations", OTHER_RATIO, self._http(lists, _connections)),
            Case("due refreshes", READ_RATIO, _job(self._jobs.find_due_refreshes, rows=DUE_AT_ONCE)),
            Case("due revocations, none", OTHER_RATIO, _job(self._jobs.claim_due_revocations, rows=0)),
        ]

    def _http(self, requests: Sequence[Request], is_expected: Callable[[Any], bool]) -> Callable[[int], Sample]:
        def ask(number: int) -> Sample:
            answer = self._caller.call(requests[number])
            expected = answer.status < 500 and is_expected(json.loads(answer.body))
            return Sample(answer.milliseconds, failed=not expected)

        return ask

    def _read(self, wanted: dict[str, Any]) -> Request:
        return Request("POST", READ, self._key, json.dumps(wanted).encode())

    def _batches(self) -> list[Request]:
        """Return one batch per user, so that every user is asked for equally often."""
        users = self._respondents.with_token
        everyone = cycle(users)
        batches = ([_wanted(user) for user in islice(everyone, BATCH_SIZE)] for _ in users)
        return [Request("POST", BATCH_READ, self._key, json.dumps({"items": items}).encode()) for items in batches]


def _wanted(user: str, *, account: str | None = None) -> dict[str, Any]:
    chosen = {} if account is None else {"account": account}
    return {"user_id": user, "provider": PROVIDER, "scopes": [SCOPE], **chosen}


def _stranger(user: str) -> str:
    """Return an id that sorts next to that of a user and belongs to nobody."""
    return f"{user}-"


def _job(run: Callable[[], tuple[float, int]], *, rows: int) -> Callable[[int], Sample]:
    def ask(_number: int) -> Sample:
        milliseconds, found = run()
        return Sample(milliseconds, failed=found != rows)

    return ask


def _token(document: dict[str, Any]) -> bool:
    return bool(document.get("access_token"))


def _tokens(document: dict[str, Any]) -> bool:
    items = document.get("items", [])
    return len(items) == BATCH_SIZE and all(_token(item.get("token") or {}) for item in items)


def _connections(document: dict[str, Any]) -> bool:
    return len(document.get("items", [])) == LISTED


def _refused_as(code: str) -> Callable[[dict[str, Any]], bool]:
    def is_refused(document: dict[str, Any]) -> bool:
        return document.get("type") == code

    return is_refused
