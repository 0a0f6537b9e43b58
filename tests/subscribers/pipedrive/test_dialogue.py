"""Pipedrive: the target of a record, and people who are created once, at a strict stand-in.

`common/test_crm_conformance.py` shows for all CRMs that nothing is written twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Outcome
from relay.core.deliveries.ledger import SETTLE_SECONDS, event_key, read_entry
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers.pipedrive import Pipedrive
from subscribers.pipedrive.answers import READ_BYTES
from subscribers.pipedrive.dialogue import INDEXED_SECONDS
from tests.support import crm_world
from tests.support.crm_world import CONTEXT, EMAIL, NOW, CrmWorld
from tests.support.kind_checks import check
from tests.vendors.endpoint import Fault
from tests.vendors.pipedrive import HOST, TOKEN
from tests.vendors.pipedrive import Pipedrive as Company

SINK = f"https://{HOST}"
KIND = Pipedrive()
LEAD = "00000000-0000-4000-8000-000000000003"
ADD = {"note": "POST /v1/notes", "activity": "POST /api/v2/activities"}
WRITTEN = Outcome(verdict="delivered", reason="already_written")


def pipedrive(sink: str = SINK, type: str = "ACCESSTOKEN", **options: Any) -> Subscription:
    tokens = {"ACCESSTOKEN": {"accesstoken": TOKEN}, "HEADER": {"name": "X-Api-Token", "value": TOKEN}}
    fields = {"credentialtype": type, **tokens.get(type, {"refreshtoken": "x"})}
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=fields)
    return Subscription(id="sub_1", sink=sink, kind="pipedrive", credential=credential, options=options)


def event(metadata: Mapping[str, Any], kind: str = "succeeded", nth: int = 1) -> Event:
    return crm_world.event(metadata, kind, nth)


class World(CrmWorld):
    """A company with a person, their deal and their lead."""

    def __init__(self, **options: Any) -> None:
        super().__init__("pipedrive", **options)
        self.company: Company = self.vendor.company  # type: ignore[attr-defined]
        self.company.persons[0]["phones"] = [{"value": "+1 415 555 2671", "label": "work", "primary": True}]
        self.company.add_deal("Deal", person_id=1)
        self.company.add_lead("Lead", person_id=1)

    @property
    def called(self) -> list[str]:
        return [name for name, _, _ in self.company.calls]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [*self.company.notes, *self.company.activities]

    def in_doubt(self, record: str = "note", *, works: bool = True) -> None:
        """Gets no answer to the request that writes."""
        self.company.fail(ADD[record], Fault(status=0, works=works))
        self.tried(ABOUT_DEAL)


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
    assert world.tried(event(metadata)) == Outcome(verdict="delivered", reason="http_201")
    (note,) = world.company.notes
    assert {name: note[name] for name in ("deal_id", "lead_id", "person_id") if name in note} == place
    assert world.company.refused in ([], [(404, "Deal not found")])


# --- people who are created


def test_unknown_person_is_created_and_gets_the_note() -> None:
    world = World(unmatched="create")
    assert world.tried(event({"email": "new@example.com"})).verdict == "delivered"
    assert world.company.persons[-1]["emails"][0]["value"] == "new@example.com"
    assert world.company.notes[0]["person_id"] == world.company.persons[-1]["id"]
    assert "new@example.com" not in orjson.dumps([dict(one) for one in world.memories.values()]).decode()


def test_person_who_was_not_created_is_created_once_that_is_certain() -> None:
    world = World(unmatched="create")
    about = event({"email": "new@example.com"})
    world.company.fail("POST /api/v2/persons", Fault(status=0))
    first, second = world.tried(about), world.tried(about)
    assert (first.verdict, first.wait_seconds, first.in_doubt) == ("retry", 0.0, False)
    assert (second.reason, second.wait_seconds, second.in_doubt) == ("settling", SETTLE_SECONDS, False)
    world.clock.now += SETTLE_SECONDS
    assert world.tried(about).verdict == "delivered"
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
    outcome = world.tried(about)
    assert (outcome.verdict, outcome.wait_seconds) == ("retry", INDEXED_SECONDS - SETTLE_SECONDS)
    world.clock.now += outcome.wait_seconds
    assert world.tried(about).verdict == "delivered"
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
def test_next_event_about_a_person_finds_whom_the_first_created(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> None:
    for lost in (False, True):
        for others in (0, 40):
            world = World(unmatched="create")
            world.company.index_seconds = 1e9
            world.company.fail("POST /api/v2/persons", *[Fault(status=502, works=True)] * lost)
            world.tried(event(first))
            for nth in range(others):
                world.company.add_person(f"Person {nth}", f"person-{nth}@example.com")
            world.subscription = replace(world.subscription, id="sub_2")
            assert world.tried(event(second, nth=2)).verdict == "delivered"
            (created,) = [one for one in world.company.persons if one["name"] in NEW.values()]
            assert {one["person_id"] for one in world.company.notes} == {created["id"]}


def test_nobody_is_created_while_the_newest_cannot_be_asked() -> None:
    for status in (500, 429, 403):
        world = World(unmatched="create")
        world.company.fail("GET /api/v2/persons", Fault(status=status, body=b"{}"))
        outcome = world.tried(event(NEW))
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


@pytest.mark.parametrize("record", ADD)
def test_lost_answer_is_asked_for(record: str) -> None:
    for fault in (Fault(works=True), Fault(status=502, works=True), Fault(status=200, body=b"<html>", works=True)):
        world = World(record=record)
        world.company.fail(ADD[record], fault)
        first = world.tried(ABOUT_DEAL)
        assert (first.verdict, first.in_doubt, first.wait_seconds) == ("retry", True, 0.0), "it is asked for soon"
        assert world.tried(ABOUT_DEAL) == WRITTEN
        assert (len(world.records), world.called.count(ADD[record])) == (1, 1)
        calls = len(world.company.calls)
        assert world.tried(ABOUT_DEAL) == WRITTEN, "a replay writes nothing"
        assert len(world.company.calls) == calls


@pytest.mark.parametrize("record", ADD)
def test_lost_request_is_sent_again_once_it_has_settled(record: str) -> None:
    world = World(record=record)
    world.in_doubt(record, works=False)
    world.clock.now += 30
    waiting = world.tried(ABOUT_DEAL)
    assert (waiting.verdict, waiting.reason, waiting.wait_seconds) == ("retry", "settling", SETTLE_SECONDS - 30)
    world.clock.now += SETTLE_SECONDS - 30
    assert world.tried(ABOUT_DEAL).verdict == "delivered"
    assert len(world.records) == 1


def test_record_that_is_not_found_in_time_is_for_a_person() -> None:
    world = World()
    world.in_doubt(works=False)
    for nth in range(400):
        note = {"id": 100 + nth, "deal_id": 2, "content": "x", "add_time": "2026-05-20 10:00:30"}
        world.company.notes.append(note)
    world.clock.now += SETTLE_SECONDS
    outcome = world.tried(ABOUT_DEAL)
    assert (outcome.verdict, outcome.reason) == ("uncertain", "not_found_in_time")


def test_answer_that_broke_off_is_no_proof() -> None:
    for broken in (b"", b"{", b"[]", b"<html>", b'{"success": true, "data"', b"x" * READ_BYTES):
        world = World()
        world.in_doubt()
        world.clock.now += SETTLE_SECONDS
        world.company.fail("GET /v1/notes", *[Fault(status=200, body=broken)] * 12)
        outcome = world.tried(ABOUT_DEAL)
        assert outcome.verdict in ("retry", "uncertain")
        assert outcome.in_doubt
        assert len(world.company.notes) == 1


def test_failed_question_keeps_the_doubt() -> None:
    for status, verdict in ((0, "retry"), (500, "retry"), (429, "retry"), (400, "uncertain")):
        world = World()
        world.in_doubt()
        world.company.fail("GET /v1/notes", Fault(status=status))
        outcome = world.tried(ABOUT_DEAL)
        assert (outcome.verdict, outcome.in_doubt) == (verdict, True)
        entry = read_entry(world.memories[world.subscription.id, event_key(ABOUT_DEAL.id)])
        assert entry is not None
        assert entry.state == "intended"


# --- answers that lie


GONE = {"success": False, "error": "Deal not found"}
MORE_BUT_NONE = {"pagination": {"more_items_in_collection": True}}


@pytest.mark.parametrize(
    ("status", "answer", "verdict", "reason"),
    [
        (404, GONE, "uncertain", "target_gone"),
        (403, GONE, "uncertain", "target_gone"),
        (200, {"success": True, "data": {"id": 1}}, "retry", "not_readable"),
        (200, {"success": True, "data": [], "additional_data": MORE_BUT_NONE}, "retry", "not_readable"),
    ],
)
def test_list_that_proves_nothing_allows_no_second_write(status: int, answer: Any, verdict: str, reason: str) -> None:
    world = World()
    world.in_doubt()
    world.clock.now += SETTLE_SECONDS
    world.company.fail("GET /v1/notes", Fault(status=status, body=orjson.dumps(answer)))
    outcome = world.tried(ABOUT_DEAL)
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
    name = ADD[record].removeprefix("POST ")
    world.in_doubt(record)
    world.clock.now += SETTLE_SECONDS
    world.company.fail(f"GET {name}", *[Fault(status=200, body=body) for body in pages * 12])
    outcome = world.tried(ABOUT_DEAL)
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
        (Fault(status=200, body=b"<html>"), "retry", "http_200, but the body is not an answer of Pipedrive's API"),
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
        steps.send(world.vendor.respond(crm_world.token_placed(next(steps).request, TOKEN)))
    outcome, facts = end.value.value.outcome, end.value.value.remember
    assert (outcome.verdict, outcome.in_doubt) == (verdict, False)
    assert outcome.reason.startswith(reason)
    assert facts == ({"portal": HOST} if verdict == "delivered" else None)


# --- settings, and hostile answers


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"sink": "https://oauth.pipedrive.com"}, "/sink"),
        ({"sink": "https://www.pipedrive.com"}, "/sink"),
        ({"credential": pipedrive(type="CLIENTCREDENTIALS").credential}, "/sinkcredential"),
        ({"options": {"record": "task"}}, "/config/record"),
        ({"options": {"attach": "organization"}}, "/config/attach"),
        ({"options": {"template": {"deal_id": 7}}}, "/config/template/deal_id"),
        ({"options": {"template": {"content": "{{ event.id"}}}, "/config/template/content"),
        ({"options": {"record": "activity", "template": {"content": "x"}}}, "/config/template/content"),
    ],
)
def test_setting_that_does_not_fit_is_refused_where_it_is(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(KIND, replace(pipedrive(), **changes))
    assert pointer in [error.pointer for error in refused.value.errors]


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
    outcome = world.tried(event(metadata))
    if outcome.verdict == "delivered":
        entry = read_entry(world.memories[world.subscription.id, event_key(ABOUT_DEAL.id)])
        assert entry is not None
        assert entry.id is not None
