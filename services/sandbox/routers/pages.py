"""The pages that show people the providers and the ledger (the record of all calls)."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.ledger import Entry
from services.sandbox.pages import page, table, text

router = APIRouter(include_in_schema=False)

LEDGER_PAGE_ENTRIES = 200
_HEADINGS = ("#", "Time", "Party", "Operation", "Account", "Status", "Error", "Fault", "Committed", "ms", "Note")


@router.get("/")
async def overview(sandbox: CurrentSandbox) -> HTMLResponse:
    """Show the providers, each with its issuer, accounts, number of live consents and lifetime of access tokens."""
    rows = [
        (
            text(name),
            text(provider.issuer),
            text(", ".join(account.email for account in provider.accounts.all())),
            text(sum(grant.alive for grant in provider.grants())),
            text(provider.settings.access_token_lifetime_seconds),
        )
        for name, provider in {**sandbox.providers, **sandbox.imitations}.items()
    ]
    headings = ("Provider", "Issuer", "Accounts", "Live grants", "Access token life (s)")
    hint = f"<p>Connect an account through the service, whose API is at <code>{text(sandbox.api_url)}</code>.</p>"
    return page("Providers", hint, table(headings, rows))


@router.get("/_ledger.html")
async def ledger_page(sandbox: CurrentSandbox, party: str | None = None, operation: str | None = None) -> HTMLResponse:
    """Show the 200 newest entries, the newest first; only those of `party` and of `operation`, where they are named."""
    newest = sandbox.ledger.entries(party, operation)[-LEDGER_PAGE_ENTRIES:]
    return page("Ledger", table(_HEADINGS, (_row(entry) for entry in reversed(newest))))


def _row(entry: Entry) -> tuple[str, ...]:
    status = "…" if entry.state == "started" else entry.status or "none"
    committed = "yes" if entry.committed else ""
    return (
        text(entry.seq),
        text(entry.started_at[11:23]),
        text(entry.party),
        text(entry.operation),
        text(entry.account),
        text(status),
        f'<span class="bad">{text(entry.error)}</span>',
        text(entry.fault),
        committed,
        text(entry.duration_ms),
        text(entry.note),
    )
