"""`./run demo`: goes through the main job (a user connects an account, and a sibling service reads its token) on a
throw-away stack, and prints each step."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx

from services.devstack import folders
from services.devstack.errors import DevstackError
from services.devstack.main_job import MainJob, MainJobError, Person, expect, flow_ticket
from services.devstack.postgres import SUPERUSER
from services.devstack.process import run as run_process
from services.devstack.server import SERVER_ENVIRONMENT
from services.devstack.stack import Console, Stack
from services.devstack.token_search import Form, search

KIND: Final = "strict"
PROVIDER: Final = f"sandbox-{KIND}"
READERS: Final = 50
"""Number of simultaneous token reads after the token has expired."""
TOKEN_LIFE_SECONDS: Final = 2
REVOKED_WITHIN_SECONDS: Final = 15.0
_MARKS: Final = (b"sbx-at-", b"sbx-rt-")
"""Prefixes of the sandbox's access tokens and refresh tokens."""
_PLANT: Final = """
CREATE SCHEMA search_control;
CREATE TABLE search_control.tokens AS
SELECT token AS as_text, convert_to(token, 'UTF8') AS as_bytea, encode(convert_to(token, 'UTF8'), 'base64') AS as_base64
FROM (VALUES ('sbx-at-control'), ('sbx-rt-control')) AS planted (token);
"""


class Story:
    """Printer of the demo's numbered steps. `title` is the title of the current step, for the message if it fails."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._number = 0
        self.title = "the stack starts"

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Print the number and the title of a step. Yields a function that prints a detail below the title."""
        self._number += 1
        self.title = title
        self._say(f"\n{self._number}. {title}")
        yield lambda detail: self._say(f"     {detail}")


@asynccontextmanager
async def _main_job(stack: Stack) -> AsyncIterator[MainJob]:
    async with (
        httpx.AsyncClient(base_url=stack.api_url, timeout=20, trust_env=False) as client,
        httpx.AsyncClient(base_url=stack.sandbox_url, timeout=20, trust_env=False) as browser,
    ):
        yield MainJob(client, browser)


def require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise MainJobError with the text `otherwise` unless `condition` is true."""
    if not condition:
        raise MainJobError(otherwise)


async def tell(stack: Stack, story: Story) -> None:
    """Go through every step of the demo on a running stack, and print it. Raises MainJobError, httpx.HTTPError,
    TimeoutError or DevstackError if one fails."""
    key = {"Authorization": f"Bearer {stack.service_key}"}
    async with _main_job(stack) as job:
        settings = {"access_token_lifetime_seconds": TOKEN_LIFE_SECONDS}
        expect(await job.browser.post(f"/oidc/{KIND}/_control/settings", json=settings), 200)
        with story.step("Ada signs up at Clerk; Clerk's signed webhook creates her here") as detail:
            ada = await job.sign_up()
            profile = expect(await job.client.get("/users/me", headers=ada.headers), 200).json()
            detail(f"GET /users/me with her session: {profile['id']}, {profile['email']}")
        with story.step("Mallory sends Ada the link of a connect attempt of Mallory's; Ada falls for it") as detail:
            await _attack(job, ada, detail)
        with story.step(
            f"Ada connects her own account at a provider that rotates refresh tokens ({PROVIDER})"
        ) as detail:
            connection = await job.connect(ada, PROVIDER)
            detail(
                f"{connection['account_email']}: {connection['status']}, may {' '.join(connection['granted_scopes'])}"
            )
        with story.step("A sibling service asks for her token and uses it") as detail:
            token = await _read_and_use(job, key, ada)
            detail(f"{token['access_token'][:12]}… for {token['expires_in']} s; the provider says it is {ada.email}")
        with story.step(f"The token expires; {READERS} calls ask for it at the same moment") as detail:
            await _expire_and_stampede(job, key, ada, detail)
        with story.step("Ada looks up who read her token") as detail:
            await _activity(job, ada, detail)
        with story.step("A key that was not issued gets nothing") as detail:
            stranger = {"Authorization": f"Bearer ums_{'0' * 12}_{'0' * 64}"}
            refused = expect(await job.get_token(stranger, ada.id, PROVIDER), 401).json()
            detail(f"401 {refused['type']}: {refused['detail']}")
        with story.step("Ada disconnects") as detail:
            await _disconnect(job, key, ada, detail)
    with story.step("Nothing that was stored or logged shows a token") as detail:
        _search_for_tokens(stack, detail)


async def _attack(job: MainJob, ada: Person, detail: Callable[[str], None]) -> None:
    mallory = await job.sign_up("mallory@example.com")
    started = await job.authorize(mallory, PROVIDER)
    location = await job.consent(started["authorization_url"], account=ada.email)
    ticket = flow_ticket(expect(await job.callback(location), 303))
    refused = expect(await job.confirm(ada, PROVIDER, flow=ticket), 404).json()
    detail(f"Ada's browser brings the ticket back; confirmed in her name: 404 {refused['type']}")
    guess = f"{started['flow_id']}.{'A' * 43}"
    refused = expect(await job.confirm(mallory, PROVIDER, flow=guess), 404).json()
    detail(f"Mallory, who knows the attempt but never saw the ticket: 404 {refused['type']}")
    exchanged = await job.ledger(f"oidc:{KIND}", "token.exchange")
    require(not exchanged, "the code of the attacker's link was exchanged")
    detail("no code was exchanged, and no account was connected")


async def _read_and_use(job: MainJob, key: dict[str, str], ada: Person) -> dict[str, Any]:
    response = await job.get_token(key, ada.id, PROVIDER, scopes=["calendar.read"], reason="show the week")
    token: dict[str, Any] = expect(response, 200).json()
    account = expect(await job.userinfo(token["access_token"], KIND), 200).json()
    require(account["email"] == ada.email, "the token belongs to somebody else")
    return token


async def _expire_and_stampede(job: MainJob, key: dict[str, str], ada: Person, detail: Callable[[str], None]) -> None:
    before = len(await job.ledger(f"oidc:{KIND}", "token.refresh"))
    # The new token has to outlive the calls, on a slow machine too.
    settings = {"access_token_lifetime_seconds": 3600}
    expect(await job.browser.post(f"/oidc/{KIND}/_control/settings", json=settings), 200)
    await asyncio.sleep(TOKEN_LIFE_SECONDS)
    calls = (job.get_token(key, ada.id, PROVIDER, reason="nightly sync") for _ in range(READERS))
    tokens = {expect(response, 200).json()["access_token"] for response in await asyncio.gather(*calls)}
    refreshes = len(await job.ledger(f"oidc:{KIND}", "token.refresh")) - before
    require(len(tokens) == 1, f"{len(tokens)} different tokens were handed out")
    require(refreshes == 1, f"the provider was asked {refreshes} times")
    expect(await job.userinfo(tokens.pop(), KIND), 200)
    detail(f"{READERS} answers, all with the same new token; the provider saw {refreshes} refresh")


async def _activity(job: MainJob, ada: Person, detail: Callable[[str], None]) -> None:
    session = await job.session(ada.id)
    path = f"/users/me/integrations/{PROVIDER}/activity"
    response = await job.client.get(path, headers=session, params={"limit": 200})
    entries = expect(response, 200).json()["items"]
    require(len(entries) == READERS + 1, f"{len(entries)} reads are recorded, {READERS + 1} were made")
    for entry in (entries[-1], entries[0]):
        detail(f"{entry['read_at'][:19]} {entry['service']} read it ({entry['outcome']}): {entry['reason']}")
    detail(f"… {len(entries)} reads in all")


async def _disconnect(job: MainJob, key: dict[str, str], ada: Person, detail: Callable[[str], None]) -> None:
    session = await job.session(ada.id)
    ended = expect(await job.client.delete(f"/users/me/integrations/{PROVIDER}", headers=session), 200).json()
    refused = expect(await job.get_token(key, ada.id, PROVIDER), 404).json()
    detail(f"the next read: 404 {refused['type']}; revocation at the provider: {ended['revocation']}")
    async with asyncio.timeout(REVOKED_WITHIN_SECONDS):
        for pause in itertools.repeat(0.2):
            if not await _live_grants(job, ada):
                break
            await asyncio.sleep(pause)
    detail("a worker has revoked her consent; none of her tokens works at the provider any more")


async def _live_grants(job: MainJob, person: Person) -> int:
    grants = expect(await job.browser.get(f"/oidc/{KIND}/_control/grants", params={"account": person.email}), 200)
    return sum(grant["alive"] for grant in grants.json()["items"])


def _search_for_tokens(stack: Stack, detail: Callable[[str], None]) -> None:
    with _planted_tokens(stack):
        seen = {(finding.mark, finding.form) for finding in search({"the database dump": _dump(stack)}, _MARKS)}
    missed = [f"{mark.decode()}… as {form}" for mark in _MARKS for form in Form if (mark, form) not in seen]
    require(not missed, f"the search misses planted tokens: {', '.join(missed)}")
    detail(f"control: the search finds tokens planted in a database dump ({', '.join(Form)}); they are removed again")
    places = {"the database dump": _dump(stack)}
    for folder, name in ((stack.data_dir / "log", "log"), (stack.data_dir / "valkey", "Valkey file")):
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "sandbox.log"]
        places |= {f"{name} {path.name}": path.read_bytes() for path in files}
    found = [f"{finding.place} (as {finding.form})" for finding in search(places, _MARKS)]
    require(not found, f"there is a token in {', '.join(found)}")
    detail(f"searched {len(places)} places ({sum(map(len, places.values())) // 1024} KiB): 0 tokens")


@contextmanager
def _planted_tokens(stack: Stack) -> Iterator[None]:
    """Keep a table of made-up tokens in the database for the length of the block. A search that finds no tokens proves
    something only if it finds these.

    The table is an ordinary one, because pg_dump does not see temporary tables.
    """
    _psql(stack, _PLANT)
    try:
        yield
    finally:
        _psql(stack, "DROP SCHEMA search_control CASCADE;")


def _psql(stack: Stack, statements: str) -> None:
    url = stack.postgres.url(role=SUPERUSER)
    options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", url]
    finished = run_process([stack.postgres.bin_dir / "psql", *options], env=SERVER_ENVIRONMENT, feed=statements)
    require(finished.returncode == 0, f"psql failed: {finished.last_line}")


def _dump(stack: Stack) -> bytes:
    """Return the schema and all rows of the database as plain text, in which bytea is hex. Raises MainJobError if
    pg_dump fails or leaves out the table of tokens."""
    dump = run_process(
        [stack.postgres.bin_dir / "pg_dump", "--dbname", stack.postgres.url(role=SUPERUSER)], env=SERVER_ENVIRONMENT
    )
    require(dump.returncode == 0, f"pg_dump failed: {dump.last_line}")
    require("encrypted_tokens" in dump.output, "the dump is empty")
    return dump.output.encode()


def main() -> int:
    """Run the demo; return 0, or 1 after printing which step failed."""
    started = time.monotonic()
    story = Story(lambda line: print(line, flush=True))
    try:
        print("Starting a throw-away stack: Postgres, Valkey, API, worker, beat and the sandbox …", flush=True)
        console = Console(progress=lambda text: print(f"     {text}", flush=True))
        with folders.scratch_folder() as folder, Stack(folder / "data", console=console) as stack:
            asyncio.run(tell(stack, story))
    except (DevstackError, httpx.HTTPError, OSError, TimeoutError) as error:
        print(f"\nThe demo failed at the step '{story.title}': {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - started:.0f} s; nothing is left running.", flush=True)
    return 0
