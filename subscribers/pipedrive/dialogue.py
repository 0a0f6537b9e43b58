"""Deliveries to Pipedrive: the target of a record is looked up, then the record is written once.

If an earlier attempt may have written it, Pipedrive is asked for it first. A person is created only if neither the
search nor the newest people have the addresses: the search finds new people late.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import SETTLING, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps, person_key
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.redaction import host_of
from subscribers.base import Dialogue, RenderContext
from subscribers.common import crm
from subscribers.common.answers import read_object
from subscribers.pipedrive.answers import UUID, Answer, id_in, is_cut, read_answer, uuid_in
from subscribers.pipedrive.options import NOTE, PipedriveOptions, record_of
from subscribers.pipedrive.render import Target, content_of
from subscribers.pipedrive.requests import PERSON, READS, Company, is_past, list_path, next_page, records_in
from subscribers.wording.text import mapping

DEAL, LEAD = "deal", "lead"
PAGES = (25, 5, 1)
"""Records per page. An answer is read up to 64 KiB, and one note may have 100 KB: then a smaller page is asked for."""
MAX_QUESTIONS = 12
"""Maximum number of pages that are read to find a record."""
INDEXED_SECONDS = 600.0
"""After this time the search finds a person who was created. It takes seconds; Pipedrive promises nothing."""
COMPANY_HOST = re.compile(r"(?!oauth\.|www\.|app\.)[a-z0-9-]{1,63}\.pipedrive\.com")

_NUMBER = re.compile(r"[1-9][0-9]{0,14}")
_IDS = {"deal_id": _NUMBER, "lead_id": UUID, "person_id": _NUMBER, "contact_id": _NUMBER}
_CREATED = "(created)"
_BY_ID = (("deal_id", DEAL), ("lead_id", LEAD), ("person_id", PERSON), ("contact_id", PERSON), (_CREATED, PERSON))
"""Fields of the metadata, in order, and the kind of object that each identifies; then the person who was created."""
_READ = {
    DEAL: ("/api/v2/deals/", "deals:read"),
    LEAD: ("/v1/leads/", "leads:read"),
    PERSON: ("/api/v2/persons/", "contacts:read"),
}
"""The path by which one is read by its id, and the scope for it."""
_SHARED_HOST = "api.pipedrive.com"
_ABSENT = Answer.of("delivered", "absent")
_NOT_READABLE = Outcome(verdict="retry", reason="not_readable")
_NO_ID = Outcome(verdict="retry", reason="no_id")

Found = Generator[Step, Response, str | int | Ended | None]
"""The id of a person, deal or lead; None: there is none."""


def portal_of(subscription: Subscription) -> str:
    """The company whose limits a subscription shares: as it was found, else by the host, or by the credential where
    companies share the host."""
    found = subscription.options.get(PORTAL)
    host, credential = host_of(subscription.sink), subscription.credential
    if isinstance(found, str):
        return found
    return f"{host}/{credential.id}" if host == _SHARED_HOST and credential is not None else host


def greeting(subscription: Subscription, now: float) -> Steps:
    """Asks for the owner of the token, and remembers the company."""
    expected = {"company_domain": "{company}"}
    answer = yield from Company(subscription, now).read("/v1/users/me", "users/me", "base", expected)
    if not answer.ok:
        return Ended(outcome=replace(answer.outcome, in_doubt=False))
    company = mapping(answer.data).get("company_domain")
    if not isinstance(company, str):
        return Ended(outcome=_NOT_READABLE)
    host = f"{company}.pipedrive.com"
    return Ended(outcome=answer.outcome, remember={PORTAL: host} if COMPANY_HOST.fullmatch(host) else {})


def creates(subscription: Subscription) -> bool:
    """True if unknown people are created."""
    return PipedriveOptions.of(subscription).unmatched == "create"


# --- a delivery


class _Delivery(crm.Attempt):
    """One attempt. `_learned`: the memory of a person that all subscriptions to the company share from now on."""

    def __post_init__(self) -> None:
        self._portal, self._company = portal_of(self.subscription), Company(self.subscription, self.now)
        self._who = crm.identity(self.event, self.context, _IDS)
        self._learned: Memory | None = None

    def steps(self) -> Steps:
        """Looks up the target, then writes the record."""
        ended = yield from self._delivered()
        return ended if self._learned is None else replace(ended, share=self._learned)

    def _delivered(self) -> Steps:
        entry = ledger.read_entry(self.memory)
        if entry is None:
            found = yield from self._find_target()
            return found if isinstance(found, Ended) else (yield from self._write(found))
        if entry.portal != self._portal:
            return Ended(outcome=ledger.uncertain("written_elsewhere"))
        if entry.state == "done":
            return Ended(outcome=ledger.WRITTEN)
        asked = yield from self._find_record(entry, self._has_key)
        if not isinstance(asked, Answer):
            return Ended(outcome=ledger.WRITTEN, remember=entry.done().memory())
        if not asked.ok:
            return Ended(outcome=ledger.still_in_doubt(asked.outcome))
        if entry.settles_in(self.now):
            outcome, remember = entry.waiting(self.now)
            return Ended(outcome=outcome, remember=remember)
        return (yield from self._write(dict(entry.target)))

    def _write(self, target: Target) -> Steps:
        record = record_of(self.subscription)
        entry = Entry(record=record, target=target, portal=self._portal, at=self.now)
        content = content_of(self.event, self.subscription, self.context, target)
        answer = yield from self._company.add(record, content, remember=entry.memory())
        id = id_in(answer.data)
        if answer.ok and id is not None:
            return Ended(outcome=answer.outcome, remember=entry.done(id).memory())
        outcome = _NO_ID if answer.ok else answer.outcome
        if answer.ok or outcome.in_doubt:  # the next attempt asks for it: that it is there counts at once
            return Ended(outcome=replace(outcome, in_doubt=True))
        return Ended(outcome=outcome, remember=ledger.CLEARED)

    # --- the target

    def _find_target(self) -> Generator[Step, Response, Target | Ended]:
        """The field and the id that the record is attached to."""
        attach, known = PipedriveOptions.of(self.subscription).attach, [_person_of(one) for one in self.context.known]
        created, *others = known or [None]
        person: str | int | Ended | None = None
        for name, kind in _BY_ID:
            id = created if name == _CREATED else self._who.ids.get(name)
            if id is None or person is not None or (attach == PERSON and kind != PERSON):
                continue
            found = yield from self._find_by_id(kind, id)
            if isinstance(found, Ended):
                return found
            if found is not None and kind != PERSON:
                return {name: found}
            person = found
        if person is None:
            person = yield from self._find_person()
        for other in others:  # by the phone number, after a search by the e-mail address
            if person is None and other is not None:
                person = yield from self._find_by_id(PERSON, other)
        if person is None:
            person = yield from self._new_person()
        if person is None or isinstance(person, Ended):
            return person or Ended(outcome=crm.not_matched(self.subscription, "unmatched"))
        return (yield from self._place_of(person, attach))

    def _find_by_id(self, kind: str, id: str | int) -> Found:
        """None: it was deleted, or never was."""
        path, scope = _READ[kind]
        expected = {"id": id if kind == LEAD else int(id)}
        answer = yield from self._company.read(path + quote(str(id)), kind, scope, expected)
        found = uuid_in(answer.data) if kind == LEAD else id_in(answer.data)
        if answer.missing or (found is not None and answer.data.get("is_deleted") is True):
            return None
        return _looked_up(answer) if found is None else found

    def _find_person(self) -> Found:
        """The one person with this e-mail address, phone number or, in a field of the company's own, profile URL."""
        who = self._who
        for field, term in (("email", who.email), ("phone", who.phone), ("custom_fields", who.profile_url)):
            if term is None:
                continue
            query = urlencode({"term": term, "fields": field, "exact_match": "true", "limit": 2})
            path, scope = f"/api/v2/persons/search?{query}", "contacts:read or search:read"
            expected = {"items": [{"item": {"id": f"{{{PERSON}}}"}}]}
            answer = yield from self._company.read(path, "persons/search", scope, expected)
            items = mapping(answer.data).get("items")
            if not isinstance(items, list):
                return _looked_up(answer)
            people = [mapping(one).get("item") for one in items]
            ids = {id for one in people if _has(one, f"{field}s", term) and (id := id_in(one)) is not None}
            if len(ids) > 1:
                return Ended(outcome=crm.not_matched(self.subscription, "ambiguous"))
            if ids:
                return ids.pop()
        return None

    def _new_person(self) -> Found:
        """A person whom the search does not find: among the newest ones, else created if that is wanted."""
        if not creates(self.subscription) or not (self._who.email or self._who.phone):
            return None
        person = yield from self._find_newest_person()
        if person is None:
            person = yield from self._create_person()
        if person is not None and not isinstance(person, Ended):
            self._learned = self._created().done(person).memory()
        return person

    def _created(self) -> Entry:
        return Entry(record=PERSON, portal=self._portal, at=self.now)

    def _find_newest_person(self) -> Found:
        """Looks for the person among the newest ones, which the search finds late: in the newest page or, if one may
        have been created, among all since then. If this cannot tell, the attempt waits for the search."""
        entries = [ledger.read_entry(one) for one in self.context.known if ledger.is_open(one)]
        newest = max((one for one in entries if one is not None), key=lambda one: one.at, default=None)
        doubt = newest if newest is not None and self.now < newest.at + INDEXED_SECONDS else None
        asked = yield from self._find_record(doubt or self._created(), self._person_in, newest_page=doubt is None)
        if not isinstance(asked, Answer):
            return asked
        cannot_tell = asked.outcome.verdict == "uncertain"
        if not (asked.ok or cannot_tell):
            return _looked_up(asked)
        if doubt is None:
            return None
        left = min(doubt.at + INDEXED_SECONDS - self.now, INDEXED_SECONDS)
        wait_seconds = left if cannot_tell else doubt.settles_in(self.now)
        if not wait_seconds:
            return None
        self._learned = replace(doubt, at=min(doubt.at, self.now)).memory()  # the clock may have been set back
        return Ended(outcome=Outcome(verdict="retry", reason=SETTLING, wait_seconds=wait_seconds))

    def _create_person(self) -> Found:
        """Creates the person. All subscriptions to the company remember that, without the address. Where it is not
        known whether Pipedrive has done it, the next attempt asks: no record is in doubt."""
        ways = {"emails": self._who.email, "phones": self._who.phone}
        document: dict[str, Any] = {"name": self._who.email or self._who.phone}
        document |= {name: [{"value": value, "primary": True}] for name, value in ways.items() if value is not None}
        answer = yield from self._company.add(PERSON, document, share=self._created().memory())
        id = id_in(answer.data)
        if answer.ok and id is not None:
            return id
        if not (answer.ok or answer.outcome.in_doubt):
            self._learned = ledger.CLEARED
        return Ended(outcome=_NO_ID if answer.ok else replace(answer.outcome, in_doubt=False))

    def _place_of(self, person: str | int, attach: object) -> Generator[Step, Response, Target | Ended]:
        """The person's newest open deal or lead if the subscription wants that and there is one, else the person."""
        if attach == DEAL:
            order = {"sort_by": "update_time", "sort_direction": "desc", "limit": 1}
            path = "/api/v2/deals?" + urlencode({"person_id": person, "status": "open", **order}, safe="{}")
        elif attach == LEAD:
            order = {"sort": "update_time DESC", "limit": 1}
            path = "/v1/leads?" + urlencode({"person_id": person, **order}, safe="{}", quote_via=quote)
        else:
            return {"person_id": person}
        expected = [{"id": f"{{{attach}}}"}]
        answer = yield from self._company.read(path, f"{attach}s of the person", f"{attach}s:read", expected)
        records = records_in(answer)
        if not (answer.ok or answer.missing) or records is None:
            return _looked_up(answer)
        first = records[0] if records else None
        id = uuid_in(first) if attach == LEAD else id_in(first)
        return {"person_id": person} if id is None else {f"{attach}_id": id}

    # --- records that an earlier attempt may have written

    def _find_record(
        self, entry: Entry, found_in: Callable[[Response], str | int | None], *, newest_page: bool = False
    ) -> Generator[Step, Response, Answer | str | int]:
        """The record that `found_in` finds in a page of the newest ones. Else an answer: ok if it is not there, or why
        that is unknown. `newest_page`: older ones do not count."""
        place: dict[str, str | int] = {}
        size, last = 0, None
        for _ in range(MAX_QUESTIONS):
            path = list_path(entry, place, PAGES[size])
            response = yield self._company.step(path, f"newest {entry.record}s", [])
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
            answer = read_answer(response, self.now, scope=READS[entry.record])
            if answer.missing and not entry.target:  # the list of all people, which is always there
                return Answer.of("retry", answer.outcome.reason)
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

    def _has_key(self, response: Response) -> str | None:
        return "there" if self.key.encode() in response.excerpt else None

    def _person_in(self, response: Response) -> str | int | None:
        """The person who was created with this address or number."""
        people = mapping(read_object(response.excerpt)).get("data")
        for person in people if isinstance(people, list) else ():
            for name, term, same in (
                ("emails", self._who.email, _same_email),
                ("phones", self._who.phone, _same_phone),
            ):
                ways = mapping(person).get(name)
                values = [mapping(one).get("value") for one in ways] if isinstance(ways, list) else []
                if term is not None and same(term) in [same(one) for one in values if isinstance(one, str)]:
                    return id_in(person)
        return None


def _key(event: Event, subscription: Subscription) -> str | None:
    return ledger.event_key(event.id)


def _person_keys(event: Event, subscription: Subscription, context: RenderContext) -> Sequence[str]:
    """A key for each address that the person would be created with. Of deliveries with one of them in common, one at a
    time looks for the person."""
    who, portal = crm.identity(event, context, _IDS), portal_of(subscription)
    ways = (who.email, _same_email), (who.phone, _same_phone)
    return [person_key(portal, same(way)) for way, same in ways if way is not None]


DIALOGUE = Dialogue(key=_key, steps=lambda *given: _Delivery(*given).steps())
"""The deliveries to Pipedrive."""
CREATING = replace(DIALOGUE, shared=_person_keys)
"""Those that may create a person."""


def _person_of(memory: Memory) -> str | None:
    """The person who was created with an address."""
    entry = ledger.read_entry(memory)
    id = "" if entry is None or entry.state != "done" else str(entry.id)
    return id if _NUMBER.fullmatch(id) else None


def _looked_up(answer: Answer) -> Ended:
    """The end of an attempt after a look-up without a result: it has written nothing."""
    outcome = _NOT_READABLE if answer.ok else replace(answer.outcome, in_doubt=False)
    if answer.missing:  # a search or a list, which is always there
        outcome = Outcome(verdict="retry", reason=outcome.reason)
    return Ended(outcome=outcome)


def _has(person: object, name: str, term: str) -> bool:
    """False for a person with other e-mail addresses: a note would be on the wrong person. Phone numbers are written in
    many ways, so Pipedrive is believed."""
    values = mapping(person).get(name)
    if name != "emails" or not isinstance(values, list) or not values:
        return True
    return any(isinstance(one, str) and _same_email(one) == _same_email(term) for one in values)


def _same_email(text: str) -> str:
    return text.strip().casefold()


def _same_phone(text: str) -> str:
    """Its digits: numbers are written in many ways."""
    return re.sub(r"[^0-9]", "", text)
