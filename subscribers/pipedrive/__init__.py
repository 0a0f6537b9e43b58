"""Pipedrive: a note or an activity on the deal, person or lead that an event is about, written once.

`render.py` makes the requests, `answers.py` judges the answers, `relay/core/deliveries/ledger.py` remembers
what was written. Sources: Pipedrive's OpenAPI documents of API v1 (leads, users) and v2 (deals, persons).
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import SETTLING, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps, person_key
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base
from subscribers.base import Dialogue, RenderContext
from subscribers.common import crm
from subscribers.pipedrive.answers import UUID, Answer, id_in, is_cut, read_answer, uuid_in
from subscribers.pipedrive.options import PipedriveOptions
from subscribers.pipedrive.render import (
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
INDEXED_SECONDS = 600.0
"""After this time the search finds a person who was created. It takes seconds; Pipedrive promises nothing."""

_NUMBER = re.compile(r"[1-9][0-9]{0,14}")
_IDS = {"deal_id": _NUMBER, "lead_id": UUID, "person_id": _NUMBER, "contact_id": _NUMBER}
_CREATED = "(created)"
_BY_ID = (
    ("deal_id", DEAL),
    ("lead_id", LEAD),
    ("person_id", PERSON),
    ("contact_id", PERSON),
)
"""Fields of the metadata, in order, and what each is the id of."""
_READ = {
    DEAL: ("/api/v2/deals/", "deals:read"),
    LEAD: ("/v1/leads/", "leads:read"),
    PERSON: ("/api/v2/persons/", "contacts:read"),
}
"""Where one is read by its id, and the scope for it."""
_COMPANY = re.compile(r"(?!oauth\.|www\.|app\.)[a-z0-9-]{1,63}\.pipedrive\.com")
_SHARED_HOST = "api.pipedrive.com"
_EXAMPLE = "https://COMPANY.pipedrive.com"
_ABSENT = Answer(outcome=Outcome(verdict="delivered", reason="absent"))
_NOT_READABLE = Outcome(verdict="retry", reason="not_readable")
_NO_ID = Outcome(verdict="retry", reason="no_id")


class Pipedrive(crm.Crm):
    """Notes or activities for people who sell."""

    name = "pipedrive"
    title = "Pipedrive"
    by_name = base.ByName(
        token="API token (Pipedrive: Personal preferences, API)",  # noqa: S106  (no token)
        home="https://{domain}.pipedrive.com",
        names="deal_id, lead_id, person_id, email or phone",
        example='{"deal_id": 7}',
        domain="company, such as acme of https://acme.pipedrive.com",
    )
    options = PipedriveOptions
    rate_per_second: float | None = 5.0
    """Half of what the smallest plan takes: a delivery has up to four requests, and searches have a limit of 5."""

    def check(self, subscription: Subscription) -> None:
        """Refuses another URL than a company's, another credential than a token, and unknown options and fields."""
        errors = [*crm.common_errors(subscription, "Pipedrive", _EXAMPLE), *_place_errors(subscription)]
        base.refuse(errors + crm.template_errors(subscription, FIELDS[record_of(subscription)]))

    def records(self, options: PipedriveOptions) -> str:
        """See `Crm`."""
        return "an activity" if options.record == "activity" else "a note"

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """All deliveries: who is meant is looked up, and the record is written once."""
        return CREATING if _creates(subscription) else PIPEDRIVE

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
    people = _People(known=context.known)
    ended = yield from _delivered(event, subscription, context, memory, people, now)
    return ended if people.learned is None else replace(ended, share=people.learned)


def _delivered(
    event: Event, subscription: Subscription, context: RenderContext, memory: Memory, people: "_People", now: float
) -> Steps:
    entry = ledger.read_entry(memory)
    if entry is not None:
        if entry.portal != portal_of(subscription):
            return Ended(outcome=ledger.uncertain("written_elsewhere"))
        if entry.state == "done":
            return Ended(outcome=ledger.WRITTEN)
    if entry is not None:
        key = crm.key_of(event, subscription).encode()
        asked = yield from _find_record(subscription, entry, partial(_has_key, key), now)
        if not isinstance(asked, Answer):
            return Ended(outcome=ledger.WRITTEN, remember=entry.done().memory())
        if not asked.ok:
            return Ended(outcome=ledger.still_in_doubt(asked.outcome))
        if entry.settles_in(now):
            outcome, remember = entry.waiting(now)
            return Ended(outcome=outcome, remember=remember)
        return (yield from _write(event, subscription, context, dict(entry.target), now))
    found = yield from _find_target(event, subscription, context, people, now)
    return found if isinstance(found, Ended) else (yield from _write(event, subscription, context, found, now))


def _person_keys(event: Event, subscription: Subscription, context: RenderContext) -> Sequence[str]:
    """A key for each address that the person would be created with. Of deliveries with one of them in common, one at a
    time looks for the person."""
    who, portal = crm.identity(event, context, _IDS), portal_of(subscription)
    ways = (who.email, _same_email), (who.phone, _same_phone)
    return [person_key(portal, same(way)) for way, same in ways if way is not None]


PIPEDRIVE = Dialogue(key=_key, steps=_steps)
"""The deliveries to Pipedrive."""
CREATING = replace(PIPEDRIVE, shared=_person_keys)
"""Those that may create a person."""


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
    """What follows from an answer to a write of a record that names none. In doubt, the next attempt asks for it: that
    it is there counts at once."""
    outcome = _NO_ID if answer.ok else answer.outcome
    if answer.ok or outcome.in_doubt:
        return Ended(outcome=replace(outcome, in_doubt=True))
    return Ended(outcome=outcome, remember=ledger.CLEARED)


# --- who is meant


@dataclass(kw_only=True)
class _People:
    """What the subscriptions to a company remember of a person who was created or may have been.

    known    by each address
    learned  what takes its place with this attempt
    """

    known: Sequence[Memory]
    learned: Memory | None = None

    def ids(self) -> list[str | None]:
        """The person who was created with each address."""
        entries = [ledger.read_entry(one) for one in self.known]
        ids = ["" if one is None or one.state != "done" else str(one.id) for one in entries]
        return [id if _NUMBER.fullmatch(id) else None for id in ids]

    def doubt(self, now: float) -> Entry | None:
        """The newest one who may have been created, and whom the search does not find yet."""
        entries = [ledger.read_entry(one) for one in self.known if ledger.is_open(one)]
        newest = max((one for one in entries if one is not None), key=lambda one: one.at, default=None)
        return newest if newest is not None and now < newest.at + INDEXED_SECONDS else None

    def learn(self, subscription: Subscription, person: str | int, now: float) -> None:
        """Pipedrive has this person."""
        entry = Entry(record=PERSON, portal=portal_of(subscription), at=now)
        self.learned = entry.done(person).memory()


def _creates(subscription: Subscription) -> bool:
    return PipedriveOptions.of(subscription).unmatched == "create"


def _find_target(
    event: Event, subscription: Subscription, context: RenderContext, people: _People, now: float
) -> Generator[Step, Response, Target | Ended]:
    """What the record is attached to."""
    who, attach = crm.identity(event, context, _IDS), PipedriveOptions.of(subscription).attach
    created, *others = people.ids() or [None]
    person: str | int | Ended | None = None
    for name, kind in (*_BY_ID, (_CREATED, PERSON)):
        id = created if name == _CREATED else who.ids.get(name)
        if id is None or person is not None or (attach == PERSON and kind != PERSON):
            continue
        found = yield from _find_by_id(subscription, kind, id, now)
        if isinstance(found, Ended):
            return found
        if found is not None and kind != PERSON:
            return {name: found}
        person = found
    if person is None:
        person = yield from _find_person(subscription, who, now)
    for other in others:  # by the phone number, after a search by the e-mail address
        if person is None and other is not None:
            person = yield from _find_by_id(subscription, PERSON, other, now)
    if isinstance(person, Ended):
        return person
    if person is None:
        if not _creates(subscription) or not (who.email or who.phone):
            return Ended(outcome=crm.not_matched(subscription, "unmatched"))
        newest = yield from _find_newest_person(subscription, who, people, now)
        if isinstance(newest, Ended):
            return newest
        made = newest or (yield from _create_person(subscription, who, people, now))
        if isinstance(made, Ended):
            return made
        person = made
        people.learn(subscription, person, now)
    return (yield from _place_of(subscription, person, attach, now))


def _find_by_id(
    subscription: Subscription, kind: str, id: str | int, now: float
) -> Generator[Step, Response, str | int | Ended | None]:
    """The id of a deal, lead or person that is there; None: it was deleted, or never was."""
    path, reads = _READ[kind]
    expected = {"id": id if kind == LEAD else int(id)}
    answer = yield from _read(subscription, path + quote(str(id)), kind, reads, now, expected)
    found = uuid_in(answer.data) if kind == LEAD else id_in(answer.data)
    if answer.missing or (found is not None and answer.data.get("is_deleted") is True):
        return None
    return _looked_up(answer) if found is None else found


def _find_person(
    subscription: Subscription, who: crm.Identity, now: float
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
            return _looked_up(answer)
        people = [one.get("item") for one in items if isinstance(one, Mapping)]
        ids = {id for one in people if _has(one, f"{field}s", term) and (id := id_in(one)) is not None}
        if len(ids) > 1:
            return Ended(outcome=crm.not_matched(subscription, "ambiguous"))
        if ids:
            return ids.pop()
    return None


def _has(person: object, name: str, term: str) -> bool:
    """False for a person with other e-mail addresses: a note would be on the wrong person. Phone numbers are written in
    many ways, so Pipedrive is believed."""
    values = person.get(name) if isinstance(person, Mapping) else None
    if name != "emails" or not isinstance(values, list) or not values:
        return True
    return any(isinstance(one, str) and _same_email(one) == _same_email(term) for one in values)


def _same_email(text: str) -> str:
    return text.strip().casefold()


def _same_phone(text: str) -> str:
    """Its digits: numbers are written in many ways."""
    return re.sub(r"[^0-9]", "", text)


def _find_newest_person(
    subscription: Subscription, who: crm.Identity, people: _People, now: float
) -> Generator[Step, Response, str | int | Ended | None]:
    """Looks for the person among the newest ones, which the search finds late: in the newest page or, if one may have
    been created, among all since then. None: there is none. If this cannot tell, the attempt waits for the search."""
    doubt = people.doubt(now)
    since = doubt or Entry(record=PERSON, portal=portal_of(subscription), at=now)
    asked = yield from _find_record(subscription, since, partial(_person_in, who), now, newest_page=doubt is None)
    if not isinstance(asked, Answer):
        return asked
    cannot_tell = asked.outcome.verdict == "uncertain"
    if doubt is None:
        return None if asked.ok or cannot_tell else _looked_up(asked)
    if not (asked.ok or cannot_tell):
        return _looked_up(asked)
    wait_seconds = min(doubt.at + INDEXED_SECONDS - now, INDEXED_SECONDS) if cannot_tell else doubt.settles_in(now)
    if not wait_seconds:
        return None
    people.learned = replace(doubt, at=min(doubt.at, now)).memory()  # the clock may have been set back
    return Ended(outcome=Outcome(verdict="retry", reason=SETTLING, wait_seconds=wait_seconds))


def _create_person(
    subscription: Subscription, who: crm.Identity, people: _People, now: float
) -> Generator[Step, Response, str | int | Ended]:
    """Creates the person. All subscriptions to the company remember that, without the address. Where it is not known
    whether Pipedrive has done it, the next attempt asks: no record is in doubt."""
    entry = Entry(record=PERSON, portal=portal_of(subscription), at=now)
    ways = {"emails": who.email, "phones": who.phone}
    document: dict[str, Any] = {"name": who.email or who.phone}
    document |= {name: [{"value": value, "primary": True}] for name, value in ways.items() if value is not None}
    sent = request(subscription, PATHS[PERSON], document)
    step = Step(request=sent, name=PERSON, expected=_added(PERSON), share=entry.memory(), private=True)
    answer = read_answer((yield step), now, scope=WRITES[PERSON])
    id = id_in(answer.data)
    if answer.ok and id is not None:
        return id
    if not (answer.ok or answer.outcome.in_doubt):
        people.learned = ledger.CLEARED
    return Ended(outcome=_NO_ID if answer.ok else replace(answer.outcome, in_doubt=False))


def _place_of(
    subscription: Subscription, person: str | int, attach: object, now: float
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
        return _looked_up(answer)
    first = records[0] if records else None
    id = uuid_in(first) if attach == LEAD else id_in(first)
    return target if id is None else {f"{attach}_id": id}


def _looked_up(answer: Answer) -> Ended:
    """What follows from a look-up without a result: nothing was written by this attempt."""
    outcome = _NOT_READABLE if answer.ok else replace(answer.outcome, in_doubt=False)
    if answer.missing:  # a search or a list, which is always there
        outcome = Outcome(verdict="retry", reason=outcome.reason)
    return Ended(outcome=outcome)


# --- was it written?


def _find_record(
    subscription: Subscription,
    entry: Entry,
    found_in: Callable[[Response], str | int | None],
    now: float,
    *,
    newest_page: bool = False,
) -> Generator[Step, Response, Answer | str | int]:
    """What `found_in` finds in a page of the newest ones. Else an answer: ok if it is not there, or why that is
    unknown. `newest_page`: what is older does not count."""
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
        if answer.missing and not entry.target:  # the list of all people, which is always there
            return Answer(outcome=Outcome(verdict="retry", reason=answer.outcome.reason))
        if answer.missing:  # deleted, merged with another or hidden: what became of its records is not known
            return Answer(outcome=ledger.uncertain("target_gone"))
        if not answer.ok:
            return answer
        records = records_in(answer) if response.status_code == 200 else None
        if newest_page and records is not None:
            return _ABSENT
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
        for name, term, same in (("emails", who.email, _same_email), ("phones", who.phone, _same_phone)):
            ways = person.get(name) if isinstance(person, Mapping) and term is not None else None
            values = [one.get("value") for one in ways if isinstance(one, Mapping)] if isinstance(ways, list) else []
            if term is not None and same(term) in [same(one) for one in values if isinstance(one, str)]:
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
