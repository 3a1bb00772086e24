"""Starts the stack that the chaos run tests (two copies of the API, a worker, a beat and the sandbox, with a Postgres
and a Valkey of its own), fills it with users and integrations, and asks it for tokens."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.chaos.connections import Connection, Rows, kinds_by_provider, open_pool
from benchmarks.chaos.ledger import PROVIDER_FILE, Answer, Ledger, fingerprint
from benchmarks.chaos.meter import Meter, metering
from benchmarks.chaos.witness import Witness
from benchmarks.errors import BenchmarkError
from benchmarks.seeding import Granted
from services.devstack import process
from services.devstack.preparation import Recipe
from services.devstack.running_service import REPOSITORY
from services.devstack.stack import Stack
from services.sandbox.providers import KINDS, Kind, provider_name
from services.user_management.enums import JobName

SCOPES: Final = ["openid", "email", "offline_access", "calendar.read"]
TOKEN_LIFE_SECONDS: Final = 86_400
"""Lifetime of access tokens: longer than the refresh job looks ahead, so that the job renews what a scenario makes due
and nothing else."""
GRACE_SECONDS: Final = 60.0
"""How long the `grace` provider accepts a refresh token that it has replaced: the shortest such time for which anything
is promised."""
ENVIRONMENT: Final = {
    "DRAIN_DELAY_SECONDS": "1",
    "LIMITS_INTERNAL": "1000000/1",
    "LOG_LEVEL": "INFO",
    # The refresh job renews due tokens as soon as it runs, without spreading them over some minutes.
    "REFRESH_SPREAD_SECONDS": "0",
}
ORDERED_JOBS: Final = {
    JobName.REFRESH_DUE_TOKENS: timedelta(minutes=15),
    JobName.CHECK_INTEGRATIONS: timedelta(minutes=15),
    JobName.RECONCILE_CLERK: timedelta(days=1),
}
"""Jobs, with their periods, that do not run by the clock, but only if a scenario orders them. RECONCILE_CLERK would
find that Clerk knows none of the users made here."""
NAIVE_RECIPE: Final = Recipe(procfile=Path(__file__).with_name("Procfile.naive"))
_SEEDING_SECONDS: Final = 900.0
_AT_ONCE: Final = 16


@dataclass
class Fleet:
    """A running stack, with the objects that ask it, read its rows and record its answers."""

    stack: Stack
    folder: Path
    """Folder of the logs, deleted at the end of the run."""
    client: httpx.AsyncClient
    witness: Witness
    rows: Rows
    ledger: Ledger
    meter: Meter
    unused: dict[Kind, list[Connection]] = field(default_factory=dict)
    users: int = 0
    """Number of users made so far."""

    def take(self, kind: Kind, count: int = 1) -> list[Connection]:
        """Return `count` integrations (in code connections) at the provider of the kind `kind`; each is given out once.
        Raises BenchmarkError when too few are left."""
        left = self.unused.get(kind, [])
        if len(left) < count:
            raise BenchmarkError(f"there are {len(left)} unused connections of kind {kind}, {count} are wanted")
        taken, self.unused[kind] = left[:count], left[count:]
        return taken

    async def ask(self, url: str, connection: Connection, *, promise: str) -> Answer:
        """Ask the API process at `url` for a token, as a sibling service does, and if it gives one, use that at the
        provider at once. If no answer comes, the one returned has an `error` and no status. The ledger notes the
        request and the answer under `promise`."""
        number = self.ledger.asked(promise=promise, url=url, user=connection.user_id, kind=connection.kind)
        answer = await self._asked(url, connection)
        self.ledger.answered(number, answer)
        return answer

    async def _asked(self, url: str, connection: Connection) -> Answer:
        body = {"user_id": connection.user_id, "provider": provider_name(connection.kind)}
        headers = {"Authorization": f"Bearer {self.stack.service_key}"}
        try:
            response = await self.client.post(f"{url}/internal/tokens/get", headers=headers, json=body)
        except httpx.TransportError as error:
            return Answer(None, error=type(error).__name__)
        document: dict[str, Any] = response.json()
        if response.status_code != 200:
            retry_after = response.headers.get("Retry-After")
            return Answer(
                response.status_code,
                code=document.get("type"),
                reason=document.get("reason"),
                retry_after=float(retry_after) if retry_after else None,
            )
        token = document["access_token"]
        accepted = await self.witness.accepts(connection.kind, token)
        return Answer(200, refreshed=document["refreshed"], token=fingerprint(token), accepted=accepted)

    async def ask_patiently(self, connection: Connection, *, promise: str, seconds: float = 45.0) -> Answer:
        """Ask the API processes in turn, as `ask` does, until one answers with a status other than 503 or `seconds`
        have passed; return the last answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        urls = itertools.cycle(self.stack.api_urls)
        while True:
            answer = await self.ask(next(urls), connection, promise=promise)
            if answer.status not in {None, 503} or loop.time() > deadline:
                return answer
            await asyncio.sleep(min(answer.retry_after or 0.2, 2.0))

    async def connect(self, kinds: Sequence[Kind], count: int) -> None:
        """Make `count` more users, each with an integration at the provider of each of `kinds`, for `take` to return.
        Raises BenchmarkError, MainJobError."""
        numbers = range(self.users, self.users + count)
        self.users += count
        gate = asyncio.Semaphore(_AT_ONCE)

        async def granted(user: int, kind: Kind) -> Granted:
            account = _account(user)
            async with gate:
                answer = await self.witness.grant(kind, account, SCOPES)
            members = {name: answer[name] for name in ("scope", "access_token", "refresh_token", "expires_in")}
            return Granted(user=user, provider=provider_name(kind), account=account, **members)

        grants = await asyncio.gather(*(granted(user, kind) for user in numbers for kind in kinds))
        await asyncio.to_thread(self._seed, grants)
        accounts = [_account(number) for number in numbers]
        for connection in await self.rows.connections(accounts, kinds_by_provider(KINDS)):
            self.unused.setdefault(connection.kind, []).append(connection)

    def _seed(self, grants: Sequence[Granted]) -> None:
        """Store the users and integrations that `grants` describe through the service's own code, in a separate
        process. Raises BenchmarkError when that process fails."""
        path = self.folder / "grants.jsonl"
        path.touch(mode=0o600)
        path.write_text("".join(json.dumps(vars_of(grant)) + "\n" for grant in grants))
        try:
            finished = process.run(
                [sys.executable, "-m", "benchmarks.seeding", "granted", path],
                env=self.stack.environment,
                cwd=REPOSITORY,
                timeout=_SEEDING_SECONDS,
            )
        finally:
            path.unlink()
        if finished.returncode != 0:
            raise BenchmarkError(f"connections could not be made: {finished.last_line}")


def _account(user: int) -> str:
    """Return the account id of the user of number `user`, the same at every provider."""
    return f"account-{user}"


def vars_of(grant: Granted) -> dict[str, Any]:
    """Return the fields of `grant` by name. `vars()` cannot do so: a dataclass with slots has no `__dict__`."""
    return {name: getattr(grant, name) for name in Granted.__slots__}


@asynccontextmanager
async def fleet_in(
    folder: Path, ledger: Ledger, *, naive: bool = False, environment: Mapping[str, str] = ENVIRONMENT
) -> AsyncIterator[Fleet]:
    """Start a fleet without users in `folder`, yield it, and stop it at the end of the block.

    With `naive` it has the refresher without lease and fence. `environment` overrides ENVIRONMENT. The sandbox's record
    of calls to the providers goes into the folder of `ledger`. Raises DevstackError, MainJobError.
    """
    variables = {
        **_cleared(),
        **ENVIRONMENT,
        **environment,
        "SANDBOX_LEDGER_FILE": str(ledger.path.with_name(PROVIDER_FILE)),
        # Hundreds of processes are started: half of that time would go into compiling, so it is done once.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
    }
    recipe = NAIVE_RECIPE if naive else Recipe()
    stack = Stack(folder / "stack", web_count=2, env=variables, recipe=recipe)
    try:
        await asyncio.to_thread(stack.start)
        async with AsyncExitStack() as exits:
            limits = httpx.Limits(max_connections=300)
            client = await exits.enter_async_context(httpx.AsyncClient(timeout=30, limits=limits, trust_env=False))
            browser = await exits.enter_async_context(
                httpx.AsyncClient(base_url=stack.sandbox_url, timeout=60, limits=limits, trust_env=False)
            )
            pool = await open_pool(stack)
            exits.push_async_callback(pool.close)
            meter = await exits.enter_async_context(metering(client, stack.api_urls))
            fleet = Fleet(stack, folder, client, Witness(browser), Rows(pool), ledger, meter)
            for job, period in ORDERED_JOBS.items():
                await fleet.rows.mark_slots_done(job, period)
            for kind in KINDS:
                await fleet.witness.change(
                    kind, access_token_lifetime_seconds=TOKEN_LIFE_SECONDS, grace_seconds=GRACE_SECONDS
                )
            yield fleet
    finally:
        await asyncio.to_thread(stack.stop)


def _cleared() -> dict[str, str]:
    """Return empty values for the variables that, if the caller's environment set them, would lead to other servers or
    change the run."""
    return dict.fromkeys(("DATABASE_URL", "DATABASE_MIGRATION_URL", "REDIS_URL", "FAILPOINT", "ENVIRONMENT"), "")
