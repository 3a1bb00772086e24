"""`cli diagnose`: prints the diagnosis of a user's integration, the same one that the API's diagnosis route returns,
as text or as JSON."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container import Container
from services.user_management.exceptions import StartupError
from services.user_management.schemas.diagnosis import DiagnosisResponse, Finding, IntegrationSummary


def diagnose(  # noqa: PLR0917 - typer calls it by name
    user_id: Annotated[str, typer.Argument(help="Whose integration.")],
    provider: Annotated[str, typer.Argument(help="Name of the provider.")],
    account: Annotated[
        str | None, typer.Option(help="Account id at the provider, or its e-mail; by default the primary account.")
    ] = None,
    live: Annotated[bool, typer.Option(help="Also ask the provider now, once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON that the API answers.")] = False,
) -> None:
    """Explain why a user's integration works or does not: findings with their evidence, and who can fix each."""

    async def explain(container: Container) -> DiagnosisResponse:
        try:
            await container.keys.vault.load()
            await container.keys.vault.prove_keys(OPERATOR)
        except StartupError as error:
            # Only a part of the diagnosis needs the keys.
            print(f"user-management: {error}", file=sys.stderr)
        return await container.integrations.diagnosis.diagnose(OPERATOR, user_id, provider, account, live=live)

    diagnosis = run(explain)
    print(diagnosis.model_dump_json(indent=2) if as_json else "\n".join(_lines(diagnosis)))


def _lines(diagnosis: DiagnosisResponse) -> Iterator[str]:
    yield f"{diagnosis.user_id} · {diagnosis.provider} · {diagnosis.checked_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "No integration." if diagnosis.integration is None else _described(diagnosis.integration)
    if diagnosis.probe is not None:
        beneath = [part for part in (diagnosis.probe.code, diagnosis.probe.detail) if part is not None]
        yield f"Asked now: {' · '.join([diagnosis.probe.outcome, *beneath])}"
    for finding in diagnosis.findings:
        yield ""
        yield from _finding_lines(finding)


def _described(integration: IntegrationSummary) -> str:
    reason = f" ({integration.status_reason})" if integration.status_reason else ""
    since = f"since {integration.status_changed_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"Integration {integration.id}, account {integration.provider_account_id}: {integration.status}{reason} {since}"
    )


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"[{finding.severity} · {finding.confidence}] {finding.title} ({finding.code})"
    yield f"  {finding.explanation}"
    for name, value in finding.model_dump(mode="json")["evidence"].items():
        yield f"    {name}: {value}"
    yield f"  Fix ({finding.who}): {finding.fix}"
