"""The conformance suite of every kind that writes to a CRM, at strict stand-ins: whatever dies, is lost or is refused,
no record is made twice and none is lost without a word; texts of strangers stay texts."""

import re
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args
from urllib.parse import unquote_plus

import orjson
import pytest

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Steps, previewed
from relay.core.jobs.job import JOB_EVENTS, Recipient
from relay.core.jsontext import dumps
from relay.errors import InvalidRequest, NotRenderable
from subscribers.registry import kind_named
from tests.support.crm_world import (
    CONTEXT,
    EMAIL,
    FATES,
    NOW,
    VENDORS,
    CrmWorld,
    Fate,
    event,
    subscription_to,
    token_placed,
)
from tests.support.hostile_texts import TEXTS
from tests.support.kind_checks import check
from tests.support.scale import scaled

every_crm = pytest.mark.parametrize("crm", VENDORS)
RECORDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pipedrive", {"record": "note"}),
    ("pipedrive", {"record": "activity"}),
    ("hubspot", {}),
    ("hubspot without its key", {"record": "note"}),
    ("hubspot with a plain key", {"record": "note"}),
    ("salesforce", {"object": "Job_Event__c"}),
    ("salesforce", {"object": "Task"}),
)
every_record = pytest.mark.parametrize(
    ("crm", "options"), RECORDS, ids=[f"{crm} {' '.join(map(str, options.values()))}" for crm, options in RECORDS]
)


def usual(crm: str, options: dict[str, Any], about: Any) -> tuple[int, list[str]]:
    """How many requests an event takes that meets no trouble, and what is written then."""
    world = CrmWorld(crm, **options)
    outcome = world.tried(about(world))
    assert outcome.verdict == "delivered", (outcome, world.vendor.refusals())
    return len(world.steps), world.vendor.written()


# --- no doubles


@every_record
@pytest.mark.parametrize("fate", FATES)
def test_nothing_is_written_twice_whatever_becomes_of_a_request(crm: str, options: dict[str, Any], fate: Fate) -> None:
    def about(world: CrmWorld) -> Any:
        return event(world.vendor.known)

    count, written = usual(crm, options, about)
    for at in range(count):
        world = CrmWorld(crm, **options)
        known = about(world)
        world.deliver(known, fate=fate, at=at)
        outcome = world.settle(known)
        assert outcome.verdict == "delivered", (at, outcome, world.vendor.refusals())
        assert world.vendor.written() == written, f"request {at}"
        assert world.vendor.refusals() == []
        replayed = world.tried(known)
        assert replayed.verdict == "delivered"
        assert world.vendor.written() == written, "a replay wrote it again"


@every_crm
@pytest.mark.parametrize("fate", FATES)
def test_no_person_is_created_twice(crm: str, fate: Fate) -> None:
    def about(world: CrmWorld) -> Any:
        return event(world.vendor.unknown)

    options = {"unmatched": "create"}
    count, written = usual(crm, options, about)
    for at in range(count):
        world = CrmWorld(crm, **options)
        before = world.vendor.people()
        unknown = about(world)
        world.deliver(unknown, fate=fate, at=at)
        outcome = world.settle(unknown)
        assert world.vendor.people() <= before + 1, f"request {at}"
        assert len(world.vendor.written()) <= len(written)
        assert outcome.verdict == "uncertain" or world.vendor.written() == written


@every_crm
@pytest.mark.parametrize("fate", [None, *FATES])
def test_events_of_two_subscriptions_about_one_person_create_one(crm: str, fate: Fate | None) -> None:
    options = {"unmatched": "create"}
    count, _ = usual(crm, options, lambda world: event(world.vendor.unknown))
    for at in range(count if fate else 1):
        world = CrmWorld(crm, **options)
        before = world.vendor.people()
        other = subscription_to(world.vendor, id="sub_01jvpq0000000000000000000c", **options)
        first, second = event(world.vendor.unknown), event(world.vendor.unknown, nth=2)
        world.deliver(first, fate=fate, at=at)
        assert [world.settle(second, other).verdict, world.settle(first).verdict] == ["delivered"] * 2
        assert world.vendor.people() <= before + 1, f"request {at}"


@every_record
def test_death_after_death_makes_no_double(crm: str, options: dict[str, Any]) -> None:
    _, written = usual(crm, options, lambda world: event(world.vendor.known))
    world = CrmWorld(crm, **options)
    known = event(world.vendor.known)
    for turn in range(scaled(24, 200)):
        outcome = world.deliver(known, fate=FATES[turn % len(FATES)], at=(turn * 7) % 4)
        world.clock.now += (0.0, 3.0, 150.0)[turn % 3]
        if outcome is not None and outcome.verdict == "delivered" and turn > 16:
            break
    assert world.settle(known).verdict == "delivered"
    assert world.vendor.written() == written


@every_record
def test_two_subscriptions_of_one_portal_do_not_take_each_others_records(crm: str, options: dict[str, Any]) -> None:
    world = CrmWorld(crm, **options)
    known = event(world.vendor.known)
    other = subscription_to(world.vendor, id="sub_01jvpq0000000000000000000c", **options)
    assert world.kind.portal(world.subscription) == world.kind.portal(other) is not None
    assert world.settle(known).verdict == "delivered"
    first = world.vendor.written()
    count = len(world.steps)
    for at in range(count):
        world.deliver(known, fate="lost request", at=at, subscription=other)
    assert world.settle(known, other).verdict == "delivered"
    written = world.vendor.written()
    assert len(written) == len(set(written)) == 2 * len(first)


# --- what the CRM refuses


@every_record
def test_answer_that_says_no_is_not_success(crm: str, options: dict[str, Any]) -> None:
    def about(world: CrmWorld) -> Any:
        return event(world.vendor.known)

    count, _ = usual(crm, options, about)
    for at in range(count):
        world = CrmWorld(crm, **options)
        outcome = world.tried(about(world), answer=world.vendor.partial, at=at)
        assert outcome.verdict in ("retry", "dead"), (at, outcome)


@every_record
def test_missing_permission_disables_and_is_named(crm: str, options: dict[str, Any]) -> None:
    count, written = usual(crm, options, lambda world: event(world.vendor.known))
    named = set()
    for at in range(count):
        world = CrmWorld(crm, **options)
        outcome = world.tried(event(world.vendor.known), answer=world.vendor.forbidden, at=at)
        assert outcome.verdict == "disable", (at, outcome)
        named.add(world.vendor.scope.partition(":")[0] in outcome.reason or outcome.reason)
        assert world.settle(event(world.vendor.known)).verdict == "delivered", "once it is granted"
        assert world.vendor.written() == written
    assert True in named, named


@every_record
def test_limit_pauses_and_is_told_apart_from_a_missing_permission(crm: str, options: dict[str, Any]) -> None:
    count, _ = usual(crm, options, lambda world: event(world.vendor.known))
    for at in range(count):
        world = CrmWorld(crm, **options)
        outcome = world.tried(event(world.vendor.known), answer=world.vendor.limited, at=at)
        assert outcome.verdict == "retry", (at, outcome)
        assert outcome.retry_after_seconds, "it pauses the portal"
        assert not outcome.in_doubt, "it was refused, so nothing is in doubt"


@every_record
def test_invalid_token_disables_and_says_what_to_do(crm: str, options: dict[str, Any]) -> None:
    world = CrmWorld(crm, **options)
    world.vendor.token = "another"
    outcome = world.tried(event(world.vendor.known))
    assert outcome.verdict == "disable"
    assert "sinkcredential" in outcome.reason


@every_record
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"<html>", b'"x"', b"\xff\x00" * 100, b"[" * 60_000])
def test_every_answer_has_an_outcome_and_none_but_a_record_is_success(
    crm: str, options: dict[str, Any], body: bytes
) -> None:
    verdicts = set(get_args(Outcome.__annotations__["verdict"]))
    count, _ = usual(crm, options, lambda world: event(world.vendor.known))
    for status in range(100, 600, scaled(7, 1)):
        for at in (0, count - 1):
            world = CrmWorld(crm, **options)
            outcome = world.tried(event(world.vendor.known), answer=(status, body), at=at)
            assert outcome.verdict in verdicts
            assert outcome.reason
            if status != 204 and at == count - 1:
                assert outcome.verdict != "delivered", (status, outcome)
            if status in (401, 402) and outcome.verdict == "dead":
                pytest.fail(f"{status} is dead")


@every_record
def test_error_texts_of_the_crm_are_never_kept(crm: str, options: dict[str, Any]) -> None:
    secret = "jane@example.com wrote"
    quoted = [
        {"success": False, "error": secret, "error_info": secret, "code": secret, "data": None},
        {"status": "error", "message": secret, "category": secret, "errors": [{"message": secret, "code": secret}]},
        [{"errorCode": secret, "message": secret, "fields": [secret]}],
        [{"errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "message": secret, "fields": [secret]}],
    ]
    count, _ = usual(crm, options, lambda world: event(world.vendor.known))
    for status in (200, 207, 300, 400, 401, 403, 404, 409, 422, 429, 500, 503):
        for document in quoted:
            for at in range(count):
                world = CrmWorld(crm, **options)
                outcome = world.tried(event(world.vendor.known), answer=(status, orjson.dumps(document)), at=at)
                assert "jane" not in outcome.reason
                assert "wrote" not in orjson.dumps([dict(one) for one in world.memories.values()]).decode()


# --- who is meant


@every_crm
@pytest.mark.parametrize(
    ("unmatched", "verdict"), [(None, "skip"), ("skip", "skip"), ("fail", "dead"), ("create", "delivered")]
)
def test_nobody_known_is_skipped_fails_or_is_created(crm: str, unmatched: str | None, verdict: str) -> None:
    world = CrmWorld(crm, **({} if unmatched is None else {"unmatched": unmatched}))
    outcome = world.settle(event(world.vendor.unknown))
    assert outcome.verdict == verdict, (outcome, world.vendor.refusals())
    if verdict != "delivered":
        assert outcome.reason == "unmatched"
        assert world.vendor.written() == []
    nobody = world.settle(event({}))
    assert nobody.verdict in ("skip", "dead", "delivered")
    if unmatched in (None, "skip"):
        assert (nobody.verdict, nobody.reason) == ("skip", "unmatched")


@every_record
def test_captured_recipient_is_found_and_remembered_nowhere(crm: str, options: dict[str, Any]) -> None:
    world = CrmWorld(crm, **options)
    world.context = replace(CONTEXT, recipient=Recipient(address=EMAIL, profile_url="https://linkedin.com/in/jane"))
    assert world.kind.wants_recipient(world.subscription)
    known = event({})
    assert world.settle(known).verdict == "delivered"
    assert world.vendor.written()
    assert "jane" not in orjson.dumps([dict(one) for one in world.memories.values()]).decode()
    assert not any("jane" in text for text in world.vendor.markup())


@every_record
def test_preview_shows_look_ups_and_placeholders_and_sends_nothing(crm: str, options: dict[str, Any]) -> None:
    world = CrmWorld(crm, **options)
    dialogue = world.kind.dialogue(world.subscription)
    assert dialogue is not None
    context = replace(CONTEXT, recipient=Recipient(address="{recipient.address}", phone="{recipient.phone}"))
    for about, shown in ((event(world.vendor.known), EMAIL), (event({}), "{recipient.address}")):
        steps = previewed(dialogue.steps(about, world.subscription, context, {}, NOW))
        assert len(steps) >= 2, "a look-up and a record"
        assert all(step.name for step in steps)
        assert steps[-1].request.method in ("POST", "PATCH")
        assert any(shown in unquote_plus(step.request.url) for step in steps)
        assert all("Authorization" not in dict(step.request.headers) for step in steps)
        assert world.vendor.token not in repr([(step.request.headers, step.request.url) for step in steps])
    assert world.vendor.written() == []


@every_crm
def test_metadata_that_look_like_a_placeholder_name_nobody(crm: str) -> None:
    world = CrmWorld(crm)
    texts = ("{contact}", "{person}", "{recipient.address}")
    for text in texts:
        outcome = world.deliver(event({"email": text, "phone": text, "profile_url": text}))
        assert (outcome, world.steps) == (Outcome(verdict="skip", reason="unmatched"), [])


@every_crm
@pytest.mark.parametrize("kind", JOB_EVENTS)
def test_every_job_event_is_written_or_needs_no_record(crm: str, kind: str) -> None:
    world = CrmWorld(crm)
    outcome = world.settle(event(world.vendor.known, kind))
    assert outcome.verdict == "delivered"
    assert world.vendor.refusals() == []


@every_crm
def test_greeting_reads_and_writes_nothing_and_says_who_answers(crm: str) -> None:
    world = CrmWorld(crm)
    for token, verdicts in ((world.vendor.token, {"delivered"}), ("another", {"disable", "retry"})):
        steps = world.kind.greeting(world.subscription, NOW)
        assert steps is not None
        ended = greeted(world, steps, token)
        assert ended.outcome.verdict in verdicts, ended
        assert (ended.remember is not None) == (ended.outcome.verdict == "delivered")
    assert world.vendor.written() == []


def greeted(world: CrmWorld, steps: Steps, token: str) -> Ended:
    response: Response | None = None
    while True:
        try:
            step = steps.send(response)  # type: ignore[arg-type]
        except StopIteration as end:
            ended: Ended = end.value
            return ended
        assert step.request.method == "GET"
        response = world.vendor.respond(token_placed(step.request, token))


# --- settings


@every_crm
def test_settings_that_no_crm_has_are_refused_where_they_are(crm: str) -> None:
    good = subscription_to(CrmWorld(crm).vendor)
    kind = kind_named(good.kind)
    check(kind, replace(good, options={"unmatched": "create", "dry_run": True, "portal": "7"}))
    for changes, pointer in (
        ({"sink": f"{good.sink}/v3"}, "/sink"),
        ({"sink": f"{good.sink}?key=x"}, "/sink"),
        ({"credential": None}, "/sinkcredential"),
        ({"headers": (("X-A", "b"),)}, "/protocolsettings/headers"),
        ({"method": "PUT"}, "/protocolsettings/method"),
        ({"handshake": "required"}, "/config/handshake"),
        ({"incidents": "collapse"}, "/config/incidents"),
        ({"types": ("ai.revor.job.failed", "relay.incident.opened")}, "/types"),
        ({"options": {"unmatched": "guess"}}, "/config/unmatched"),
        ({"options": {"unmatched": ["skip"]}}, "/config/unmatched"),
        ({"options": {"channel": "#x"}}, "/config/channel"),
        ({"options": {"template": "x"}}, "/config/template"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            check(kind, replace(good, **changes))  # type: ignore[arg-type]
        assert [error.pointer for error in refused.value.errors] == [pointer]


# --- texts of strangers


@pytest.mark.verify
@every_record
def test_hostile_texts_stay_texts(crm: str, options: dict[str, Any]) -> None:
    assert len(TEXTS) >= 500
    world = CrmWorld(crm, **options)
    for turn, text in enumerate(TEXTS):
        document = event(world.vendor.known, "failed", nth=turn + 1).document()
        document["data"]["metadata"] |= {"company": text, text[:200]: text, "url": text, "deal_id": text}
        document["data"]["hint"] = {"meaning": text, "fix": text, "who": text, "repeat": "safe"}
        document |= dict.fromkeys(("account", "channel", "action", "group"), text)
        about = replace(event(world.vendor.known, nth=turn + 1), body=dumps(document))
        world.context = replace(CONTEXT, account_names={text: text})
        outcome = world.tried(about)
        assert outcome.verdict == "delivered", (text, outcome, world.vendor.refusals()[-3:])
    assert len(set(world.vendor.written())) >= len(TEXTS)
    for markup in world.vendor.markup():
        assert set(re.findall(r"</?([a-zA-Z]+)", markup)) <= {"b", "br", "a", "p"}
        assert not re.search(r"(?i)<[^>]*\son\w+=|javascript:[^<]*\"", markup)
    assert world.vendor.refusals() == []


@every_crm
def test_hostile_texts_as_identities_find_nobody_and_break_nothing(crm: str) -> None:
    for text in TEXTS[:: scaled(7, 1)]:
        world = CrmWorld(crm)
        names = ("email", "phone", "deal_id", "lead_id", "person_id", "contact_id")
        captured = Recipient(address=text, phone=text, profile_url=text)
        world.context = replace(CONTEXT, recipient=captured)
        outcome = world.tried(replace(event({}), body=_with_metadata(dict.fromkeys(names, text))))
        assert outcome.verdict == "skip", (text, outcome)
        assert all(step.request.url.isascii() and " " not in step.request.url for step in world.steps)
        assert world.vendor.refusals() == [], text


TEMPLATES: dict[str, dict[str, Any]] = {
    "pipedrive": {"content": "<i>{{ metadata.note }}</i>{{ metadata | json }}{{ metadata }}"},
    "hubspot": {
        "note": {"hs_note_body": "<i>{{ metadata.note }}</i>"},
        "properties": {"firstname": "{{ metadata.note }}"},
    },
    "salesforce": {"Sentence__c": "{{ metadata.note | truncate: 50 }}"},
}


@every_crm
def test_hostile_texts_in_a_template_are_escaped_or_say_why_not(crm: str) -> None:
    for text in TEXTS[:: scaled(7, 1)]:
        world = CrmWorld(crm, template=TEMPLATES[crm])
        about = replace(event({}), body=_with_metadata({**world.vendor.known, "note": text, text: text}))
        with suppress(NotRenderable):  # too long: dead, with the place in the template
            outcome = world.tried(about)
            assert outcome.verdict in ("delivered", "dead"), (text, outcome)
        for markup in world.vendor.markup():
            assert set(re.findall(r"</?([a-zA-Z]+)", markup)) <= {"i", "br", "b", "a", "p"}


def _with_metadata(metadata: dict[str, Any]) -> bytes:
    document = event({}).document()
    document["data"]["metadata"] = metadata
    return dumps(document)


@every_record
@pytest.mark.parametrize("error", ["connect", "dns", "tls", "refused", "proxy", "credential"])
def test_request_that_was_never_sent_leaves_no_doubt(crm: str, options: dict[str, Any], error: str) -> None:
    count, written = usual(crm, options, lambda world: event(world.vendor.known))
    world = CrmWorld(crm, **options)
    known = event(world.vendor.known)
    outcome = world.tried(known, error=error, at=count - 1)
    assert (outcome.verdict, outcome.in_doubt, outcome.wait_seconds) == ("retry", False, 0.0)
    assert world.settle(known).verdict == "delivered"
    assert world.vendor.written() == written
