"""The group of services for integrations (users' linked accounts at providers): they connect, show, check, diagnose and
disconnect them."""

from dataclasses import dataclass

from services.user_management.container.keys import KeyServices
from services.user_management.container.resources import Resources
from services.user_management.container.tokens import TokenServices
from services.user_management.services.diagnosis_service import DiagnosisService, EvidenceGatherer
from services.user_management.services.integration_health_service import (
    Examination,
    IntegrationHealthService,
    ScopeEnforcement,
)
from services.user_management.services.integration_probe import IntegrationProbe
from services.user_management.services.integration_service import (
    Confirmations,
    ConnectFlows,
    ConnectPolicy,
    IntegrationService,
    RevocationService,
)
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.reconnect_links import ReconnectLinks


@dataclass(frozen=True, kw_only=True)
class IntegrationServices:
    """Services that users call (`service`, `connect_flows`, `confirmations`), services that jobs run (`revocations`,
    `health`), and `diagnosis`, which explains why an integration does not work."""

    service: IntegrationService
    connect_flows: ConnectFlows
    confirmations: Confirmations
    revocations: RevocationService
    health: IntegrationHealthService
    diagnosis: DiagnosisService


def build_integrations(resources: Resources, *, keys: KeyServices, tokens: TokenServices) -> IntegrationServices:
    """Build the services for integrations."""
    service = IntegrationService(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        refresher=tokens.refresher,
        signer=resources.signer,
        links=ReconnectLinks(resources.settings.frontend.connect_url),
    )
    confirmations = Confirmations(
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        oauth=resources.oauth,
        vault=keys.vault,
        status=IntegrationStatusTracker(),
        integrations=service,
        signer=resources.signer,
    )
    revocations = RevocationService(
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        oauth=resources.oauth,
        vault=keys.vault,
        start_slice=resources.start_slice,
    )
    probe = IntegrationProbe(
        database=resources.database, providers=resources.providers, oauth=resources.oauth, vault=keys.vault
    )
    return IntegrationServices(
        service=service,
        connect_flows=_build_connect_flows(resources, keys),
        confirmations=confirmations,
        revocations=revocations,
        health=_build_health(resources, keys=keys, tokens=tokens, probe=probe),
        diagnosis=DiagnosisService(
            database=resources.database,
            gatherer=EvidenceGatherer(providers=resources.providers, vault=keys.vault),
            probe=probe,
        ),
    )


def _build_connect_flows(resources: Resources, keys: KeyServices) -> ConnectFlows:
    settings = resources.settings
    return ConnectFlows(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        oauth=resources.oauth,
        vault=keys.vault,
        signer=resources.signer,
        policy=ConnectPolicy(
            settings.public_url, tuple(settings.frontend.return_urls), tuple(settings.frontend.redirect_uris)
        ),
        clock=resources.clock,
    )


def _build_health(
    resources: Resources, *, keys: KeyServices, tokens: TokenServices, probe: IntegrationProbe
) -> IntegrationHealthService:
    status = IntegrationStatusTracker()
    examination = Examination(
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        probe=probe,
        refresher=tokens.refresher,
        vault=keys.vault,
        status=status,
    )
    return IntegrationHealthService(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        examination=examination,
        scopes=ScopeEnforcement(unit_of_work=resources.unit_of_work, providers=resources.providers, status=status),
        start_slice=resources.start_slice,
    )
