"""The group of services that verify and apply webhooks from Clerk, the identity provider."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.container.users import UserServices
from services.user_management.security.webhook_signature import WebhookVerifier
from services.user_management.services.webhook_service import WebhookService


@dataclass(frozen=True, kw_only=True)
class ClerkServices:
    """`verifier` checks the signatures of Clerk's webhooks; `webhooks` stores and applies the events in them."""

    verifier: WebhookVerifier
    webhooks: WebhookService


def build_clerk(resources: Resources, *, users: UserServices) -> ClerkServices:
    """Build the services for Clerk's webhooks. Raises StartupError if the signing secret cannot be used."""
    clerk = resources.settings.clerk
    webhooks = WebhookService(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        upstream=users.upstream,
        states=users.states,
        issuer=clerk.issuer,
        instance_id=clerk.instance_id,
        start_slice=resources.start_slice,
    )
    verifier = WebhookVerifier(clerk.webhook_signing_secret.get_secret_value().split())
    return ClerkServices(verifier=verifier, webhooks=webhooks)
