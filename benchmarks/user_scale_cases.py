"""Defines the requests whose times `user_scale` compares between a deployment of few users and one of many.

The questions and the name prefixes are the same; the users and e-mail prefixes are taken from each deployment.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from typing import Final
from urllib.parse import quote, urlencode

from benchmarks.deployment import Deployment
from benchmarks.errors import BenchmarkError
from benchmarks.sequential import Caller, Request
from benchmarks.sessions import SessionIssuer

SEARCH: Final = "/users/search"
BATCH_SIZE: Final = 50
FEW: Final = (8, 12)
"""The least and the greatest number of users who share a narrow beginning of an e-mail address."""
_PAGES_TURNED: Final = 8
_NAME_PREFIXES: Final = 3
_EMAIL_PREFIXES: Final = 20
_SUSPENDED_LIMIT: Final = 5

_SAMPLE: Final = """
SELECT coalesce(json_agg(id), '[]') FROM (
    SELECT id FROM users WHERE status = 'active' ORDER BY md5(id || '{seed}') LIMIT {count}) AS sample
"""
# Beginnings of addresses that a few live users share; each has a dot, so that no name begins with it.
_NARROW_PREFIXES: Final = """
SELECT coalesce(json_agg(prefix), '[]') FROM (
    SELECT DISTINCT prefix
    FROM (SELECT email_normalized AS email FROM users WHERE deleted_at IS NULL ORDER BY md5(id || '{seed}') LIMIT 500)
        AS sample
    CROSS JOIN LATERAL (
        SELECT left(email, size) AS prefix
        FROM generate_series(strpos(email, '.'), strpos(email, '@') - 1) AS size) AS beginnings
    CROSS JOIN LATERAL (
        SELECT count(*) AS matches FROM (
            SELECT FROM users
            WHERE deleted_at IS NULL AND email_normalized >= prefix AND email_normalized < prefix || U&'\\+10FFFF'
            LIMIT {most} + 1) AS first_matches
    ) AS counted
    WHERE matches BETWEEN {least} AND {most} ORDER BY prefix LIMIT {count}) AS narrow
"""
_WIDE_PREFIXES: Final = """
SELECT json_agg(prefix) FROM (
    SELECT left(first_name_normalized, 2) AS prefix FROM users WHERE deleted_at IS NULL
    GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {count}) AS wide
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of question, with a request for each time that it is asked, mostly about another user or prefix."""

    name: str
    requests: tuple[Request, ...]


def wide_prefixes(deployment: Deployment) -> list[str]:
    """Return the three most common two-letter beginnings of first names in the deployment. Raises BenchmarkError."""
    found: list[str] = json.loads(deployment.query(_WIDE_PREFIXES.format(count=_NAME_PREFIXES)))
    return found


class CaseMaker:
    """Makes the cases of one deployment."""

    def __init__(self, deployment: Deployment, caller: Caller, *, issuer: SessionIssuer, key: str, seed: int) -> None:
        self._deployment = deployment
        self._caller = caller
        self._issuer = issuer
        self._key = f"Bearer {key}"
        self._seed = seed

    def cases(self, count: int, name_prefixes: Sequence[str]) -> list[Case]:
        """Return all cases with `count` requests each; `name_prefixes` are the same for all deployments. Raises
        BenchmarkError."""
        users = self._sample(count)
        everyone = list(islice(cycle(users), count * BATCH_SIZE))
        batches = [everyone[start : start + BATCH_SIZE] for start in range(0, len(everyone), BATCH_SIZE)]
        since = (datetime.now(UTC) - timedelta(days=365)).isoformat(timespec="seconds")
        narrow = self._narrow_prefixes()
        return [
            Case("GET /users/me", tuple(self._own(users, count))),
            self._searches("q=e-mail prefix", [{"q": prefix} for prefix in narrow], count),
            self._searches("q=name prefix", [{"q": prefix} for prefix in name_prefixes], count),
            self._searches("q=name prefix, later page", [self._later({"q": name_prefixes[0]}, pages=1)], count),
            self._searches("status=suspended", [{"status": "suspended", "limit": str(_SUSPENDED_LIMIT)}], count),
            self._searches("created_after", [{"created_after": since}], count),
            self._searches("newest first, later page", [self._later({}, pages=_PAGES_TURNED)], count),
            Case("GET /admin/users/{id}", tuple(self._get(f"/admin/users/{quote(user)}") for user in users)),
            Case("batch-get of 50", tuple(map(self._batch, batches))),
        ]

    def _sample(self, count: int) -> list[str]:
        """Return `count` active users, chosen by the seed; where there are fewer, some come several times."""
        found: list[str] = json.loads(self._deployment.query(_SAMPLE.format(seed=self._seed, count=count)))
        return list(islice(cycle(found), count))

    def _narrow_prefixes(self) -> list[str]:
        least, most = FEW
        sql = _NARROW_PREFIXES.format(seed=self._seed, least=least, most=most, count=_EMAIL_PREFIXES)
        found: list[str] = json.loads(self._deployment.query(sql))
        if not found:
            raise BenchmarkError(f"no beginning of an address is that of {least} to {most} users: try another seed")
        return found

    def _own(self, users: Sequence[str], count: int) -> list[Request]:
        authorizations = self._issuer.authorizations(users[:count])
        return [Request("GET", "/users/me", authorization) for authorization in authorizations]

    def _get(self, path: str) -> Request:
        return Request("GET", path, self._key)

    def _search(self, query: dict[str, str]) -> Request:
        return self._get(f"{SEARCH}?{urlencode(query)}")

    def _searches(self, name: str, queries: Sequence[dict[str, str]], count: int) -> Case:
        return Case(f"search {name}", tuple(self._search(query) for query in islice(cycle(queries), count)))

    def _later(self, query: dict[str, str], *, pages: int) -> dict[str, str]:
        """Fetch the first `pages` pages of the query, and return the query with the cursor of the page after them.
        Raises BenchmarkError."""
        turned = dict(query)
        for _ in range(pages):
            page = self._caller.call(self._search(turned)).document()
            turned = {**query, "cursor": page["next_cursor"]}
        return turned

    def _batch(self, user_ids: Sequence[str]) -> Request:
        body = json.dumps({"user_ids": list(user_ids)}).encode()
        return Request("POST", "/internal/users/batch-get", self._key, body)
