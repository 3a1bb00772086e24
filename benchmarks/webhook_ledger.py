"""Reads the sender's ledger, works out what the database should hold after it, and compares that with what it holds.

The service is not asked: the expected rows are worked out here a second time, from the messages that were answered 2xx,
and compared with those that SQL finds.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.deployment import Deployment
from benchmarks.webhook_sender import Delivery

State = dict[str, dict[str, Any]]

_USERS: Final = """
SELECT coalesce(json_object_agg(i.subject, json_build_object(
    'email', u.email, 'first_name', u.first_name, 'last_name', u.last_name,
    'updated_at', (extract(epoch FROM u.upstream_updated_at) * 1000)::bigint,
    'last_login_at', (extract(epoch FROM u.last_login_at) * 1000)::bigint,
    'deleted_by', u.deleted_by, 'status', u.status)), '{}')
FROM users u JOIN user_identities i ON i.user_id = u.id
"""
_SESSIONS: Final = """
SELECT coalesce(json_object_agg(session_id, json_build_object(
    'subject', user_id, 'started_at', (extract(epoch FROM started_at) * 1000)::bigint)), '{}')
FROM sign_ins
"""
_EVENTS: Final = """
SELECT coalesce(json_object_agg(message_id, json_build_object(
    'type', event_type, 'subject', subject, 'applied', applied_at IS NOT NULL, 'error', error)), '{}')
FROM webhook_events
"""
# The outbox informs the other services, so it must hold each effect exactly once too.
_EFFECTS: Final = """
SELECT json_object_agg(name, total) FROM (
    SELECT 'audit ' || action AS name, count(*) AS total FROM audit_logs GROUP BY action
    UNION ALL SELECT 'outbox ' || event_type, count(*) FROM outbox_events GROUP BY event_type
    UNION ALL SELECT 'preferences', count(*) FROM user_preferences) AS effects
"""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The webhooks that were sent, and how each delivery was answered."""

    messages: Mapping[str, Mapping[str, Any]]
    deliveries: Sequence[Delivery]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the ledger of a sender that has ended. Raises OSError."""
        messages, deliveries = {}, []
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if entry.pop("kind") == "message":
                messages[entry["id"]] = entry
            else:
                deliveries.append(Delivery(**entry))
        return cls(messages, deliveries)

    @property
    def accepted(self) -> list[Mapping[str, Any]]:
        """The messages of which at least one delivery was answered 2xx."""
        ids = {delivery.message_id for delivery in self.deliveries if delivery.accepted}
        return [message for message_id, message in self.messages.items() if message_id in ids]

    def events(self) -> State:
        """Return the events that the inbox (the webhooks that the service has stored) should hold, by message id."""
        return {
            message["id"]: {"type": message["type"], "subject": message["subject"], "applied": True, "error": None}
            for message in self.accepted
        }

    def sessions(self) -> State:
        """Return the sign-ins that there should be, by session id."""
        return {
            message["said"]["session_id"]: {
                "subject": message["subject"],
                "started_at": message["said"]["started_at"],
            }
            for message in self.accepted
            if message["type"] == "session.created"
        }

    def users(self) -> State:
        """Return the users that there should be, by subject: as last described, and deleted if any message said so."""
        users: State = {}
        for message in sorted(self.accepted, key=lambda message: int(message["said"].get("updated_at", 0))):
            user = users.setdefault(message["subject"], _nobody())
            if message["type"] == "user.deleted":
                user |= {"deleted_by": "upstream", "status": "deactivated"}
            elif message["type"] == "session.created":
                user["last_login_at"] = message["said"]["started_at"]
            else:
                user |= message["said"]
        return users

    def effects(self) -> dict[str, int]:
        """Return how many audit rows, outbox events and rows of preferences there should be for the users that were
        created and deleted.

        How often and in what order the messages came makes no difference.
        """
        users = self.users()
        deleted = sum(user["deleted_by"] is not None for user in users.values())
        return {
            "audit user.created": len(users),
            "outbox user.created": len(users),
            "preferences": len(users),
            "audit user.deleted": deleted,
            "outbox user.deleted": deleted,
        }


def _nobody() -> dict[str, Any]:
    names = ("email", "first_name", "last_name", "updated_at", "last_login_at", "deleted_by")
    return {**dict.fromkeys(names), "status": "active"}


def differences(ledger: Ledger, deployment: Deployment) -> list[str]:
    """Return a line for each event, user or session that the database holds otherwise than the ledger calls for, and
    for each count of `Ledger.effects` that the database does not match. Raises BenchmarkError."""
    found = []
    for what, wanted, sql in (
        ("event", ledger.events(), _EVENTS),
        ("user", ledger.users(), _USERS),
        ("session", ledger.sessions(), _SESSIONS),
    ):
        found += _compare(what, wanted, json.loads(deployment.query(sql)))
    effects = Counter(json.loads(deployment.query(_EFFECTS)))
    wanted_effects = ledger.effects()
    found += [
        f"{name}: {effects[name]}, not {total}" for name, total in wanted_effects.items() if effects[name] != total
    ]
    return found


def _compare(what: str, wanted: State, actual: State) -> list[str]:
    nothing: dict[str, Any] = {}
    return [
        f"{what} {key}: {actual.get(key, nothing)}, not {wanted.get(key, nothing)}"
        for key in sorted(wanted.keys() | actual.keys())
        if wanted.get(key, nothing) != actual.get(key, nothing)
    ]
