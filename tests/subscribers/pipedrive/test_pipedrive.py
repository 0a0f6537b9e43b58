"""Pipedrive: who is meant, what is written, and that nothing is written twice, at a strict stand-in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step
from relay.core.deliveries.ledger import SETTLE_SECONDS, event_key, read_entry
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers.base import RenderContext
from subscribers.pipedrive import INDEXED_SECONDS, Pipedrive
from subscribers.pipedrive.answers import READ_BYTES, read_answer
from tests.subscribers.slack.test_dialogue import job
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.kind_checks import check
from tests.support.scale import scaled
from tests.vendors import pipedrive as stand_in
from tests.vendors.endpoint import Fault
from tests.vendors.pipedrive import HOST, TOKEN

NOW = 1779271208.0
SINK = f"https://{HOST}"
KIND = Pipedrive()
CONTEXT = RenderContext(public_url="https://relay.example")
EMAIL = "jane@example.com"
LEAD = "00000000-0000-4000-8000-000000000003"


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def pipedrive(sink: str = SINK, type: str = "ACCESSTOKEN", **options: Any) -> Subscription:
    tokens = {"ACCESSTOKEN": {"accesstoken": TOKEN}, "HEADER": {"name": "X-Api-Token", "value": TOKEN}}
    fields = {"credentialtype": type, **tokens.get(type, {"refreshtoken": "x"})}
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=fields)
    return Subscription(id="sub_1", sink=sink, kind="pipedrive", credential=credential, options=options)


def event(metadata: Mapping[str, Any], kind: str = "succeeded", nth: int = 1) -> Event:
    made = job(kind, nth)
    document = made.document()
    document["data"]["metadata"] = dict(metadata)
    return replace(made, body=orjson.dumps(document))


class World:
    """A company, a subscription and what it remembers. `deliver` is one attempt."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.company = stand_in.Pipedrive(self.clock)
        self.company.add_person("Jane Doe", EMAIL, "+1 415 555 2671")
        self.company.add_deal("Deal", person_id=1)
        self.company.add_lead("Lead", person_id=1)
        self.subscription = pipedrive(**options)
        self.context = CONTEXT
        self.memories: dict[str, Memory] = {}
        self.steps: list[Step] = []

    def deliver(self, about: Event, *, dies_at: int | None = None, dies_after: int | None = None) -> Outcome | None:
        """The outcome of an attempt. It dies before a request is sent, or after its answer: then there is none."""
        dialogue = KIND.dialogue(self.subscription)
        assert dialogue is not None
        key = dialogue.key(about, self.subscription)
        assert key == event_key(about.id)
        shared = () if dialogue.shared is None else dialogue.shared(about, self.subscription, self.context)
        context = replace(self.context, known=[self.memories.get(one, {}) for one in shared])
        self.steps = []
        steps = dialogue.steps(about, self.subscription, context, self.memories.get(key, {}), self.clock.now)
        try:
            step = next(steps)
            while True:
                self._keep([key], step.remember)
                self._keep(shared, step.share)
                assert step.private, "the answer or the URL may say something about a person"
                self.steps.append(step)
                if dies_at == len(self.steps):
                    return None
                response = self.company.take_unsigned(step.request)
                if dies_after == len(self.steps):
                    return None
                step = steps.send(response)
        except StopIteration as end:
            ended: Ended = end.value
        self._keep([key], ended.remember)
        self._keep(shared, ended.share)
        return ended.outcome

    def _keep(self, keys: Sequence[str], memory: Memory | None) -> None:
        if memory is not None:
            self.memories |= dict.fromkeys(keys, orjson.loads(orjson.dumps(memory)))

    @property
    def called(self) -> list[str]:
        return [name for name, _, _ in self.company.calls]


ABOUT_DEAL = event({"deal_id": 2})


@pytest.mark.parametrize(
    ("metadata", "options", "place"),
    [
        ({"deal_id": 2}, {}, {"deal_id": 2}),
        ({"deal_id": "2"}, {}, {"deal_id": 2}),
        ({"lead_id": LEAD}, {}, {"lead_id": LEAD}),
        ({"person_id": 1}, {}, {"person_id": 1}),
        ({"contact_id": "1"}, {}, {"person_id": 1}),
        ({"email": EMAIL}, {}, {"person_id": 1}),
        ({"email": EMAIL.upper()}, {}, {"person_id": 1}),
        ({"phone": "+1 415 555 2671"}, {}, {"person_id": 1}),
        ({"deal_id": 99, "email": EMAIL}, {}, {"person_id": 1}),
        ({"deal_id": "2; DROP", "email": EMAIL}, {}, {"person_id": 1}),
        ({"deal_id": 2, "email": EMAIL}, {"attach": "person"}, {"person_id": 1}),
        ({"email": EMAIL}, {"attach": "deal"}, {"deal_id": 2}),
        ({"email": EMAIL}, {"attach": "lead"}, {"lead_id": LEAD}),
    ],
)
def test_note_is_attached_to_whom_the_metadata_names(
    metadata: Mapping[str, Any], options: Mapping[str, Any], place: Mapping[str, Any]
) -> None:
    world = World(**options)
    outcome = world.deliver(event(metadata))
    assert outcome == Outcome(verdict="delivered", reason="http_201")
    (note,) = world.company.notes
    assert {name: note[name] for name in ("deal_id", "lead_id", "person_id") if name in note} == place
    assert world.company.refused in ([], [(404, "Deal not found")])


# --- nobody is known


def test_unknown_person_is_created_and_gets_the_note() -> None:
    world = World(unmatched="create")
    outcome = world.deliver(event({"email": "new@example.com"}))
    assert outcome is not None
    assert outcome.verdict == "delivered"
    assert world.company.persons[-1]["emails"][0]["value"] == "new@example.com"
    assert world.company.notes[0]["person_id"] == world.company.persons[-1]["id"]
    assert "new@example.com" not in orjson.dumps(world.memories).decode()


@pytest.mark.parametrize("index_seconds", [5.0, 1e9])
@pytest.mark.parametrize("way", ["email", "phone"])
def test_person_is_never_created_twice(way: str, index_seconds: float) -> None:
    world = World(unmatched="create")
    world.company.index_seconds = index_seconds
    about = event({way: {"email": "new@example.com", "phone": "+1 415 555 2672"}[way]})
    assert world.deliver(about, dies_after=3) is None
    assert len(world.company.persons) == 2
    outcome = world.deliver(about)
    assert outcome is not None
    assert outcome.verdict == "delivered", "the search does not know the person yet, but the list does"
    assert (len(world.company.persons), len(world.company.notes)) == (2, 1)


def test_person_who_was_not_created_is_created_once_that_is_certain() -> None:
    world = World(unmatched="create")
    about = event({"email": "new@example.com"})
    world.company.fail("POST /api/v2/persons", Fault(status=0))
    first = world.deliver(about)
    assert first is not None
    assert (first.verdict, first.wait_seconds, first.in_doubt) == ("retry", 0.0, False)
    second = world.deliver(about)
    assert second is not None
    assert (second.reason, second.wait_seconds, second.in_doubt) == ("settling", SETTLE_SECONDS, False)
    world.clock.now += SETTLE_SECONDS
    outcome = world.deliver(about)
    assert outcome is not None
    assert outcome.verdict == "delivered"
    assert (len(world.company.persons), len(world.company.notes)) == (2, 1)


def test_person_behind_hundreds_of_newer_ones_is_waited_for_until_the_search_finds_them() -> None:
    world = World(unmatched="create")
    world.company.index_seconds = INDEXED_SECONDS - 1
    about = event({"email": "new@example.com"})
    world.company.fail("POST /api/v2/persons", Fault(status=0, works=True))
    world.deliver(about)
    for nth in range(400):
        world.company.add_person(f"Person {nth}", f"person-{nth}@example.com")
    world.clock.now += SETTLE_SECONDS
    outcome = world.deliver(about)
    assert outcome is not None
    assert (outcome.verdict, outcome.wait_seconds) == ("retry", INDEXED_SECONDS - SETTLE_SECONDS)
    world.clock.now += outcome.wait_seconds
    outcome = world.deliver(about)
    assert outcome is not None
    assert outcome.verdict == "delivered"
    assert sum(one["emails"][0]["value"] == "new@example.com" for one in world.company.persons) == 1


NEW = {"email": "new@example.com", "phone": "+1 415 555 2672"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"email": "new@example.com"}, {"email": "New@Example.com"}),
        ({"phone": "+1 415 555 2672"}, {"phone": "+1 (415) 555-2672"}),
        (NEW, {"phone": "+1 415 555 2672"}),
        ({"phone": "+1 415 555 2672"}, NEW),
        (NEW, {"person_id": 99, "email": "new@example.com"}),
    ],
)
@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
@pytest.mark.parametrize("others", [0, 40])
def test_next_event_about_a_person_finds_whom_the_first_created(
    first: Mapping[str, Any], second: Mapping[str, Any], lost: bool, others: int
) -> None:
    world = World(unmatched="create")
    world.company.index_seconds = 1e9
    world.company.fail("POST /api/v2/persons", *[Fault(status=502, works=True)] * lost)
    world.deliver(event(first))
    for nth in range(others):
        world.company.add_person(f"Person {nth}", f"person-{nth}@example.com")
    world.subscription = replace(world.subscription, id="sub_2")
    outcome = world.deliver(event(second, nth=2))
    assert outcome is not None
    assert outcome.verdict == "delivered"
    created = [one for one in world.company.persons if one["name"] in NEW.values()]
    assert len(created) == 1
    assert {one["person_id"] for one in world.company.notes} == {created[0]["id"]}


@pytest.mark.parametrize("status", [500, 429, 403])
def test_nobody_is_created_while_the_newest_cannot_be_asked(status: int) -> None:
    world = World(unmatched="create")
    world.company.fail("GET /api/v2/persons", Fault(status=status, body=b"{}"))
    outcome = world.deliver(event(NEW))
    assert outcome is not None
    assert (outcome.verdict, outcome.in_doubt, len(world.company.persons)) == ("retry", False, 1)


def test_deliveries_about_one_person_share_a_turn_that_names_nobody() -> None:
    def keys(metadata: Mapping[str, Any], sink: str = SINK, **options: Any) -> Sequence[str]:
        subscription = pipedrive(sink, **options)
        dialogue = KIND.dialogue(subscription)
        assert dialogue is not None
        return () if dialogue.shared is None else dialogue.shared(event(metadata), subscription, CONTEXT)

    both = keys(NEW, unmatched="create")
    assert len(both) == 2
    assert not [part for part in ("new@", "415", "acme") if part in "".join(both)]
    assert keys({"email": " NEW@example.com"}, unmatched="create") == both[:1]
    assert keys({"phone": "+1(415)555-2672"}, unmatched="create") == both[1:]
    assert not set(keys(NEW, "https://other.pipedrive.com", unmatched="create")) & set(both)
    for none in (keys(NEW), keys(NEW, unmatched="fail"), keys({"deal_id": 2}, unmatched="create")):
        assert list(none) == []


# --- no doubles


LOST = (Fault(status=0, works=True), Fault(status=502, works=True), Fault(status=200, body=b"<html>", works=True))


@pytest.mark.parametrize("record", ["note", "activity"])
@pytest.mark.parametrize("fault", LOST, ids=["time-out", "502", "login page"])
def test_lost_answer_is_asked_for(record: str, fault: Fault) -> None:
    world = World(record=record)
    name = {"note": "POST /v1/notes", "activity": "POST /api/v2/activities"}[record]
    world.company.fail(name, fault)
    first = world.deliver(ABOUT_DEAL)
    assert first is not None
    assert (first.verdict, first.in_doubt, first.wait_seconds) == ("retry", True, 0.0), "it is asked for soon"
    second = world.deliver(ABOUT_DEAL)
    assert second == Outcome(verdict="delivered", reason="already_written")
    assert len(world.company.notes) + len(world.company.activities) == 1
    assert world.called.count(name) == 1
    calls = len(world.company.calls)
    assert world.deliver(ABOUT_DEAL) == second, "a replay writes nothing"
    assert len(world.company.calls) == calls


@pytest.mark.parametrize("record", ["note", "activity"])
def test_lost_request_is_sent_again_once_it_has_settled(record: str) -> None:
    world = World(record=record)
    name = {"note": "POST /v1/notes", "activity": "POST /api/v2/activities"}[record]
    world.company.fail(name, Fault(status=0))
    world.deliver(ABOUT_DEAL)
    world.clock.now += 30
    waiting = world.deliver(ABOUT_DEAL)
    assert waiting is not None
    assert (waiting.verdict, waiting.reason, waiting.wait_seconds) == ("retry", "settling", SETTLE_SECONDS - 30)
    world.clock.now += SETTLE_SECONDS - 30
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert outcome.verdict == "delivered"
    assert len(world.company.notes) + len(world.company.activities) == 1


@pytest.mark.parametrize("record", ["note", "activity"])
@pytest.mark.parametrize("where", ["at", "after"])
@pytest.mark.parametrize("step", [1, 2])
def test_death_at_any_request_makes_no_double(record: str, where: str, step: int) -> None:
    world = World(record=record)
    assert world.deliver(ABOUT_DEAL, **{f"dies_{where}": step}) is None  # type: ignore[arg-type]
    for _ in range(3):
        outcome = world.deliver(ABOUT_DEAL)
        assert outcome is not None
        if outcome.verdict == "delivered":
            break
        world.clock.now += SETTLE_SECONDS
    assert outcome is not None
    assert outcome.verdict == "delivered"
    assert len(world.company.notes) + len(world.company.activities) == 1


def test_record_that_is_not_found_in_time_is_for_a_person() -> None:
    world = World()
    world.company.fail("POST /v1/notes", Fault(status=0))
    world.deliver(ABOUT_DEAL)
    for nth in range(400):
        note = {"id": 100 + nth, "deal_id": 2, "content": "x", "add_time": "2026-05-20 10:00:30"}
        world.company.notes.append(note)
    world.clock.now += SETTLE_SECONDS
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert (outcome.verdict, outcome.reason) == ("uncertain", "not_found_in_time")


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"<html>", b'{"success": true, "data"', b"x" * READ_BYTES])
def test_answer_that_broke_off_is_no_proof(broken: bytes) -> None:
    world = World()
    world.company.fail("POST /v1/notes", Fault(status=0, works=True))
    world.deliver(ABOUT_DEAL)
    world.clock.now += SETTLE_SECONDS
    world.company.fail("GET /v1/notes", *[Fault(status=200, body=broken)] * 12)
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert outcome.verdict in ("retry", "uncertain")
    assert outcome.in_doubt
    assert len(world.company.notes) == 1


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault(status=0), "retry"),
        (Fault(status=500), "retry"),
        (Fault(status=429), "retry"),
        (Fault(status=400), "uncertain"),
    ],
)
def test_failed_question_keeps_the_doubt(fault: Fault, verdict: str) -> None:
    world = World()
    world.company.fail("POST /v1/notes", Fault(status=0, works=True))
    world.deliver(ABOUT_DEAL)
    world.company.fail("GET /v1/notes", fault)
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert (outcome.verdict, outcome.in_doubt) == (verdict, True)
    entry = read_entry(world.memories[event_key(ABOUT_DEAL.id)])
    assert entry is not None
    assert entry.state == "intended"


# --- answers that lie


NOTES: Mapping[str, Any] = {
    "record gone": {"success": False, "error": "Deal not found"},
    "not a list": {"success": True, "data": {"id": 1}},
    "more, but none": {
        "success": True,
        "data": [],
        "additional_data": {"pagination": {"more_items_in_collection": True}},
    },
}


@pytest.mark.parametrize(
    ("status", "answer", "verdict", "reason"),
    [
        (404, NOTES["record gone"], "uncertain", "target_gone"),
        (403, NOTES["record gone"], "uncertain", "target_gone"),
        (200, NOTES["not a list"], "retry", "not_readable"),
        (200, NOTES["more, but none"], "retry", "not_readable"),
    ],
)
def test_list_that_proves_nothing_allows_no_second_write(status: int, answer: Any, verdict: str, reason: str) -> None:
    world = World()
    world.company.fail("POST /v1/notes", Fault(status=0, works=True))
    world.deliver(ABOUT_DEAL)
    world.clock.now += SETTLE_SECONDS
    world.company.fail("GET /v1/notes", Fault(status=status, body=orjson.dumps(answer)))
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert (outcome.verdict, outcome.reason, outcome.in_doubt) == (verdict, reason, True)
    assert world.called.count("POST /v1/notes") == 1


def listed(record: str, ids: list[int], more: Mapping[str, Any], add_time: str = "2026-01-20 10:00:30") -> bytes:
    rows = [{"id": id, record: "x", "add_time": add_time} for id in ids]
    return orjson.dumps({"success": True, "data": rows, "additional_data": more})


@pytest.mark.parametrize(
    ("record", "pages"),
    [
        ("note", [listed("content", [1, 2, 3], {"pagination": {"more_items_in_collection": True}})]),
        ("note", [listed("content", [7], {"pagination": {"more_items_in_collection": True, "next_start": 10**9}})]),
        ("activity", [listed("note", [1, 2], {"next_cursor": "a"}), listed("note", [3, 4], {"next_cursor": "b"})]),
        ("activity", [listed("note", [2, 1], {"next_cursor": "a"}, "soon"), listed("note", [2], {"next_cursor": "a"})]),
        ("activity", [listed("note", [2, 1], {"next_cursor": 7}, "soon")]),
        ("activity", [listed("note", [2, 1], {"next_cursor": "x" * 5000}, "soon")]),
    ],
    ids=["not the newest first", "far next page", "cursors in a circle", "one cursor", "no text", "long"],
)
def test_list_in_another_order_or_without_an_end_is_no_proof(record: str, pages: list[bytes]) -> None:
    world = World(record=record)
    name = {"note": "/v1/notes", "activity": "/api/v2/activities"}[record]
    world.company.fail(f"POST {name}", Fault(status=0, works=True))
    world.deliver(ABOUT_DEAL)
    world.clock.now += SETTLE_SECONDS
    world.company.fail(f"GET {name}", *[Fault(status=200, body=body) for body in pages * 12])
    outcome = world.deliver(ABOUT_DEAL)
    assert outcome is not None
    assert (outcome.verdict in ("retry", "uncertain"), outcome.in_doubt) == (True, True)
    assert world.called.count(f"POST {name}") == 1
    assert world.called.count(f"GET {name}") <= 12
    starts = [int(query.get("start", 0)) for call, query, _ in world.company.calls if call == "GET /v1/notes"]
    assert starts == sorted(starts)
    assert max(starts, default=0) <= 3 * 12, "a page that the list did not have was skipped"


@pytest.mark.parametrize(
    ("fault", "verdict", "reason"),
    [
        (None, "delivered", "http_200"),
        (Fault(status=401), "disable", "http_401: give the subscription a valid API token"),
        (Fault(status=200, body=b"<html>"), "retry", "http_200, not an answer of Pipedrive's API"),
        (Fault(status=200, body=b'{"success": true, "data": null}'), "retry", "not_readable"),
        (Fault(status=0), "retry", "timeout"),
    ],
)
def test_greeting_asks_whose_token_it_is(fault: Fault | None, verdict: str, reason: str) -> None:
    world = World()
    if fault is not None:
        world.company.fail("GET /v1/users/me", fault)
    steps = KIND.greeting(world.subscription, NOW)
    assert steps is not None
    with pytest.raises(StopIteration) as end:
        steps.send(world.company.take_unsigned(next(steps).request))
    outcome, facts = end.value.value.outcome, end.value.value.remember
    assert (outcome.verdict, outcome.in_doubt) == (verdict, False)
    assert outcome.reason.startswith(reason)
    assert facts == ({"portal": HOST} if verdict == "delivered" else None)


# --- their rules


def answered(status: int, document: Any = None, **headers: str) -> Response:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    shown = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=shown, excerpt=body)


NO = {"success": False, "error": "it quotes jane@example.com", "error_info": "x", "data": None}


@pytest.mark.parametrize(
    ("response", "verdict", "reason"),
    [
        (answered(201, {"success": True, "data": {"id": 1}}), "delivered", "http_201"),
        (answered(200, NO), "retry", "http_200, not_successful"),
        (answered(200, b"<html>"), "retry", "http_200, not an answer of Pipedrive's API"),
        (answered(400, {**NO, "code": "ERR_BAD_REQUEST"}), "dead", "http_400: ERR_BAD_REQUEST"),
        (answered(400, {**NO, "code": "jane@example.com"}), "dead", "http_400"),
        (answered(401, NO), "disable", "http_401: give the subscription a valid API token"),
        (answered(402, NO), "disable", "http_402: the company account is not open"),
        (answered(403, {**NO, "code": "feature_capping_notes"}), "dead", "http_403: feature_capping_notes"),
        (
            answered(403, {"success": False, "error": "Scope and URL mismatch"}),
            "disable",
            "missing_scope: give the app",
        ),
        (answered(403, b"<html>Cloudflare"), "retry", "blocked"),
        (answered(404, NO), "dead", "http_404"),
        (answered(408, NO), "retry", "http_408"),
        (answered(410, NO), "disable", "http_410"),
        (answered(302, b""), "retry", "http_302"),
        (answered(500, NO), "retry", "http_500"),
        (answered(501, NO), "disable", "http_501"),
        (answered(503, b"", retry_after="7"), "retry", "http_503"),
    ],
)
def test_answer_is_judged_by_status_and_body(response: Response, verdict: str, reason: str) -> None:
    outcome = read_answer(response, NOW, scope="deals:full").outcome
    assert outcome.verdict == verdict
    assert outcome.reason.startswith(reason)
    assert "jane" not in outcome.reason


# --- settings, preview, texts


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"sink": f"{SINK}/v1"}, "/sink"),
        ({"sink": f"{SINK}?api_token=x"}, "/sink"),
        ({"sink": "https://oauth.pipedrive.com"}, "/sink"),
        ({"sink": "https://www.pipedrive.com"}, "/sink"),
        ({"credential": None}, "/sinkcredential"),
        ({"credential": pipedrive(type="CLIENTCREDENTIALS").credential}, "/sinkcredential"),
        ({"headers": (("X-A", "b"),)}, "/protocolsettings/headers"),
        ({"method": "PUT"}, "/protocolsettings/method"),
        ({"handshake": "required"}, "/config/handshake"),
        ({"incidents": "collapse"}, "/config/incidents"),
        ({"types": ("ai.revor.job.failed", "relay.incident.opened")}, "/types"),
        ({"options": {"record": "task"}}, "/config/record"),
        ({"options": {"attach": "organization"}}, "/config/attach"),
        ({"options": {"unmatched": "guess"}}, "/config/unmatched"),
        ({"options": {"channel": "#x"}}, "/config/channel"),
        ({"options": {"template": "x"}}, "/config/template"),
        ({"options": {"template": {"deal_id": 7}}}, "/config/template/deal_id"),
        ({"options": {"template": {"content": "{{ event.id"}}}, "/config/template/content"),
        ({"options": {"record": "activity", "template": {"content": "x"}}}, "/config/template/content"),
    ],
)
def test_setting_that_does_not_fit_is_refused_where_it_is(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(KIND, replace(pipedrive(), **changes))
    assert pointer in [error.pointer for error in refused.value.errors]


@pytest.mark.parametrize("text", TEXTS[:: scaled(20, 1)])
def test_hostile_text_makes_a_record_that_is_accepted_and_has_no_markup(text: str) -> None:
    made = next(one for one in events_with(text) if ".job." in one.type)
    document = made.document()
    document["data"]["metadata"] = {"deal_id": 2, "company": text, "email": text, "url": text}
    for record in ("note", "activity"):
        world = World(record=record)
        outcome = world.deliver(replace(made, body=dumps(document)))
        assert outcome is not None
        assert outcome.verdict == "delivered", world.company.refused
        (row,) = world.company.notes or world.company.activities
        assert set(re.findall(r"</?([a-z]+)", row.get("content") or row["note"])) <= {"b", "br", "a"}


@pytest.mark.parametrize(
    "answer",
    [
        {"success": True, "data": None},
        {"success": True, "data": []},
        {"success": True, "data": {"id": True}},
        {"success": True, "data": {"id": -1}},
        {"success": True, "data": {"id": "../../x"}},
        {"success": True, "data": {"items": "x"}},
        {"success": True, "data": {"items": [None, {"item": None}, {"item": {"id": "1"}}]}},
        {"success": "true", "data": {"id": 1}},
        [],
        b"",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"success": true, "data": {"id": 1e999}}',
    ],
)
@pytest.mark.parametrize("metadata", [{"deal_id": 2}, {"email": EMAIL}])
def test_hostile_answers_neither_raise_nor_count_as_written(answer: Any, metadata: Mapping[str, Any]) -> None:
    body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    world = World(attach="deal")
    world.company.fail("*", *[Fault(status=200, body=body)] * 40)
    outcome = world.deliver(event(metadata))
    assert outcome is not None
    if outcome.verdict == "delivered":
        entry = read_entry(world.memories[event_key(ABOUT_DEAL.id)])
        assert entry is not None
        assert entry.id is not None
