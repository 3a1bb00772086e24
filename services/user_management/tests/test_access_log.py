"""Tests that a refused token read writes one log line, and a granted one none, since its row in `token_reads` has the
request id."""

from structlog.testing import capture_logs

from services.user_management.tests.journey import Journey


async def test_token_read_granted_writes_no_line_but_a_record_with_the_request_id(journey: Journey) -> None:
    person = await journey.sign_up()
    await journey.connect(person)
    key = await journey.service_key()

    with capture_logs() as lines:
        response = await journey.get_token(key, person.id)

    assert response.status_code == 200
    assert [line for line in lines if line["event"] == "request.completed"] == []
    recorded = await journey.owner.fetch("SELECT request_id FROM token_reads")
    assert [row["request_id"] for row in recorded] == [response.headers["x-request-id"]]


async def test_token_read_refused_writes_one_line(journey: Journey) -> None:
    key = await journey.service_key()

    with capture_logs() as lines:
        response = await journey.get_token(key, "user_nobody")

    assert response.status_code == 404
    completed = [line for line in lines if line["event"] == "request.completed"]
    assert [(line["route"], line["status"]) for line in completed] == [("/internal/tokens/get", 404)]
