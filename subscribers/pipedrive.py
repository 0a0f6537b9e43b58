"""Pipedrive: a note or an activity on the deal, person or lead that an event is about, written once.

`pipedrive_records.py` makes the requests, `pipedrive_answers.py` judges the answers, `relay/core/ledger.py` remembers
what was written. Sources: Pipedrive's OpenAPI documents of API v1 (leads, users) and v2 (deals, persons).
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from relay.core import ledger
from relay.core.delivery import Outcome, Response
from relay.core.dialogue import Ended, Memory, Step, Steps
from relay.core.events import Event
from relay.core.jsontext import dumps
from relay.core.ledger import Entry
from relay.core.subscription import PORTAL, Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base, crm
from subscribers.base import Dialogue, RenderContext
from subscribers.pipedrive_answers import UUID, Answer, id_in, is_cut, read_answer, uuid_in
from subscribers.pipedrive_records import (
    ACTIVITY,
    FIELDS,
    NOTE,
    PATHS,
    PERSON,
    READS,
    WRITES,
    Target,
    is_past,
    list_path,
    next_page,
    record_of,
    records_in,
    request,
    write_request,
)

DEAL, LEAD = "deal", "lead"
PAGES = (25, 5, 1)
"""Records per page. An answer is read up to 64 KiB, and one note may have 100 KB: then a smaller page is asked for."""
MAX_QUESTIONS = 12
"""Maximum number of pages that are read to find a record."""

_NUMBER = re.compile(r"[1-9][0-9]{0,14}")
_IDS = {"deal_id": _NUMBER, "lead_id": UUID, "person_id": _NUMBER, "contact_id": _NUMBER}
_BY_ID = (
    ("deal_id", DEAL, "/api/v2/deals/", "deals:read"),
    ("lead_id", LEAD, "/v1/leads/", "leads:read"),
    ("person_id", PERSON, "/api/v2/persons/", "contacts:read"),
    ("contact_id", PERSON, "/api/v2/persons/", "contacts:read"),
)
"""Fields of the metadata, in order: what each is the id of, where that is read, and the scope for it."""
_OPTIONS = (crm.RECORD, crm.ATTACH, *crm.OPTIONS)
_COMPANY = re.compile(r"(?!oauth\.|www\.|app\.)[a-z0-9-]{1,63}\.pipedrive\.com")
_SHARED_HOST = "api.pipedrive.com"
_EXAMPLE = "https://COMPANY.pipedrive.com"
_ABSENT = Answer(outcome=Outcome(verdict="delivered", reason="absent"))
_NOT_READABLE = Outcome(verdict="retry", reason="not_readable")
_NO_ID = Outcome(verdict="retry", reason="no_id")


class Pipedrive(crm.Crm):
    """Notes or activities for people who sell."""

    name = "pipedrive"
    rate_per_second: float | None = 5.0
    """Half of what the smallest plan takes: a delivery has up to three requests, and searches have a limit of 5."""

    def check(self, subscription: Subscription) -> None:
        """Refuses another URL than a company's, another credential than a token, and unknown options and fields."""
        choices = {crm.RECORD: (NOTE, ACTIVITY), crm.ATTACH: (DEAL, PERSON, LEAD)}
        errors = crm.common_errors(subscription, "Pipedrive", _EXAMPLE, _OPTIONS)
        errors += [*_place_errors(subscription), *crm.choice_errors(subscription, choices)]
        base.refuse(errors + crm.template_errors(subscription, FIELDS[record_of(subscription)]))

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """All deliveries: who is meant is looked up, and the record is written once."""
        return PIPEDRIVE

    def portal(self, subscription: Subscription) -> str | None:
        """The company: its host or, where companies share one, the credential."""
        return portal_of(subscription)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Asks whose token it is."""
        return _greeting(subscription, now)


def portal_of(subscription: Subscription) -> str:
    """The company whose limits a subscription shares: as it was found, else by the host, or by the credential where
    companies share the host."""
    found = subscription.options.get(PORTAL)
    host, credential = host_of(subscription.sink), subscription.credential
    if isinstance(found, str):
        return found
    return f"{host}/{credential.id}" if host == _SHARED_HOST and credential is not None else host


def _greeting(subscription: Subscription, now: float) -> Steps:
    expected = {"company_domain": "{company}"}
    answer = yield from _read(subscription, "/v1/users/me", "users/me", "base", now, expected)
    if not answer.ok:
        return Ended(outcome=replace(answer.outcome, in_doubt=False))
    company = answer.data.get("company_domain") if isinstance(answer.data, Mapping) else None
    host = f"{company}.pipedrive.com"
    if not isinstance(company, str):
        return Ended(outcome=_NOT_READABLE)
    return Ended(outcome=answer.outcome, remember={PORTAL: host} if _COMPANY.fullmatch(host) else {})


# --- a delivery


def _key(event: Event, subscription: Subscription) -> str | None:
    return ledger.event_key(event.id)


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    """Who is meant is looked up, then the record is written. If an earlier attempt may have written it, Pipedrive is
    asked for it first."""
    entry = ledger.read_entry(memory)
    if entry is not None:
        if entry.portal != portal_of(subscription):
            return Ended(outcome=ledger.uncertain("written_elsewhere"))
        if entry.state == "done":
            return Ended(outcome=ledger.WRITTEN)
    if entry is not None and entry.record != PERSON:
        key = crm.key_of(event, subscription).encode()
        asked = yield from _find_record(subscription, entry, partial(_has_key, key), now)
        if not isinstance(asked, Answer):
            return Ended(outcome=ledger.WRITTEN, remember=entry.done().memory())
        if not asked.ok:
            return Ended(outcome=ledger.still_in_doubt(asked.outcome))
        if entry.settles_in(now):
            return _waiting(entry, now)
        return (yield from _write(event, subscription, context, dict(entry.target), now))
    found = yield from _find_target(event, subscription, context, entry, now)
    return found if isinstance(found, Ended) else (yield from _write(event, subscription, context, found, now))


PIPEDRIVE = Dialogue(key=_key, steps=_steps)
"""The deliveries to Pipedrive."""


def _write(event: Event, subscription: Subscription, context: RenderContext, target: Target, now: float) -> Steps:
    record = record_of(subscription)
    entry = Entry(record=record, target=target, portal=portal_of(subscription), at=now)
    sent = write_request(event, subscription, context, target)
    step = Step(request=sent, name=record, expected=_added(record), remember=entry.memory(), private=True)
    answer = read_answer((yield step), now, scope=WRITES[record])
    id = id_in(answer.data)
    if answer.ok and id is not None:
        return Ended(outcome=answer.outcome, remember=entry.done(id).memory())
    return _not_added(answer)


def _not_added(answer: Answer) -> Ended:
    """What follows from an answer to a write that names no new record. In doubt, the next attempt asks for it: that it
    is there counts at once."""
    outcome = _NO_ID if answer.ok else answer.outcome
    if answer.ok or outcome.in_doubt:
        return Ended(outcome=replace(outcome, in_doubt=True))
    return Ended(outcome=outcome, remember=ledger.CLEARED)


def _waiting(entry: Entry, now: float) -> Ended:
    outcome, remember = entry.waiting(now)
    return Ended(outcome=outcome, remember=remember)


# --- who is meant


def _find_target(
    event: Event, subscription: Subscription, context: RenderContext, entry: Entry | None, now: float
) -> Generator[Step, Response, Target | Ended]:
    """What the record is attached to. `entry`: a person may have been created for this event."""
    who, attach = crm.identity(event, context, _IDS), subscription.options.get(crm.ATTACH)
    person: str | int | None = None
    for name, kind, path, reads in _BY_ID:
        id = who.ids.get(name)
        if id is None or person is not None or (attach == PERSON and kind != PERSON):
            continue
        expected = {"id": id if kind == LEAD else int(id)}
        answer = yield from _read(subscription, path + quote(str(id)), kind, reads, now, expected)
        found = uuid_in(answer.data) if kind == LEAD else id_in(answer.data)
        if answer.missing or (found is not None and answer.data.get("is_deleted") is True):
            continue
        if found is None:
            return _looked_up(answer, entry)
        if kind != PERSON:
            return {name: found}
        person = found
    if person is None:
        found_person = yield from _find_person(subscription, who, entry, now)
        if isinstance(found_person, Ended):
            return found_person
        person = found_person
    if person is None and entry is not None:  # the search finds new people late
        asked = yield from _find_record(subscription, entry, partial(_person_in, who), now)
        if not isinstance(asked, Answer):
            person = asked
        elif not asked.ok:
            return Ended(outcome=ledger.still_in_doubt(asked.outcome))
        elif entry.settles_in(now):
            return _waiting(entry, now)
    if person is None:
        if subscription.options.get(crm.UNMATCHED) != crm.CREATE or not (who.email or who.phone):
            return Ended(outcome=crm.not_matched(subscription, "unmatched"))
        made = yield from _create_person(subscription, who, now)
        if isinstance(made, Ended):
            return made
        person = made
    return (yield from _place_of(subscription, person, attach, entry, now))


def _find_person(
    subscription: Subscription, who: crm.Identity, entry: Entry | None, now: float
) -> Generator[Step, Response, str | int | Ended | None]:
    """The one person with this e-mail address, phone number or, in a field of the company's own, profile URL; None:
    there is none."""
    for field, term in (("email", who.email), ("phone", who.phone), ("custom_fields", who.profile_url)):
        if term is None:
            continue
        query = urlencode({"term": term, "fields": field, "exact_match": "true", "limit": 2})
        path, reads = f"/api/v2/persons/search?{query}", "contacts:read or search:read"
        expected = {"items": [{"item": {"id": f"{{{PERSON}}}"}}]}
        answer = yield from _read(subscription, path, "persons/search", reads, now, expected)
        items = answer.data.get("items") if isinstance(answer.data, Mapping) else None
        if not isinstance(items, list):
            return _looked_up(answer, entry)
        people = [one.get("item") for one in items if isinstance(one, Mapping)]
        ids = {id for one in people if _has(one, f"{field}s", term) and (id := id_in(one)) is not None}
        if len(ids) > 1:
            return Ended(outcome=crm.not_matched(subscription, "ambiguous"))
        if ids:
            return ids.pop()
    return None


def _has(person: object, name: str, term: str) -> bool:
    """False for somebody with other e-mail addresses: a note would be on the wrong person. Phone numbers are written in
    many ways, so Pipedrive is believed."""
    values = person.get(name) if isinstance(person, Mapping) else None
    if name != "emails" or not isinstance(values, list) or not values:
        return True
    return any(isinstance(one, str) and one.strip().casefold() == term.casefold() for one in values)


def _create_person(
    subscription: Subscription, who: crm.Identity, now: float
) -> Generator[Step, Response, str | int | Ended]:
    """Creates the person. The ledger says so without the address."""
    entry = Entry(record=PERSON, portal=portal_of(subscription), at=now)
    ways = {"emails": who.email, "phones": who.phone}
    document: dict[str, Any] = {"name": who.email or who.phone}
    document |= {name: [{"value": value, "primary": True}] for name, value in ways.items() if value is not None}
    sent = request(subscription, PATHS[PERSON], document)
    step = Step(request=sent, name=PERSON, expected=_added(PERSON), remember=entry.memory(), private=True)
    answer = read_answer((yield step), now, scope=WRITES[PERSON])
    id = id_in(answer.data)
    return id if answer.ok and id is not None else _not_added(answer)


def _place_of(
    subscription: Subscription, person: str | int, attach: object, entry: Entry | None, now: float
) -> Generator[Step, Response, Target | Ended]:
    """The person's newest open deal or lead if the subscription wants that and there is one, else the person."""
    target: Target = {"person_id": person}
    if attach not in (DEAL, LEAD):
        return target
    if attach == DEAL:
        order = {"sort_by": "update_time", "sort_direction": "desc", "limit": 1}
        path = "/api/v2/deals?" + urlencode({"person_id": person, "status": "open", **order}, safe="{}")
    else:
        order = {"sort": "update_time DESC", "limit": 1}
        path = "/v1/leads?" + urlencode({"person_id": person, **order}, safe="{}", quote_via=quote)
    expected = [{"id": f"{{{attach}}}"}]
    answer = yield from _read(subscription, path, f"{attach}s of the person", f"{attach}s:read", now, expected)
    records = records_in(answer)
    if not (answer.ok or answer.missing) or records is None:
        return _looked_up(answer, entry)
    first = records[0] if records else None
    id = uuid_in(first) if attach == LEAD else id_in(first)
    return target if id is None else {f"{attach}_id": id}


def _looked_up(answer: Answer, entry: Entry | None) -> Ended:
    """What follows from a look-up without a result: nothing was written by this attempt."""
    outcome = _NOT_READABLE if answer.ok else replace(answer.outcome, in_doubt=False)
    if answer.missing:  # a search or a list, which is always there
        outcome = Outcome(verdict="retry", reason=outcome.reason)
    return Ended(outcome=outcome if entry is None else ledger.still_in_doubt(outcome))


# --- was it written?


def _find_record(
    subscription: Subscription, entry: Entry, found_in: Callable[[Response], str | int | None], now: float
) -> Generator[Step, Response, Answer | str | int]:
    """What `found_in` finds in a page of the newest ones. Else an answer: ok if it is not there, or why nobody
    knows."""
    place: dict[str, str | int] = {}
    size, last = 0, None
    for _ in range(MAX_QUESTIONS):
        path = list_path(entry, place, PAGES[size])
        response = yield _reads(subscription, path, f"newest {entry.record}s", [])
        found = found_in(response) if response.status_code == 200 else None
        if found is not None:
            return found
        if response.status_code == 200 and is_cut(response):
            if size + 1 < len(PAGES):
                size += 1
            elif entry.record == NOTE:  # one note that is longer than ours can be
                place = {"start": int(place.get("start", 0)) + 1}
            else:
                return Answer(outcome=ledger.uncertain("not_readable"))
            continue
        answer = read_answer(response, now, scope=READS[entry.record])
        if answer.missing:  # deleted, merged with another or hidden: what became of its records is not known
            return Answer(outcome=ledger.uncertain("target_gone"))
        if not answer.ok:
            return answer
        records = records_in(answer) if response.status_code == 200 else None
        following = None if records is None else next_page(entry, place, answer, PAGES[size])
        if records is None or following is None or (following and following == place):
            return Answer(outcome=_NOT_READABLE)
        if not following or is_past(records, last, entry.at):
            return _ABSENT
        place, last = following, next((id for one in reversed(records) if isinstance(id := id_in(one), int)), last)
    return Answer(outcome=ledger.uncertain("not_found_in_time"))


def _has_key(key: bytes, response: Response) -> str | None:
    return "there" if key in response.excerpt else None


def _person_in(who: crm.Identity, response: Response) -> str | int | None:
    """The person who was created with this address or number."""
    people = (crm.read_object(response.excerpt) or {}).get("data")
    for person in people if isinstance(people, list) else ():
        for name, term in (("emails", who.email), ("phones", who.phone)):
            ways = person.get(name) if isinstance(person, Mapping) and term is not None else None
            values = [one.get("value") for one in ways if isinstance(one, Mapping)] if isinstance(ways, list) else []
            if term in values:
                return id_in(person)
    return None


# --- requests


def _read(
    subscription: Subscription, path: str, name: str, scope: str, now: float, expected: Any
) -> Generator[Step, Response, Answer]:
    return read_answer((yield _reads(subscription, path, name, expected)), now, scope=scope)


def _reads(subscription: Subscription, path: str, name: str, expected: Any) -> Step:
    sent = request(subscription, path, method="GET")
    return Step(request=sent, name=name, expected=dumps({"success": True, "data": expected}), private=True)


def _added(record: str) -> bytes:
    return dumps({"success": True, "data": {"id": f"{{{record}}}"}})


# --- what a subscription may say


def _place_errors(subscription: Subscription) -> Iterable[FieldError]:
    host, credential = host_of(subscription.sink) or "", subscription.credential
    if host.endswith("pipedrive.com") and not _COMPANY.fullmatch(host):
        detail = f"this is not the address of a company: use {_EXAMPLE}, as Pipedrive shows it in your browser"
        yield FieldError(pointer="/sink", code="sink_unsuitable", detail=detail)
    if credential is None:
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "…"}'
        detail = f"an API token is needed (Pipedrive: Personal preferences, API): {example}"
        yield FieldError(pointer="/sinkcredential", code="missing", detail=detail)
    elif credential.type not in ("ACCESSTOKEN", "REFRESHTOKEN") and not (
        credential.type == "HEADER" and credential.fields["name"].lower() == "x-api-token"
    ):
        detail = "Pipedrive takes an ACCESSTOKEN (a personal API token) or a REFRESHTOKEN (of an app)"
        yield FieldError(pointer="/sinkcredential", code="credential_unsuitable", detail=detail)
