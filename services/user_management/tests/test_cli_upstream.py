"""Tests of the operator's commands and the worker's jobs for events from Clerk, reconciliation with Clerk, and erasure,
each run in a process of its own."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.conftest import TEMPLATE, Servers
from services.devstack.running_service import REPOSITORY
from services.sandbox.server import create_server
from services.sandbox.state import Sandbox
from services.user_management.celery_config import TICKS
from services.user_management.core.ids import uuid7
from services.user_management.enums import JobName
from services.user_management.tests.clerk_history import Event, updated
from services.user_management.tests.command_line import inherited_environment, run_command
from services.user_management.tests.test_cli import administer

pytestmark = pytest.mark.slow

ONE_TICK_OF_EACH = """
from services.user_management.container import Container
from services.user_management.settings import get_settings
from services.user_management.tasks import data_cleanup, upstream
from services.user_management.tasks.runtime import runtime

runtime.start(lambda: Container(get_settings()))
for task in (upstream.retry_webhooks, upstream.reconcile_clerk, data_cleanup.erase_users):
    task()
runtime.stop()
"""


@dataclass
class Operator:
    """Runs commands of the command line, Python programs and SQL on a database for this test alone, with a sandbox for
    Clerk that listens on a socket."""

    environment: dict[str, str]
    clerk: Sandbox
    url: str

    def __call__(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return run_command(arguments, {**self.environment, **variables})

    def python(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            env={**self.environment, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement with the owner's rights, and return its rows."""

        async def run() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(run())

    def store(self, told: Event, *, state: str, message_id: str) -> UUID:
        """Store an event as received: `applied`, `due` (failed, to be retried now) or `parked` (failed, not retried by
        itself). Returns its id."""
        event_id = uuid7()
        self.sql(
            "INSERT INTO webhook_events (id, source, message_id, event_type, subject, payload, received_at, attempts,"
            " applied_at, next_attempt_at, error) VALUES ($1, 'clerk', $2, $3, $4, $5, now(), 1,"
            " CASE WHEN $6 = 'applied' THEN now() END, CASE WHEN $6 = 'due' THEN now() END,"
            " CASE WHEN $6 <> 'applied' THEN 'IntegrityError: something' END)",
            event_id,
            message_id,
            told["type"],
            told["data"]["id"],
            json.dumps(told),
            state,
        )
        return event_id


@pytest.fixture
def database(servers: Servers, worker_name: str) -> Iterator[str]:
    name = f"test_cli_upstream_{worker_name}"
    administer(servers, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    administer(servers, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER user_management_owner")
    yield name
    administer(servers, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def clerk_on_a_socket() -> Iterator[Sandbox]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sandbox = Sandbox(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        server = create_server(sandbox)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield sandbox
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def operator(servers: Servers, database: str, clerk_on_a_socket: Sandbox) -> Operator:
    environment = {
        **inherited_environment(),
        "DATABASE_URL": servers.url(database),
        "REDIS_URL": servers.valkey_url,
        "CLERK_ISSUER": clerk_on_a_socket.clerk.issuer,
        "CLERK_API_URL": f"{clerk_on_a_socket.clerk.issuer}/v1",
        "CLERK_SECRET_KEY": "sk_test_sandbox",
    }
    return Operator(environment, clerk_on_a_socket, servers.owner_url(database))


def _assert_refusal(finished: "subprocess.CompletedProcess[str]", code: int) -> None:
    """Assert that a command ended with exit code `code`, a message at the end of stderr, no traceback and nothing on
    stdout."""
    assert (finished.returncode, finished.stdout) == (code, "")
    assert finished.stderr.splitlines()[-1].startswith("user-management: ")
    assert "Traceback" not in finished.stderr


def test_events_are_listed_shown_and_replayed(operator: Operator) -> None:
    applied = operator.store(updated("user_old", at=1), state="applied", message_id="msg_1")
    parked = operator.store(updated("user_ada", at=1, first_name="Zoë"), state="parked", message_id="msg_2")
    due = operator.store(updated("user_bob", at=1), state="due", message_id="msg_3")

    everything = operator("webhooks", "list")
    failed = operator("webhooks", "list", "--failed")
    of_ada = operator("webhooks", "list", "--subject", "user_ada", "--limit", "1")
    shown = operator("webhooks", "show", str(parked))
    replayed = operator("webhooks", "replay", str(parked))
    rest = operator("webhooks", "replay", "--failed")
    none_left = operator("webhooks", "replay", "--failed")

    lines = [line.split("\t") for line in everything.stdout.splitlines()]
    assert [(line[0], line[4]) for line in lines] == [
        (str(due), "to be retried"),
        (str(parked), "parked"),
        (str(applied), "applied"),
    ]
    assert [line.split("\t")[0] for line in failed.stdout.splitlines()] == [str(due), str(parked)]
    assert [line.split("\t")[3] for line in of_ada.stdout.splitlines()] == ["user_ada"]
    assert "Zoë" not in everything.stdout
    assert json.loads(shown.stdout)["payload"]["data"]["first_name"] == "Zoë"
    assert "1 of 1 event(s) applied." in replayed.stderr
    assert "1 of 1 event(s) applied." in rest.stderr
    assert "0 of 0 event(s) applied." in none_left.stderr
    assert {one.returncode for one in (everything, failed, shown, replayed, rest, none_left)} == {0}
    assert operator.sql("SELECT id FROM users ORDER BY id") == [("user_ada",), ("user_bob",)]
    assert operator.sql("SELECT DISTINCT actor_kind, actor_id FROM audit_logs") == [("system", "cli")]


def test_replay_says_what_still_fails_and_refuses_what_makes_no_sense(operator: Operator) -> None:
    operator.store({"type": "user.updated", "timestamp": 1, "data": {"id": "user_x"}}, state="due", message_id="msg_1")
    unknown = str(uuid7())

    failing = operator("webhooks", "replay", "--failed")
    senseless = [operator("webhooks", "replay"), operator("webhooks", "replay", unknown, "--failed")]

    assert failing.returncode == 1
    assert "0 of 1 event(s) applied." in failing.stderr
    assert [one.returncode for one in senseless] == [2, 2]
    _assert_refusal(operator("webhooks", "replay", unknown), 1)
    _assert_refusal(operator("webhooks", "show", unknown), 1)


def test_reconcile_looks_repairs_and_finds_nothing_more(operator: Operator) -> None:
    ada = operator.clerk.clerk.create_user(first_name="Ada")

    looked = operator("reconcile", "clerk", "--dry-run")
    nobody = operator.sql("SELECT count(*) FROM users")
    repaired = operator("reconcile", "clerk")
    looked_again = operator("reconcile", "clerk", "--dry-run")

    drift = "checked\t1\ncreated\t1\nupdated\t0\ndeleted\t0\ndeletions held back\t0\nunreadable\t0\nfailed\t0\n"
    assert (looked.returncode, looked.stdout) == (1, drift), looked.stderr
    assert nobody == [(0,)]
    assert (repaired.returncode, repaired.stdout) == (0, drift), repaired.stderr
    assert operator.sql("SELECT id, first_name FROM users") == [(ada["id"], "Ada")]
    assert looked_again.returncode == 0
    assert "created\t0" in looked_again.stdout


def test_reconcile_deletes_no_more_than_it_is_allowed_to(operator: Operator) -> None:
    clerk = operator.clerk.clerk
    ids = [clerk.create_user()["id"] for _ in range(3)]
    operator("reconcile", "clerk")
    for user_id in ids:
        clerk.delete_user(user_id)

    held = operator("reconcile", "clerk", "--max-deletions", "1")
    rest = operator("reconcile", "clerk")

    assert [held.returncode, rest.returncode] == [1, 0]
    assert "deleted\t0\ndeletions held back\t2\n" in held.stdout
    assert "deleted\t3\ndeletions held back\t0\n" in rest.stdout
    assert operator.sql("SELECT count(*) FROM users WHERE deleted_at IS NULL") == [(0,)]


def test_reconcile_that_could_not_write_a_user_says_so(operator: Operator) -> None:
    operator.clerk.clerk.create_user(first_name="refused")
    operator.clerk.clerk.create_user(first_name="Ada")
    operator.sql("ALTER TABLE users ADD CONSTRAINT fails CHECK (first_name <> 'refused') NOT VALID")

    failing = operator("reconcile", "clerk")
    operator.sql("ALTER TABLE users DROP CONSTRAINT fails")
    repaired = operator("reconcile", "clerk")

    assert (failing.returncode, repaired.returncode) == (1, 0)
    assert "created\t1\n" in failing.stdout
    assert failing.stdout.endswith("failed\t1\n")
    assert repaired.stdout.endswith("failed\t0\n")
    assert operator.sql("SELECT count(*) FROM users") == [(2,)]


def test_reconcile_without_a_key_or_without_clerk_is_one_line(operator: Operator) -> None:
    _assert_refusal(operator("reconcile", "clerk", CLERK_SECRET_KEY=""), 2)
    _assert_refusal(operator("reconcile", "clerk", CLERK_SECRET_KEY="pk_wrong_kind"), 1)
    _assert_refusal(operator("reconcile", "clerk", CLERK_API_URL="http://127.0.0.1:9/v1"), 1)


def test_worker_retries_reconciles_and_erases_when_it_is_ticked(operator: Operator) -> None:
    clerk = operator.clerk.clerk
    silent = clerk.create_user(first_name="Ada")["id"]
    gone = clerk.create_user()["id"]
    operator("reconcile", "clerk")
    clerk.update_user(silent, first_name="Augusta")
    clerk.delete_user(gone)
    operator.sql("UPDATE users SET deleted_at = now() - interval '31 days', deleted_by = 'admin' WHERE id = $1", gone)
    late = clerk.create_user(user_id="user_late")
    operator.store(clerk.event("user.created", late), state="due", message_id="msg_1")

    ticked = operator.python("-c", ONE_TICK_OF_EACH)

    assert ticked.returncode == 0, ticked.stderr
    assert operator.sql("SELECT id, first_name FROM users ORDER BY id") == sorted(
        [(silent, "Augusta"), ("user_late", None)]
    )
    assert operator.sql("SELECT attempts FROM webhook_events WHERE applied_at IS NOT NULL") == [(2,)]
    assert operator.sql("SELECT count(*) FROM erased_subjects") == [(1,)]
    jobs = [JobName.ERASE_USERS, JobName.RECONCILE_CLERK, JobName.RETRY_WEBHOOKS]
    assert operator.sql("SELECT job, error FROM job_runs WHERE finished_at IS NOT NULL ORDER BY job") == [
        (job.value, None) for job in jobs
    ]
    assert {row[0] for row in operator.sql("SELECT actor_id FROM audit_logs WHERE user_id IS NOT NULL")} == {
        "cli",
        *(job.value for job in jobs),
    }


def test_worker_without_a_key_for_clerk_reconciles_nothing_and_says_so(operator: Operator) -> None:
    operator.clerk.clerk.create_user()

    ticked = operator.python("-c", ONE_TICK_OF_EACH, CLERK_SECRET_KEY="")

    assert ticked.returncode == 0, ticked.stderr
    assert "reconcile.skipped" in ticked.stdout + ticked.stderr
    assert operator.sql("SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize("job", [JobName.RETRY_WEBHOOKS, JobName.RECONCILE_CLERK, JobName.ERASE_USERS])
def test_beat_ticks_the_job(job: JobName) -> None:
    assert TICKS[job] > 0
