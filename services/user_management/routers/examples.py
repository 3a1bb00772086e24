"""Examples of requests, answers, webhooks and parameters, and the function that puts them into the OpenAPI document."""

from typing import Any, Final

_NOW: Final = "2026-11-30T09:00:00Z"
_EARLIER: Final = "2026-11-01T08:30:00Z"
_ID: Final = "01932c4e-7a10-7cc1-9f5e-2f8d6a1b0c3d"
_OTHER_ID: Final = "01932c4e-7a11-7d02-8a4b-5c6d7e8f9a0b"
_USER: Final = "user_2abcDEFghiJKLmnoPQRstuVWXyz"
_SCOPE: Final = "https://www.googleapis.com/auth/calendar.events"
_TARGET: Final = "https://hooks.example.com/users"

_PROFILE: Final[dict[str, Any]] = {
    "id": _USER,
    "email": "ada@example.com",
    "email_verified": True,
    "first_name": "Ada",
    "last_name": "Lovelace",
    "profile_image_url": "https://images.example.com/ada.png",
    "phone": None,
    "status": "active",
    "onboarding_completed": True,
    "onboarding_step": None,
    "last_login_at": _NOW,
    "last_active_at": _NOW,
    "created_at": _EARLIER,
    "updated_at": _NOW,
}
_ADMINISTERED: Final[dict[str, Any]] = _PROFILE | {
    "suspended_at": None,
    "suspended_reason": None,
    "upstream_status": "active",
    "upstream_updated_at": _EARLIER,
    "local_fields": ["first_name"],
    "deleted_at": None,
    "deleted_by": None,
    "restored_at": None,
}
_INTEGRATION: Final[dict[str, Any]] = {
    "id": _ID,
    "provider": "google",
    "provider_account_id": "104217",
    "account_email": "ada@example.com",
    "is_primary": True,
    "status": "active",
    "status_reason": None,
    "status_changed_at": _EARLIER,
    "granted_scopes": ["email", _SCOPE, "openid"],
    "missing_scopes": [],
    "reconnect_url": None,
    "expires_at": "2026-11-30T09:55:11Z",
    "has_refresh_token": True,
    "metadata": {"label": "Work"},
    "connected_at": _EARLIER,
    "last_refresh_at": _NOW,
    "last_checked_at": _NOW,
    "last_failure_at": None,
    "last_used_at": _NOW,
}
_DISCONNECTED: Final[dict[str, Any]] = {
    "id": _ID,
    "provider": "google",
    "provider_account_id": "104217",
    "revocation": "pending",
    "revocation_note": None,
}
_WANTED: Final[dict[str, Any]] = {
    "user_id": _USER,
    "provider": "google",
    "scopes": [_SCOPE],
    "reason": "nightly sync",
}
_TOKEN: Final[dict[str, Any]] = {
    "access_token": "ya29.example",
    "token_type": "Bearer",
    "expires_at": "2026-11-30T09:55:11Z",
    "expires_in": 3311,
    "scopes": ["email", _SCOPE, "openid"],
    "provider": "google",
    "account": "104217",
    "integration_id": _ID,
    "refreshed": False,
}
_SERVICE: Final[dict[str, Any]] = {
    "name": "calendar-sync",
    "created_at": _EARLIER,
    "disabled_at": None,
    "permissions": ["users:read"],
    "grants": [{"provider": "google", "scopes": [_SCOPE], "reason_required": True}],
    "keys": [
        {
            "id": "c9f1d7f5375e",
            "created_at": _EARLIER,
            "expires_at": None,
            "last_used_at": _NOW,
            "revoked_at": None,
            "live": True,
        }
    ],
}
_SUBSCRIPTION: Final[dict[str, Any]] = {
    "id": _ID,
    "owner": "calendar-sync",
    "owner_may_hear": True,
    "created_by": "calendar-sync",
    "url": _TARGET,
    "description": "Calendar sync",
    "event_types": ["integration.*"],
    "status": "active",
    "disabled_reason": None,
    "failing_since": None,
    "last_sequence": 42,
    "former_secret_until": None,
    "created_at": _EARLIER,
    "updated_at": _NOW,
}


def _sent(event_type: str, **members: Any) -> dict[str, Any]:
    """Return an event of the outbox in the form in which a webhook delivers it."""
    return {
        "specversion": "1.0",
        "id": _OTHER_ID,
        "source": "https://users.example.com",
        "type": event_type,
        "subject": _USER,
        "time": _NOW,
        "datacontenttype": "application/json",
        "sequence": "00000000000000004711",
        "data": {"user_id": _USER, **members},
        "deliverysequence": "00000000000000000042",
    }


def _sent_of_integration(event_type: str, **members: Any) -> dict[str, Any]:
    return _sent(event_type, integration_id=_ID, provider="google", **members)


EXAMPLES: Final[dict[str, Any]] = {
    "AdminUserDetail": _ADMINISTERED | {"sign_ins_last_30_days": 12},
    "AdminUserResponse": _ADMINISTERED,
    "AuthorizeRequest": {"scopes": [_SCOPE], "return_url": "https://app.example.com/connected"},
    "AuthorizeResponse": {
        "authorization_url": "https://accounts.google.com/o/oauth2/v2/auth?client_id=example&state=example",
        "flow_id": _ID,
        "expires_at": "2026-11-30T09:10:00Z",
    },
    "ClerkEvent": {
        "object": "event",
        "type": "user.created",
        "timestamp": 1_796_029_200_000,
        "instance_id": "ins_2abcDEFghiJKLmnoPQRstuVWXyz",
        "data": {
            "object": "user",
            "id": _USER,
            "first_name": "Ada",
            "last_name": "Lovelace",
            "image_url": "https://images.example.com/ada.png",
            "primary_email_address_id": "idn_1",
            "email_addresses": [
                {"id": "idn_1", "email_address": "ada@example.com", "verification": {"status": "verified"}}
            ],
            "banned": False,
            "locked": False,
            "updated_at": 1_793_521_800_000,
        },
    },
    "ConfirmRequest": {"flow": f"{_ID}.{'A' * 43}"},
    "CreateServiceRequest": {"name": "calendar-sync", "permissions": ["users:read"]},
    "CreateSubscriptionRequest": {"url": _TARGET, "event_types": ["integration.*"], "description": "Calendar sync"},
    "DeletionResponse": {
        "deleted_at": _NOW,
        "restorable_until": "2026-12-30T09:00:00Z",
        "ended": {"sessions": "all", "token_reads": "all", "integrations": [_DISCONNECTED]},
    },
    "DiagnosisResponse": {
        "user_id": _USER,
        "provider": "google",
        "integration": None,
        "findings": [
            {
                "code": "never_connected",
                "severity": "error",
                "confidence": "certain",
                "title": "Never connected",
                "explanation": "The user has not connected this provider.",
                "evidence": {},
                "fix": "Ask the user to connect it.",
                "who": "user",
            }
        ],
        "probe": None,
        "checked_at": _NOW,
    },
    "DisconnectResponse": _DISCONNECTED,
    "GrantRequest": {"scopes": [_SCOPE], "reason_required": True},
    "HealthResponse": {"status": "ok", "database": "ok", "redis": "ok", "rate_limiter": "shared"},
    "IntegrationConnectedEvent": _sent_of_integration("integration.connected", reason=None),
    "IntegrationDegradedEvent": _sent_of_integration("integration.degraded", reason="timeout"),
    "IntegrationDisconnectedEvent": _sent_of_integration("integration.disconnected", by="user"),
    "IntegrationList": {"items": [_INTEGRATION]},
    "IntegrationNeedsReauthEvent": _sent_of_integration("integration.needs_reauth", reason="grant_refused"),
    "IntegrationRecoveredEvent": _sent_of_integration("integration.recovered", reason=None),
    "IntegrationResponse": _INTEGRATION,
    "IntegrationRevokedEvent": _sent_of_integration("integration.revoked", reason="revoked_at_provider"),
    "IntegrationUpdate": {"metadata": {"label": "Work"}},
    "NewSecret": {"secret": "whsec_example", "former_secret_until": "2026-12-01T09:00:00Z"},
    "NewServiceKey": {
        "name": "calendar-sync",
        "key": f"ums_c9f1d7f5375e_{'0' * 64}",
        "key_id": "c9f1d7f5375e",
    },
    "NewSubscription": _SUBSCRIPTION | {"secret": "whsec_example"},
    "Page_AdminUserResponse_": {"items": [_ADMINISTERED], "next_cursor": None},
    "Page_DeliveryResponse_": {
        "items": [
            {
                "id": _ID,
                "event_id": _OTHER_ID,
                "event_type": "integration.connected",
                "sequence": 42,
                "state": "delivered",
                "attempts": 1,
                "next_attempt_at": None,
                "last_status": 204,
                "last_error": None,
                "created_at": _NOW,
                "delivered_at": _NOW,
                "webhook_id": f"msg_{_OTHER_ID}",
            }
        ],
        "next_cursor": None,
    },
    "Page_SubscriptionResponse_": {"items": [_SUBSCRIPTION], "next_cursor": None},
    "Page_TokenReadEntry_": {
        "items": [
            {
                "id": _OTHER_ID,
                "read_at": _NOW,
                "service": "calendar-sync",
                "outcome": "granted",
                "scopes": [_SCOPE],
                "reason": "nightly sync",
                "integration_id": _ID,
            }
        ],
        "next_cursor": None,
    },
    "Page_UserResponse_": {"items": [_PROFILE], "next_cursor": None},
    "PermissionsRequest": {"permissions": ["users:read", "users:search"]},
    "ProviderList": {
        "items": [
            {
                "name": "google",
                "display_name": "Google",
                "scopes": {_SCOPE: "View and edit events"},
                "required_scopes": ["openid", "email"],
                "revocable": True,
                "revocation_note": None,
            }
        ]
    },
    "QueuedDelivery": {"delivery_id": _ID, "webhook_id": f"msg_{_OTHER_ID}"},
    "ReadyResponse": {"status": "ready", "database": "ok", "redis": "ok"},
    "ReplayRequest": {"since": _EARLIER, "until": _NOW},
    "Replayed": {"queued": 3, "has_more": False, "next_since": None},
    "RevokedKeys": {"revoked": 2},
    "RotateKeyRequest": {"overlap_seconds": 86400},
    "RotateSecretRequest": {"overlap_seconds": 86400},
    "ServiceList": {"items": [_SERVICE]},
    "ServiceResponse": _SERVICE,
    "SubscriptionResponse": _SUBSCRIPTION,
    "SubscriptionUpdate": {"status": "disabled"},
    "SuspendRequest": {"reason": "chargeback"},
    "TokenBatch": {"items": [{"token": _TOKEN, "problem": None}]},
    "TokenBatchRequest": {"items": [_WANTED]},
    "TokenExchangeResponse": {
        "access_token": "ya29.example",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 3311,
        "scope": f"email {_SCOPE} openid",
        "account": "104217",
    },
    "TokenRequest": _WANTED,
    "TokenResponse": _TOKEN,
    "UserBatch": {"users": [_PROFILE], "missing": ["user_gone"]},
    "UserBatchRequest": {"user_ids": [_USER, "user_gone"]},
    "UserCreatedEvent": _sent("user.created"),
    "UserDeactivatedEvent": _sent("user.deactivated"),
    "UserDeletedEvent": _sent("user.deleted"),
    "UserErasedEvent": _sent("user.erased"),
    "UserResponse": _PROFILE,
    "UserRestoredEvent": _sent("user.restored"),
    "UserSuspendedEvent": _sent("user.suspended"),
    "UserUpdate": {"first_name": "Augusta", "profile_image_url": None},
    "UserUpdatedEvent": _sent("user.updated", changed=["first_name", "last_name"]),
    "WebhookAccepted": {"duplicate": False, "applied": True},
    "WebhookTestEvent": {
        "specversion": "1.0",
        "id": _OTHER_ID,
        "source": "https://users.example.com",
        "type": "webhook.test",
        "subject": _ID,
        "time": _NOW,
        "datacontenttype": "application/json",
        "data": {"subscription_id": _ID},
        "deliverysequence": "00000000000000000042",
    },
}
"""One example of each request and answer, by the name of its schema."""
FORM_EXAMPLE: Final[dict[str, Any]] = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": _USER,
    "subject_token_type": "urn:user-management:token-type:user-id",
    "audience": "google",
    "scope": _SCOPE,
    "reason": "nightly sync",
}
PARAMETERS: Final[dict[str, str]] = {
    "user_id": _USER,
    "provider": "google",
    "name": "calendar-sync",
    "key_id": "c9f1d7f5375e",
    "subscription_id": _ID,
    "state": "example-state",
    "webhook-id": f"msg_{_OTHER_ID}",
    "webhook-timestamp": "1796029200",
    "webhook-signature": f"v1,{'A' * 43}=",
}
"""Examples of the parameters in paths, and of those that a query or the headers must have, by name."""


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Put an example into each request body, successful answer, webhook and required parameter, and return the
    document. Raises KeyError for a schema or a required parameter that has no example."""
    for item in (*document["paths"].values(), *document["webhooks"].values()):
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["required"]:
                    parameter["example"] = PARAMETERS[parameter["name"]]
            answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            for described in (operation.get("requestBody", {}), *answers):
                for media_type, content in described.get("content", {}).items():
                    content["example"] = _example(media_type, content.get("schema", {}))
    return document


def _example(media_type: str, schema: dict[str, Any]) -> Any:
    if media_type == "application/x-www-form-urlencoded":
        return FORM_EXAMPLE
    if media_type == "text/plain":
        return 'user_management_rate_limited_total{class="user"} 1.0\n'
    return EXAMPLES[schema_name(schema)]


def schema_name(schema: dict[str, Any]) -> str:
    """Return the name of a schema, which is a reference or is written out with its title."""
    return str(schema.get("$ref", schema.get("title", ""))).rpartition("/")[2]
