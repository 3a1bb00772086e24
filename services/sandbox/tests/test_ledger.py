"""The contents of the sandbox's ledger (the record of all calls), in process, over HTTP, on its page and in its
file."""

import json
from pathlib import Path

import httpx

from services.sandbox.app import create_app
from services.sandbox.ledger import fingerprint
from services.sandbox.providers import CLIENT_ID
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import BASE_URL, connect, refresh


async def test_ledger_entry_of_a_refresh_names_client_account_and_tokens(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    tokens = await connect(client)
    renewed = (await refresh(client, tokens["refresh_token"])).json()

    (entry,) = sandbox.ledger.entries(party="oidc:strict", operation="token.refresh")

    assert (entry.client, entry.status, entry.error, entry.committed) == (CLIENT_ID, 200, None, True)
    assert entry.account == sandbox.providers["strict"].accounts.get("ada@example.com").id
    assert entry.refresh_token == fingerprint(tokens["refresh_token"])
    assert entry.issued_refresh_token == fingerprint(renewed["refresh_token"])
    assert entry.duration_ms is not None


async def test_ledger_over_http_is_in_order_and_filtered(client: httpx.AsyncClient) -> None:
    tokens = await connect(client)
    await client.get("/clerk/.well-known/jwks.json")
    await refresh(client, tokens["refresh_token"])

    everything = (await client.get("/_ledger")).json()["items"]
    refreshes = (await client.get("/_ledger", params={"operation": "token.refresh"})).json()["items"]

    operations = [entry["operation"] for entry in everything]
    assert operations == ["authorize.decision", "token.exchange", "jwks", "token.refresh"]
    assert [entry["seq"] for entry in everything] == [1, 2, 3, 4]
    assert [entry["party"] for entry in refreshes] == ["oidc:strict"]


async def test_ledger_never_holds_a_token(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    await refresh(client, (await connect(client))["refresh_token"])

    entries = json.dumps([entry.as_json() for entry in sandbox.ledger.entries()])

    assert "sbx-" not in entries.replace("sandbox-client", "")


async def test_ledger_delete_forgets_but_counts_on(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    await client.get("/clerk/.well-known/jwks.json")

    await client.delete("/_ledger")
    await client.get("/clerk/.well-known/jwks.json")

    assert [entry.seq for entry in sandbox.ledger.entries()] == [2]
    assert sandbox.ledger.count(party="clerk") == 1


async def test_ledger_page_shows_the_calls(client: httpx.AsyncClient) -> None:
    await refresh(client, "sbx-rt-<i>")

    response = await client.get("/_ledger.html")

    assert "token.refresh" in response.text
    assert "invalid_grant" in response.text


async def test_ledger_file_has_a_line_per_change(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    sandbox = Sandbox(base_url=BASE_URL, ledger_file=file)
    transport = httpx.ASGITransport(app=create_app(sandbox))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        await client.get("/clerk/.well-known/jwks.json")

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    sandbox.close()

    assert [(line["seq"], line["state"], line["status"]) for line in lines] == [
        (1, "started", None),
        (1, "finished", 200),
    ]
