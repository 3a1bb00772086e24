"""Tests of the operator's command line, by its commands for services and the schema: what it prints on stdout and
stderr, and its exit codes."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import pytest

from services.conftest import TEMPLATE, Servers
from services.devstack.running_service import REPOSITORY
from services.user_management.settings import Settings
from services.user_management.tests.command_line import CommandLine

pytestmark = pytest.mark.slow


def administer(servers: Servers, statement: str, database: str = "postgres") -> None:
    async def run() -> None:
        connection = await asyncpg.connect(servers.superuser_url(database))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture
def database(servers: Servers, worker_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a migrated database for this test alone; with the indirect parameter `empty`, of one without a
    schema."""
    name = f"test_cli_{worker_name}"
    template = "" if getattr(request, "param", "") == "empty" else f"TEMPLATE {TEMPLATE}"
    administer(servers, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    administer(servers, f"CREATE DATABASE {name} {template} OWNER user_management_owner")
    yield name
    administer(servers, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def cli(servers: Servers, database: str, settings: Settings) -> CommandLine:
    return CommandLine(servers, database, settings)


def test_command_line_is_a_program(cli: CommandLine) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "services.user_management.cli", *arguments]
        return subprocess.run(
            command, env=cli.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )

    listed, refused, unknown = run("service", "list"), run("service", "revoke", "nobody"), run("nonsense")

    assert (listed.returncode, listed.stdout) == (0, ""), listed.stderr
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "user-management: There is no service named nobody.\n"
    assert unknown.returncode == 2
    assert "No such command 'nonsense'" in unknown.stderr


def test_service_is_created_granted_listed_and_revoked(cli: CommandLine) -> None:
    created = cli("service", "create", "calendar")
    granted = cli("service", "grant", "calendar", "sandbox-static", "sandbox-strict", "--scope", "calendar.read")
    listed = cli("service", "list")
    revoked = cli("service", "revoke", "calendar")
    listed_after = cli("service", "list")

    key = created.stdout.strip()
    assert key.startswith("ums_")
    assert created.stdout == f"{key}\n"
    assert key not in created.stderr
    assert granted.returncode == 0, granted.stderr
    assert key.split("_")[1] in listed.stdout
    assert "sandbox-static: calendar.read; sandbox-strict: calendar.read" in listed.stdout
    assert "1 key(s)" in revoked.stderr
    assert "keys: none" in listed_after.stdout


def test_service_is_permitted_rotated_and_disabled_and_one_key_revoked(cli: CommandLine) -> None:
    created = cli("service", "create", "calendar", "--grant", "sandbox-static", "--permission", "users:read")
    permitted = cli("service", "permit", "calendar", "users:search", "admin")
    withdrawn = cli("service", "withdraw", "calendar", "sandbox-static")
    rotated = cli("service", "rotate", "calendar", "--overlap", "600")
    first, second = created.stdout.strip(), rotated.stdout.strip()
    revoked = cli("service", "revoke", "calendar", "--key", first.split("_")[1])
    disabled = cli("service", "disable", "calendar")
    listed = cli("service", "list")
    enabled = cli("service", "enable", "calendar")

    assert rotated.stdout == f"{second}\n"
    assert second not in rotated.stderr
    assert "admin, users:search" in permitted.stderr
    assert [one.returncode for one in (permitted, withdrawn, revoked, disabled, enabled)] == [0] * 5, revoked.stderr
    assert [one.stdout for one in (permitted, withdrawn, revoked, disabled, enabled)] == [""] * 5
    assert listed.stdout == (
        f"calendar\tkeys: {second.split('_')[1]}\tno grants\tpermissions: admin, users:search\tdisabled\n"
    )


def test_refusals_are_one_line_and_exit_1(cli: CommandLine) -> None:
    cli("service", "create", "calendar")

    refusals = [
        cli("service", "create", "calendar"),
        cli("service", "grant", "calendar", "nowhere"),
        cli("service", "grant", "nobody", "sandbox-static"),
        cli("service", "revoke", "nobody"),
        cli("service", "create", "Calendar"),
        cli("service", "create", "mailer", "--permission", "everything"),
        cli("service", "rotate", "calendar", "--overlap", "-1"),
        cli("service", "revoke", "calendar", "--key", "0" * 12),
        cli("keys", "activate", "9"),
    ]

    assert [refusal.returncode for refusal in refusals] == [1] * 9
    assert [refusal.stdout for refusal in refusals] == [""] * 9
    for refusal in refusals:
        assert refusal.stderr.splitlines()[-1].startswith("user-management: ")
        assert "Traceback" not in refusal.stderr


def test_key_of_a_new_service_is_printed_if_a_grant_fails(cli: CommandLine, servers: Servers, database: str) -> None:
    statement = "ALTER TABLE service_grants ADD CONSTRAINT fails CHECK (false) NOT VALID"
    administer(servers, statement, database)

    created = cli("service", "create", "calendar", "--grant", "sandbox-static")

    assert created.returncode != 0
    assert created.stdout.startswith("ums_")
    assert created.stdout.split("_")[1] in cli("service", "list").stdout


@pytest.mark.parametrize("database", ["empty"], indirect=True)
def test_schema_comes_and_goes(cli: CommandLine) -> None:
    before = cli("service", "list")
    up = cli("db", "upgrade")
    after = cli("service", "list")
    down = cli("db", "downgrade", "base")

    assert before.returncode == 2
    assert "cli db upgrade" in before.stderr
    assert "Traceback" not in before.stderr
    assert [up.returncode, after.returncode, down.returncode] == [0, 0, 0], up.stderr + down.stderr
