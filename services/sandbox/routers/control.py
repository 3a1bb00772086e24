"""The routes for the sandbox's health, its ledger (the record of all calls to and from a party) and scripted faults."""

from typing import Any

from fastapi import APIRouter, Response

from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.faults import Fault

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Report that the process is running."""
    return {"status": "ok"}


@router.get("/_ledger")
async def read_ledger(
    sandbox: CurrentSandbox, party: str | None = None, operation: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the ledger's entries, oldest first; only those of `party` and of `operation`, where they are named."""
    return {"items": [entry.as_json() for entry in sandbox.ledger.entries(party, operation)]}


@router.delete("/_ledger", status_code=204)
async def clear_ledger(sandbox: CurrentSandbox) -> Response:
    """Forget the ledger's entries; what is in the ledger's file stays there."""
    sandbox.ledger.clear()
    return Response(status_code=204)


@router.post("/_faults", status_code=201)
async def add_fault(fault: Fault, sandbox: CurrentSandbox) -> Fault:
    """Apply a fault to the next `times` calls that match it and no older fault. Returns the fault."""
    sandbox.faults.add(fault)
    return fault


@router.get("/_faults")
async def list_faults(sandbox: CurrentSandbox) -> dict[str, list[Fault]]:
    """Return the faults that are not used up; `times` is what is left of each."""
    return {"items": sandbox.faults.pending()}


@router.delete("/_faults", status_code=204)
async def clear_faults(sandbox: CurrentSandbox) -> Response:
    """Drop every fault and release the calls that are being delayed."""
    sandbox.faults.clear()
    return Response(status_code=204)
