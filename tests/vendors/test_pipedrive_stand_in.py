"""The stand-in of Pipedrive refuses what Pipedrive refuses."""

from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from tests.vendors.endpoint import Fault
from tests.vendors.pipedrive import BEARER, HOST, TOKEN, Pipedrive

NOW = 1779271208.0
BASE = f"https://{HOST}"
JSON = {"content-type": "application/json", "x-api-token": TOKEN}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def company(clock: Clock) -> Pipedrive:
    company = Pipedrive(clock)
    company.add_person("Jane Doe", "jane@example.com", "+1 415 555 2671")
    company.add_deal("Deal", person_id=1)
    company.add_lead("Lead", person_id=1)
    return company


def call(
    company: Pipedrive, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    given = {"x-api-token": TOKEN} if document is None else JSON
    body = b"" if document is None else orjson.dumps(document)
    answer = company.answer(method, BASE + path, headers or given, body)
    return answer.status, orjson.loads(answer.body), dict(answer.headers)


LEAD = "00000000-0000-4000-8000-000000000003"
NOTE = {"content": "<b>Accepted</b>", "deal_id": 2}
ACTIVITY = {"subject": "LinkedIn outreach failed", "type": "task", "deal_id": 2}


@pytest.mark.parametrize("place", [{"deal_id": 2}, {"person_id": 1}, {"lead_id": LEAD}, {"deal_id": 2, "person_id": 1}])
def test_note_is_added_and_listed_with_what_it_is_attached_to(company: Pipedrive, place: dict[str, Any]) -> None:
    status, answer, _ = call(company, "POST", "/v1/notes", {"content": "Hi", **place})
    assert (status, answer["success"], answer["data"]["id"]) == (201, True, 4)
    for name, id in place.items():
        status, answer, _ = call(company, "GET", f"/v1/notes?{name}={id}&sort=id%20DESC&limit=1")
        assert [one["content"] for one in answer["data"]] == ["Hi"]
        assert answer["additional_data"]["pagination"]["more_items_in_collection"] is False
    assert call(company, "GET", "/api/v1/notes?deal_id=99")[1]["data"] is None, "/api/v1 is /v1, and no notes are null"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "an object is expected"),
        ({"deal_id": 2}, "'content' it is missing"),
        ({"content": "x"}, "one of lead_id, deal_id"),
        ({"content": "", "deal_id": 2}, "must be a text"),
        ({"content": 5, "deal_id": 2}, "must be a text"),
        ({"content": "x" * 100_001, "deal_id": 2}, "is too long"),
        ({"content": "x", "deal_id": "2"}, "must be a number"),
        ({"content": "x", "deal_id": True}, "must be a number"),
        ({"content": "x", "deal_id": 99}, "is not known"),
        ({"content": "x", "lead_id": "2"}, "must be a uuid"),
        ({"content": "x", "deal_id": 2, "colour": "red"}, "no such field"),
        ({"content": "x", "deal_id": 2, "pinned_to_deal_flag": True, "user_id": 9}, "may set it"),
        ({"content": "x", "deal_id": 2, "pinned_to_deal_flag": 2}, "must be one of 0, 1"),
        ({"content": "x", "deal_id": 2, "pinned_to_person_flag": 1}, "needs the id"),
    ],
)
def test_wrong_note_is_refused(company: Pipedrive, document: Any, said: str) -> None:
    status, answer, _ = call(company, "POST", "/v1/notes", document)
    assert (status, answer["success"], answer["data"]) == (400, False, None)
    assert said in answer["error"]
    assert answer["error_info"]
    assert company.notes == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"type": "task"}, "'subject' it is missing"),
        ({**ACTIVITY, "person_id": 1}, "read-only field"),
        ({**ACTIVITY, "deal_id": "2"}, "must be a number"),
        ({**ACTIVITY, "done": 1}, "must be a boolean"),
        ({**ACTIVITY, "type": "outreach"}, "is no type"),
        ({**ACTIVITY, "subject": "x" * 256}, "is too long"),
        ({**ACTIVITY, "note": "x" * 100_001}, "is too long"),
        ({**ACTIVITY, "due_date": "20.5.2026"}, "wrong format"),
        ({**ACTIVITY, "participants": [{"person_id": 99}]}, "is not known"),
        ({**ACTIVITY, "participants": [{"person_id": 1, "primary_flag": True}]}, "no such field"),
        ({**ACTIVITY, "busy_flag": True}, "no such field"),
    ],
)
def test_wrong_activity_is_refused(company: Pipedrive, document: Any, said: str) -> None:
    status, answer, _ = call(company, "POST", "/api/v2/activities", document)
    assert (status, answer["success"], answer["code"]) == (400, False, "ERR_BAD_REQUEST")
    assert said in answer["error"]
    assert company.activities == []


def test_activity_has_its_primary_participant_as_person(company: Pipedrive) -> None:
    given = {**ACTIVITY, "participants": [{"person_id": 1, "primary": True}], "done": False, "note": "<b>x</b>"}
    status, answer, _ = call(company, "POST", "/api/v2/activities", given)
    assert (status, answer["data"]["person_id"], answer["data"]["add_time"]) == (200, 1, "2026-05-20T10:00:08Z")
    for query in ("deal_id=2", "person_id=1"):
        found = call(company, "GET", f"/api/v2/activities?{query}&sort_by=id&sort_direction=desc&limit=25")[1]
        assert [one["id"] for one in found["data"]] == [answer["data"]["id"]]
        assert found["additional_data"] == {"next_cursor": None}


def test_lists_have_pages_with_the_newest_first(company: Pipedrive) -> None:
    for nth in range(3):
        call(company, "POST", "/v1/notes", {"content": f"note {nth}", "deal_id": 2})
        call(company, "POST", "/api/v2/activities", {**ACTIVITY, "subject": f"activity {nth}"})
    notes, start = [], 0
    for _ in range(3):
        page = call(company, "GET", f"/v1/notes?deal_id=2&sort=id%20DESC&limit=1&start={start}")[1]
        notes += [one["content"] for one in page["data"]]
        start = page["additional_data"]["pagination"].get("next_start")
    assert (notes, start) == (["note 2", "note 1", "note 0"], None)
    path = "/api/v2/activities?deal_id=2&sort_direction=desc&limit=2"
    first = call(company, "GET", path)[1]
    second = call(company, "GET", f"{path}&cursor={first['additional_data']['next_cursor']}")[1]
    assert [one["subject"][-1] for one in (*first["data"], *second["data"])] == ["2", "1", "0"]


def test_search_finds_a_person_by_the_whole_address_and_not_at_once(company: Pipedrive, clock: Clock) -> None:
    path = "/api/v2/persons/search?fields=email&exact_match=true&limit=2&term="
    assert [one["item"]["id"] for one in call(company, "GET", path + "JANE@example.com")[1]["data"]["items"]] == [1]
    assert call(company, "GET", path + "jane")[1]["data"]["items"] == []
    given = {"name": "Ann", "emails": [{"value": "ann@example.com", "primary": True}]}
    assert call(company, "POST", "/api/v2/persons", given)[0] == 200
    assert call(company, "GET", path + "ann@example.com")[1]["data"]["items"] == []
    clock.now += 5
    assert len(call(company, "GET", path + "ann@example.com")[1]["data"]["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/users/me", {"x-api-token": "wrong"}, 401),
        ("GET", "/v1/users/me", {"accept": "*/*"}, 401),
        ("GET", "/v1/users/me", {"authorization": f"Bearer {TOKEN}"}, 401),
        ("GET", "/v1/users/me", {"authorization": TOKEN}, 400),
        ("GET", "/v1/users/me", {"authorization": f"Bearer {BEARER}", "x-api-token": TOKEN}, 400),
        ("GET", "/v1/users/me?api_token=1", {"x-api-token": TOKEN}, 400),
        ("GET", "/api/v2/notes", {"x-api-token": TOKEN}, 404),
        ("POST", "/v1/users/me", JSON, 405),
        ("GET", "/api/v2/deals/99", {"x-api-token": TOKEN}, 404),
        ("GET", "/v1/leads/99", {"x-api-token": TOKEN}, 404),
        ("GET", "/api/v2/persons/search?term=", {"x-api-token": TOKEN}, 400),
        ("GET", "/v1/notes?deal_id=2&deal_id=3", {"x-api-token": TOKEN}, 400),
        ("GET", "/v1/notes?sort=content", {"x-api-token": TOKEN}, 400),
        ("POST", "/v1/notes", {"x-api-token": TOKEN, "content-type": "text/plain"}, 415),
    ],
)
def test_wrong_call_is_refused(
    company: Pipedrive, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    found, answer, _ = call(company, method, path, {} if method == "POST" else None, headers)
    assert (found, answer["success"]) == (status, False)


@pytest.mark.parametrize(
    ("scopes", "method", "path", "document", "status"),
    [
        ({"deals:full"}, "POST", "/v1/notes", NOTE, 201),
        ({"contacts:full"}, "POST", "/v1/notes", NOTE, 201),
        ({"deals:read"}, "POST", "/v1/notes", NOTE, 403),
        ({"activities:read"}, "POST", "/api/v2/activities", ACTIVITY, 403),
        ({"search:read"}, "GET", "/api/v2/persons/search?term=jane", None, 200),
        ({"deals:full"}, "GET", "/api/v2/persons/search?term=jane", None, 403),
        ({"leads:read"}, "GET", f"/v1/leads/{LEAD}", None, 200),
        ({"deals:full"}, "GET", f"/v1/leads/{LEAD}", None, 403),
    ],
)
def test_app_needs_the_scope(
    company: Pipedrive, scopes: set[str], method: str, path: str, document: Any, status: int
) -> None:
    company.scopes = scopes
    headers = {"authorization": f"Bearer {BEARER}", "content-type": "application/json"}
    found, answer, _ = call(company, method, path, document, headers)
    assert found == status
    if status == 403:
        assert answer == {"success": False, "error": "Scope and URL mismatch", "errorCode": 403}


def test_burst_of_requests_is_limited_for_two_seconds(company: Pipedrive, clock: Clock) -> None:
    company.burst = 3
    left = [call(company, "GET", "/v1/users/me")[2]["x-ratelimit-remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    status, _, shown = call(company, "GET", "/v1/users/me")
    assert (status, shown["x-ratelimit-remaining"], shown["x-ratelimit-reset"]) == (429, "0", "2")
    clock.now += 2
    assert call(company, "GET", "/v1/users/me")[0] == 200


def test_searches_have_a_limit_of_their_own(company: Pipedrive) -> None:
    path = "/api/v2/persons/search?term=jane"
    assert [call(company, "GET", path)[0] for _ in range(11)] == [200] * 10 + [429]
    assert call(company, "GET", "/v1/users/me")[0] == 200


def test_budget_of_the_day_is_used_up_although_the_window_has_room(company: Pipedrive) -> None:
    company.budget = 15
    assert call(company, "POST", "/v1/notes", NOTE)[0] == 201
    status, _, shown = call(company, "POST", "/v1/notes", NOTE)
    assert (status, company.budget) == (429, 5)
    assert shown["x-ratelimit-remaining"] != "0"


def test_closed_company_takes_nothing(company: Pipedrive) -> None:
    company.is_open = False
    assert call(company, "GET", "/v1/users/me")[0] == 402


def test_markup_is_sanitized_and_text_is_kept(company: Pipedrive) -> None:
    content = '<b onclick="x">A &amp; B</b><script>alert(1)</script><!-- key --><br>revor-relay evt_1'
    answer = call(company, "POST", "/v1/notes", {"content": content, "deal_id": 2})[1]
    assert answer["data"]["content"] == "<b>A &amp; B</b><br>revor-relay evt_1"
    assert company.messages[0].title == "A & B"
    assert company.messages[0].footer == "revor-relay evt_1"


def test_fault_takes_the_place_of_an_answer_after_the_work_or_before(company: Pipedrive) -> None:
    company.fail("POST /v1/notes", Fault(status=0, works=True), Fault(status=503), Fault(status=200, body=b"<html>"))
    answers = [company.answer("POST", f"{BASE}/v1/notes", JSON, orjson.dumps(NOTE)) for _ in range(4)]
    assert [answer.status for answer in answers] == [0, 503, 200, 201]
    assert len(company.notes) == 2
    assert [name for name, _, _ in company.calls] == ["POST /v1/notes"] * 4


def test_company_is_reached_over_http(company: Pipedrive) -> None:
    client = TestClient(company.app(), base_url=BASE, headers={"x-api-token": TOKEN})
    assert client.get("/v1/users/me").json()["data"]["company_domain"] == "acme"
    assert client.post("/v1/notes", json=NOTE).status_code == 201
    assert client.get("/v1/notes", params={"deal_id": 2}).json()["data"][0]["content"] == "<b>Accepted</b>"
