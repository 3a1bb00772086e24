"""Tests of the commands `cli keys …`, each run as a process: rotation, rollback, numbers of new keys, unreadable
tokens, and keys that a transit engine wraps."""

import asyncio
import base64
import json

import asyncpg
import pytest

from services.conftest import Servers
from services.user_management.settings import Settings
from services.user_management.tests.command_line import CommandLine
from services.user_management.tests.key_source_servers import KEY, TOKEN, fake_transit
from services.user_management.tests.test_cli import database

pytestmark = pytest.mark.slow

__all__ = ["database"]  # the fixture

FIRST = {"1": base64.b64encode(b"1" * 32).decode()}
EMPTY = "0 tokens\t0 revocations\t0 refresh tokens of revocations\t0 webhook secrets\t0 former webhook secrets\t0 codes"
USER_AND_TOKEN = """
INSERT INTO users (id, email_verified, status, onboarding_completed, local_fields, version, created_at, updated_at)
VALUES ('user_ada', false, 'active', false, '[]', 1, now(), now());
INSERT INTO integrations
    (id, user_id, provider, provider_account_id, is_primary, status, status_changed_at, granted_scopes, token_version,
     refresh_attempts, refresh_failures, connected_at, version, created_at, updated_at)
VALUES (gen_random_uuid(), 'user_ada', 'x', '1', true, 'active', now(), '[]', 1, 0, 0, now(), 1, now(), now());
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at)
SELECT gen_random_uuid(), id, 'access', 'damaged', 1, now() FROM integrations
"""


@pytest.fixture
def cli(servers: Servers, database: str, settings: Settings) -> CommandLine:
    return CommandLine(servers, database, settings)


def execute(servers: Servers, name: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(servers.owner_url(name))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_key_is_generated_activated_rewrapped_and_its_forerunner_retired(
    cli: CommandLine,
    servers: Servers,
    database: str,
) -> None:
    first = json.dumps(FIRST)
    generated = cli("keys", "generate", ENCRYPTION_KEYS=first)
    both = json.dumps({**FIRST, **json.loads(generated.stdout)})
    second = json.dumps(json.loads(generated.stdout))
    registered = cli("keys", "activate", "1", ENCRYPTION_KEYS=first)
    activated = cli("keys", "activate", "2", ENCRYPTION_KEYS=both)
    during = cli("keys", "status", ENCRYPTION_KEYS=both)
    half = cli("keys", "status", ENCRYPTION_KEYS=first)
    rewrapped = cli("keys", "rewrap", ENCRYPTION_KEYS=both)
    early = cli("keys", "retire", "1", ENCRYPTION_KEYS=both)
    execute(servers, database, "UPDATE encryption_keys SET activated_at = activated_at - interval '5 minutes'")
    retired = cli("keys", "retire", "1", ENCRYPTION_KEYS=both)
    after = cli("keys", "status", ENCRYPTION_KEYS=second)

    assert registered.returncode == activated.returncode == 0, activated.stderr
    assert during.stdout == (
        f"1\tdecrypt_only\theld\tcanary good\t{EMPTY}\t0 unreadable\n"
        f"2\tactive\theld\tcanary good\t{EMPTY}\t- unreadable\n"
    )
    assert half.stdout.splitlines()[1] == f"2\tactive\tMISSING HERE\t-\t{EMPTY}\t- unreadable"
    assert (rewrapped.returncode, rewrapped.stdout) == (0, "done 0\tleft 0\tunreadable 0\t0/s\n"), rewrapped.stderr
    assert early.returncode == 1
    assert "may still be storing under version 1" in early.stderr
    assert retired.returncode == 0, retired.stderr
    assert after.stdout.splitlines()[0] == f"1\tretired\tMISSING HERE\t-\t{EMPTY}\t- unreadable"


def test_version_that_was_retired_after_a_rollback_is_stepped_over(
    cli: CommandLine, servers: Servers, database: str
) -> None:
    first = json.dumps(FIRST)
    cli("keys", "activate", "1", ENCRYPTION_KEYS=first)
    second = cli("keys", "generate", ENCRYPTION_KEYS=first).stdout
    both = json.dumps({**FIRST, **json.loads(second)})
    cli("keys", "activate", "2", ENCRYPTION_KEYS=both)
    cli("keys", "activate", "1", ENCRYPTION_KEYS=both)
    execute(servers, database, "UPDATE encryption_keys SET activated_at = activated_at - interval '5 minutes'")
    retired = cli("keys", "retire", "2", ENCRYPTION_KEYS=both)

    again = cli("keys", "generate", ENCRYPTION_KEYS=first).stdout
    refused = cli("keys", "activate", "2", ENCRYPTION_KEYS=json.dumps({**FIRST, **json.loads(again)}))
    third = json.loads(cli("keys", "generate", "--version", "3", ENCRYPTION_KEYS=first).stdout)
    activated = cli("keys", "activate", "3", ENCRYPTION_KEYS=json.dumps({**FIRST, **third}))

    assert retired.returncode == 0, retired.stderr
    assert refused.returncode == 1
    assert refused.stderr == "user-management: Version 2 is retired; generate one with a higher --version.\n"
    assert list(third) == ["3"]
    assert activated.returncode == 0, activated.stderr


def test_key_is_generated_without_a_database(cli: CommandLine) -> None:
    generated = cli("keys", "generate", "--version", "7", DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")

    assert (generated.returncode, list(json.loads(generated.stdout))) == (0, ["7"])
    assert generated.stderr.endswith("cli keys activate 7\n")


@pytest.mark.parametrize(
    ("version", "refusal"),
    [
        ("0", "--version must be from 1 to 2147483647."),
        ("-1", "--version must be from 1 to 2147483647."),
        ("2147483648", "--version must be from 1 to 2147483647."),
        ("1", "Version 1 is held here already."),
    ],
)
def test_key_of_a_number_that_cannot_be_new_is_refused(cli: CommandLine, version: str, refusal: str) -> None:
    generated = cli("keys", "generate", "--version", version, ENCRYPTION_KEYS=json.dumps(FIRST))

    assert (generated.returncode, generated.stdout) == (1, "")
    assert generated.stderr == f"user-management: {refusal}\n"


def test_token_that_cannot_be_read_is_counted_and_discarded_only_on_demand(
    cli: CommandLine,
    servers: Servers,
    database: str,
) -> None:
    both = json.dumps({**FIRST, "2": base64.b64encode(b"2" * 32).decode()})
    cli("keys", "activate", "1", ENCRYPTION_KEYS=json.dumps(FIRST))
    execute(servers, database, USER_AND_TOKEN)
    cli("keys", "activate", "2", ENCRYPTION_KEYS=both)
    execute(servers, database, "UPDATE encryption_keys SET activated_at = activated_at - interval '5 minutes'")

    rewrapped = cli("keys", "rewrap", ENCRYPTION_KEYS=both)
    status = cli("keys", "status", ENCRYPTION_KEYS=both)
    refused = cli("keys", "retire", "1", ENCRYPTION_KEYS=both)
    discarded = cli("keys", "retire", "1", "--discard-unreadable", ENCRYPTION_KEYS=both)

    assert rewrapped.returncode == 1
    assert rewrapped.stdout.splitlines()[-1].startswith("done 0\tleft 1\tunreadable 1\t")
    assert "\t1 tokens\t" in status.stdout.splitlines()[0]
    assert status.stdout.splitlines()[0].endswith("\t1 unreadable")
    assert refused.returncode == 1
    assert "still in use: 1 tokens" in refused.stderr
    assert discarded.returncode == 0, discarded.stderr
    assert "Discarded: 1 tokens." in discarded.stderr


def test_key_that_a_transit_engine_wraps_is_generated_wrapped(cli: CommandLine) -> None:
    with fake_transit() as engine:
        variables = {
            "ENCRYPTION_SOURCE": "transit",
            "ENCRYPTION_TRANSIT_URL": engine.url,
            "ENCRYPTION_TRANSIT_KEY": KEY,
            "ENCRYPTION_TRANSIT_TOKEN": TOKEN,
        }
        generated = cli("keys", "generate", **variables)
        activated = cli("keys", "activate", "1", **variables, ENCRYPTION_KEYS=generated.stdout.strip())
        refused = cli("keys", "activate", "1", **variables, ENCRYPTION_KEYS='{"1": "vault:v1:other"}')

    assert json.loads(generated.stdout)["1"].startswith("vault:v1:")
    assert activated.returncode == 0, activated.stderr
    assert refused.returncode == 2
    assert "ENCRYPTION_KEYS: version 1: " in refused.stderr.splitlines()[-1]
