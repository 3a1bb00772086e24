"""Clerk's session object, the `data` of webhooks about sessions (schema of 2025-04-15)."""

from typing import Any, Final

from services.sandbox.clerk.session_tokens import session_id as session_id_of
from services.sandbox.clerk.users import ClerkUser, clerk_id

ClerkSession = dict[str, Any]

STATUS_AFTER: Final = {
    "session.created": "active",
    "session.pending": "pending",
    "session.ended": "ended",
    "session.removed": "removed",
    "session.revoked": "revoked",
}
"""Type of event → status of its session. Clerk does send `pending`, although its published schema lacks that status."""

_LIFETIME_MILLISECONDS: Final = 7 * 24 * 3600 * 1000
_ABANDONED_AFTER_MILLISECONDS: Final = 30 * 24 * 3600 * 1000


def new_session(
    event_type: str,
    user_id: str,
    *,
    session_id: str | None,
    created_at: int,
    updated_at: int,
    user: ClerkUser | None,
) -> ClerkSession:
    """Return the session that an event of this type is about, with every key of the schema; times are in milliseconds.
    Without `session_id` it is the session of the user's session tokens.

    Raises `KeyError` for a type of event that is not about sessions.
    """
    if event_type not in STATUS_AFTER:
        raise KeyError(f"there is no session event {event_type}; the events are {', '.join(STATUS_AFTER)}")
    return {
        "id": session_id or session_id_of(user_id),
        "object": "session",
        "user_id": user_id,
        "user": user,
        "client_id": clerk_id("client"),
        "status": STATUS_AFTER[event_type],
        "actor": None,
        "last_active_organization_id": None,
        "latest_activity": _activity(),
        "last_active_at": updated_at,
        "expire_at": created_at + _LIFETIME_MILLISECONDS,
        "abandon_at": created_at + _ABANDONED_AFTER_MILLISECONDS,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _activity() -> dict[str, Any]:
    return {
        "id": clerk_id("activity"),
        "object": "session_activity",
        "device_type": "desktop",
        "is_mobile": False,
        "browser_name": "Sandbox",
        "browser_version": "1.0",
        "ip_address": "203.0.113.5",
        "city": "London",
        "country": "GB",
    }
