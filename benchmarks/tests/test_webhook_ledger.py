"""What the database should hold after a burst of webhooks, worked out from the sender's ledger, the comparison with
what it holds, and the messages of a burst."""

import json
import random
from pathlib import Path
from typing import Any

from benchmarks.webhook_ledger import Ledger, _compare
from benchmarks.webhook_messages import deliveries, make_messages
from benchmarks.webhook_sender import Delivery

NAMES = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Byron", "updated_at": 1000}


def lots(seed: int) -> random.Random:
    """Return a source of random numbers, such as the sender makes of its seed."""
    return random.Random(seed)  # noqa: S311 - the same burst for the same seed


def message(event_type: str, **said: Any) -> dict[str, Any]:
    """Return a message about the user `user_ada`, as the ledger has it."""
    return {"id": f"msg_{event_type}", "type": event_type, "subject": "user_ada", "said": said}


def ledger(*messages: dict[str, Any], status: int = 200) -> Ledger:
    """Return a ledger in which each of `messages` was delivered once and answered with `status`."""
    answered = [Delivery(said["id"], due=0.0, sent=0.0, answered=0.1, status=status) for said in messages]
    return Ledger({said["id"]: said for said in messages}, answered)


def test_user_updated_before_created_is_as_updated() -> None:
    changed = message("user.updated", **{**NAMES, "last_name": "Lovelace", "updated_at": 2000})

    users = ledger(changed, message("user.created", **NAMES)).users()

    assert users["user_ada"]["last_name"] == "Lovelace"
    assert users["user_ada"]["status"] == "active"


def test_user_deleted_before_created_is_deleted_with_profile() -> None:
    users = ledger(message("user.deleted"), message("user.created", **NAMES)).users()

    assert (users["user_ada"]["status"], users["user_ada"]["deleted_by"]) == ("deactivated", "upstream")
    assert users["user_ada"]["email"] == "ada@example.com"


def test_session_created_is_last_login() -> None:
    said = ledger(message("session.created", session_id="sess_1", started_at=1500))

    assert said.users()["user_ada"]["last_login_at"] == 1500
    assert said.sessions() == {"sess_1": {"subject": "user_ada", "started_at": 1500}}


def test_message_that_was_never_accepted_is_expected_nowhere() -> None:
    refused = ledger(message("user.created", **NAMES), status=503)

    assert (refused.users(), refused.events()) == ({}, {})


def test_effects_of_deleted_user_are_one_creation_and_one_deletion() -> None:
    effects = ledger(message("user.created", **NAMES), message("user.deleted")).effects()

    assert effects == {
        "audit user.created": 1,
        "outbox user.created": 1,
        "preferences": 1,
        "audit user.deleted": 1,
        "outbox user.deleted": 1,
    }


def test_states_that_differ_are_told_apart() -> None:
    wanted = {"a": {"name": "Ada"}, "b": {"name": "Bob"}, "c": {"name": "Cyd"}}
    actual = {"a": {"name": "Ada"}, "b": {"name": "Rob"}, "d": {"name": "Dan"}}

    found = _compare("user", wanted, actual)

    assert found == [
        "user b: {'name': 'Rob'}, not {'name': 'Bob'}",
        "user c: {}, not {'name': 'Cyd'}",
        "user d: {'name': 'Dan'}, not {}",
    ]


def test_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    created = message("user.created", **NAMES)
    delivery = {"message_id": created["id"], "due": 0.0, "sent": 0.1, "answered": 0.2, "status": 200}
    path = tmp_path / "ledger.jsonl"
    path.write_text(
        "\n".join(json.dumps(line) for line in ({"kind": "message", **created}, {"kind": "delivery", **delivery}))
    )

    read = Ledger.read(path)

    assert read.accepted == [created]
    assert read.deliveries == [Delivery(**delivery)]


def test_burst_of_a_seed_is_the_same_mix_each_twice() -> None:
    first, second = (make_messages(100, lots(7)) for _ in range(2))

    order = [one.id for one in deliveries(first, lots(8))]

    types = [one.type for one in first]
    assert [types.count(name) for name in ("user.created", "user.updated", "session.created", "user.deleted")] == [
        60,
        20,
        10,
        10,
    ]
    assert {one.id for one in first} == {one.id for one in second}
    assert sorted(order) == sorted(2 * [one.id for one in first])
    assert order != [one.id for one in first] * 2
