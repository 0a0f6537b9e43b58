"""Deliveries to HubSpot.

Setting properties may be repeated. Creating a note or a task may not: the ledger records the intent before the request,
and after a crash or a time-out the record is looked up first. HubSpot refuses a second record with a key that it keeps
unique.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import PORTAL, Subscription
from subscribers.base import Dialogue
from subscribers.common import crm
from subscribers.hubspot.answers import CREATE_PROPERTIES, ID, Answer, object_id
from subscribers.hubspot.options import HubSpotOptions
from subscribers.hubspot.render import (
    BODIES,
    KEY,
    KEY_PROPERTY,
    UPDATED_AT,
    Content,
    content_of,
    made_of,
    needed_properties,
)
from subscribers.hubspot.requests import Account, Asked
from subscribers.wording.text import mapping, moment_of

LATE_SECONDS = 300.0
"""Older events set properties only if no newer event has: a replay must not overwrite newer values."""
MAX_NEWEST = 100
"""Maximum records whose times are read: the newest, which have the highest ids."""
MAX_READ = 5
"""Maximum records whose text is read."""
EARLIER_SECONDS = 86_400.0
"""Records created over a day before the intent are ignored. The day covers differences of clocks and time zones."""

Asks = Generator[Step, Response, Outcome | None]
"""Returns the outcome if it ends the delivery."""
Found = Generator[Step, Response, str | Outcome | None]

_IDS = {"contact_id": ID, "deal_id": ID}
_METADATA = {"contacts": "contact_id", "deals": "deal_id"}


def portal_of(subscription: Subscription) -> str:
    """The account that a subscription writes to, else the token."""
    credential = subscription.credential
    return f"hubspot/{subscription.options.get(PORTAL) or (credential.id if credential else '')}"


# --- memory


@dataclass(kw_only=True)
class Written:
    """The records of one event in HubSpot.

    ids     of the contact, the deal, the note and the task, by the type of object
    intent  the note or task that may have been created
    keyed   the intent has our key in a separate property
    portal  the account of these records
    """

    portal: str
    ids: dict[str, str] = field(default_factory=dict)
    intent: Entry | None = None
    keyed: bool = False

    @classmethod
    def read(cls, memory: Memory, portal: str) -> "Written":
        """Reads a stored memory, without its invalid parts."""
        made = mapping(memory.get(ledger.MADE))
        ids = {
            object: id
            for object, given in made.items()
            if object in ("contacts", "deals", "notes", "tasks") and (id := object_id(given)) is not None
        }
        intent = ledger.read_entry(memory) if memory.get("state") == "intended" else None
        before = made.get("portal")
        portal = before if isinstance(before, str) else portal
        return cls(portal=portal, ids=ids, intent=intent, keyed=memory.get("keyed") is True)

    def memory(self) -> Memory:
        """The memory to store: ids only, no text and no address."""
        state = {"state": "written"} if self.intent is None else self.intent.memory()
        return {**state, "keyed": self.keyed, ledger.MADE: {"portal": self.portal, **self.ids}}

    def intends(self, object: str, now: float, *, keyed: bool) -> Memory:
        """The memory to store before an object is created."""
        target: dict[str, str | int] = {_METADATA[one]: id for one, id in self.ids.items() if one in _METADATA}
        self.intent = Entry(record=object.removesuffix("s"), target=target, portal=self.portal, at=now)
        self.keyed = keyed
        return self.memory()

    @property
    def about(self) -> list[tuple[str, str]]:
        """The contact and the deal that a note or a task is associated with."""
        return [(object, id) for object, id in self.ids.items() if object in _METADATA]


def _key(event: Event, subscription: Subscription) -> str | None:
    """None if the event creates no note or task."""
    return ledger.event_key(event.id) if made_of(event, subscription) else None


DIALOGUE = Dialogue(key=_key, steps=lambda *given: _Delivery(*given).steps())
"""The delivery of an event."""


class _Delivery(crm.Attempt):
    """One attempt."""

    def __post_init__(self) -> None:
        self._portal = portal_of(self.subscription)
        self._written = Written.read(self.memory, self._portal)
        self._account = Account(self.subscription, self.now)

    def steps(self) -> Steps:
        """Looks up a note or task that may have been created. Then updates the contact and the deal, which returns
        their ids, and creates the note and the task for them."""
        made, written = made_of(self.event, self.subscription), self._written
        if written.intent is None and made and all(object in written.ids for object in made):
            return Ended(outcome=ledger.WRITTEN)
        if written.portal != self._portal:
            begun = written.intent is not None or not written.ids.keys().isdisjoint(("notes", "tasks"))
            if begun and "state" in self.memory:  # else a person has found that the record does not exist
                return Ended(outcome=ledger.uncertain("written_elsewhere"))
            written = self._written = Written(portal=self._portal)
        if written.intent is not None:
            outcome = yield from self._resolve(written.intent)
            if outcome is not None:
                return self._ended(ledger.still_in_doubt(outcome))
        left = [object for object in made if object not in written.ids]
        if made and not left:
            return self._ended(ledger.WRITTEN)
        content = content_of(self.event, self.subscription, self.context)
        outcome = yield from self._write_targets(content)
        if outcome is not None:
            return self._ended(outcome)
        for object in left:
            outcome = yield from self._make(object, content.made[object])
            if outcome is not None:
                return self._ended(outcome)
        return self._ended(Outcome(verdict="delivered", reason="ok"))

    def _ended(self, outcome: Outcome) -> Ended:
        """Adds the pause from the last answer, and the memory."""
        if outcome.verdict == "delivered" and self._account.pause_seconds is not None:
            outcome = replace(outcome, retry_after_seconds=self._account.pause_seconds)
        written = self._written
        if _key(self.event, self.subscription) is None:
            return Ended(outcome=outcome)
        return Ended(outcome=outcome, remember=written.memory() if written.ids or written.intent else ledger.CLEARED)

    # --- contact and deal

    def _write_targets(self, content: Content) -> Asks:
        """Updates the contact and the deal. Returns an outcome if it ends the delivery."""
        who = crm.identity(self.event, self.context, _IDS)
        contact, deal = who.ids.get("contact_id"), who.ids.get("deal_id")
        targets: list[tuple[str, str, bool]] = []
        if contact is not None or who.email is not None:
            targets.append(("contacts", str(contact or who.email), contact is None))
        if deal is not None:
            targets.append(("deals", str(deal), False))
        policy = HubSpotOptions.of(self.subscription).unmatched
        for object, id, by_email in targets:
            if object in self._written.ids:
                continue
            answer = yield from self._write(object, id, content.properties, by_email=by_email)
            if answer.missing and object == "contacts" and policy == "create" and who.email is not None:
                answer = yield from self._create_contact(who.email, content.properties)
            if answer.id is not None:
                self._written.ids[object] = answer.id
            elif not answer.missing:
                return answer.outcome
            elif policy == "fail":
                return crm.not_matched(self.subscription, "unmatched")
        return None if self._written.about else crm.not_matched(self.subscription, "unmatched")

    def _write(self, object: str, id: str, properties: Mapping[str, str] | None, *, by_email: bool) -> Asked:
        """Sets properties. Only reads the object if there are none to set, or if it has newer ones."""
        if properties is None:
            return (yield from self._account.read(object, id, by_email=by_email))
        if UPDATED_AT in properties and self.now - self.event.time > LATE_SECONDS:
            answer = yield from self._account.read(object, id, UPDATED_AT, by_email=by_email)
            text = mapping(answer.document.get("properties")).get(UPDATED_AT)
            is_number = isinstance(text, str) and len(text) <= 40 and text.isdecimal()
            newest = int(str(text)) / 1000 if is_number else moment_of(text)  # milliseconds, or RFC 3339
            if not answer.ok or (newest is not None and newest > self.event.time):
                return answer
        return (yield from self._account.update(object, id, properties, by_email=by_email))

    def _create_contact(self, email: str, properties: Mapping[str, str] | None) -> Asked:
        """Creates a contact. May be repeated: addresses are unique, and HubSpot then returns the existing contact."""
        values = {**(properties or {}), "email": email}
        answer = yield from self._account.create("contacts", values)
        if answer.existing is None:
            conflict = Answer.of("retry", "conflict")
            return conflict if answer.taken is not None or answer.missing else answer
        answer = yield from self._write("contacts", answer.existing, properties, by_email=False)
        if answer.missing:  # deleted, or merged into another one, since
            return Answer.of("retry", "conflict")
        return answer

    # --- note and task

    def _resolve(self, intent: Entry) -> Asks:
        """Looks up the note or task that may have been created. Returns None once its fate is known."""
        object, written = f"{intent.record}s", self._written
        if object not in ("notes", "tasks"):
            return ledger.uncertain("unreadable")
        found = yield from self._was_made(object, intent)
        if isinstance(found, Outcome):
            written.intent = replace(intent, at=min(intent.at, self.now))  # the clock may have been set back
            return found
        written.intent = None
        if found is not None:
            written.ids[object] = found
        return None

    def _was_made(self, object: str, intent: Entry) -> Found:
        """The id of the record; None if there is none; an outcome if this is unknown. If HubSpot keeps the key unique,
        a look-up by key is certain."""
        if self._written.keyed:
            answer = yield from self._account.read_property(object, KEY)
            if not (answer.ok or answer.missing):
                return answer.outcome
            if answer.document.get("hasUniqueValue") is True:
                answer = yield from self._account.read_by_key(object, self.key)
                return answer.id if answer.id is not None or answer.missing else answer.outcome
        return (yield from self._by_text(object, intent))

    def _by_text(self, object: str, intent: Entry) -> Found:
        """Searches the text of the recent records of the contact or the deal for the key. A record counts as missing
        only after the settle time, and only if everything could be read."""
        ids: Sequence[str] = ()
        complete = False
        for target, id in self._written.about:
            answer = yield from self._account.associated(target, id, object)
            if answer.missing:  # deleted: try the next object
                continue
            if not answer.ok:
                return answer.outcome
            ids, complete = _listed(answer.document)
            break
        newest = sorted(ids, key=int, reverse=True)[:MAX_NEWEST]
        complete = complete and len(newest) == len(ids)
        lately: Sequence[str] = ()
        if newest:
            answer = yield from self._account.read_several(object, newest)
            results = answer.document.get("results")
            if not isinstance(results, list):
                return ledger.uncertain("not_readable") if answer.ok else answer.outcome
            made = {str(one.get("id")): moment_of(one.get("createdAt")) for one in map(mapping, results)}
            complete = complete and all(id in made for id in newest)  # a 207 omits records deleted since
            since = intent.at - EARLIER_SECONDS
            lately = [id for id in newest if id in made and ((at := made[id]) is None or at >= since)]
        for id in lately[:MAX_READ] or newest[:1]:  # if a clock is days off, ours is likely the newest
            answer = yield from self._account.read(object, id, BODIES[object])
            if not (answer.ok or answer.missing):
                return answer.outcome
            text = mapping(answer.document.get("properties")).get(BODIES[object])
            if isinstance(text, str) and self.key in text:
                return id
            complete = complete and (answer.missing or bool(answer.document))  # empty if the answer is too long
        if intent.settles_in(self.now):
            return intent.waiting(self.now)[0]
        return None if complete and len(lately) <= MAX_READ else ledger.uncertain("not_found")

    def _make(self, object: str, properties: Mapping[str, str]) -> Asks:
        """Creates a note or a task. Returns an outcome if it ends the delivery."""
        written = self._written
        for keyed in (True, False):
            values = {**properties, KEY_PROPERTY: self.key} if keyed else properties
            remember = written.intends(object, self.now, keyed=keyed)
            answer = yield from self._account.create(object, values, written.about, remember)
            if not (keyed and KEY_PROPERTY in answer.unknown):
                break
        if answer.id is None and answer.taken is not None and KEY_PROPERTY in (answer.taken or (KEY_PROPERTY,)):
            return (yield from self._taken(object, answer))
        if answer.id is not None:
            written.ids[object], written.intent = answer.id, None
            return None
        if answer.doubtful:
            return replace(answer.outcome, in_doubt=True)
        written.intent = None
        if answer.missing:  # the contact or the deal was deleted since: the next attempt looks it up
            written.ids = {name: id for name, id in written.ids.items() if name not in _METADATA}
            return Outcome(verdict="retry", reason="target_deleted")
        return answer.outcome

    def _taken(self, object: str, refusal: Answer) -> Asks:
        """Handles a key that exists: an earlier attempt created the record, and its memory is lost."""
        answer = yield from self._account.read_by_key(object, self.key)
        if answer.id is None:
            if answer.missing:  # it is not visible yet
                return replace(refusal.outcome, verdict="retry", in_doubt=True)
            return ledger.still_in_doubt(answer.outcome)
        self._written.ids[object], self._written.intent = answer.id, None
        return None


def _listed(document: Mapping[str, Any]) -> tuple[Sequence[str], bool]:
    """The ids in a list of associations, and True if the list is complete."""
    results = document.get("results")
    given = [str(mapping(one).get("toObjectId")) for one in results] if isinstance(results, list) else []
    ids = [id for id in dict.fromkeys(given) if ID.fullmatch(id)]
    whole = isinstance(results, list) and len(ids) == len(given) and not document.get("paging")
    return ids, whole


# --- check of a new subscription


def greeting(subscription: Subscription, now: float) -> Steps:
    """Reads the account, then the properties of each type of object."""
    account = Account(subscription, now)
    answer = yield from account.details()
    portal = str(answer.document.get("portalId"))
    if answer.ok and not ID.fullmatch(portal):
        return Ended(outcome=Outcome(verdict="retry", reason="the answer names no account"))
    for object, definitions in needed_properties(subscription).items():
        if answer.ok:
            answer = yield from _properties(account, object, definitions)
    return Ended(outcome=answer.outcome, remember={PORTAL: portal} if answer.ok else None)


def _properties(account: Account, object: str, definitions: Sequence[Mapping[str, Any]]) -> Asked:
    """Reads or creates properties of one type of object. Two refusals are accepted: deliveries work without a
    unique key property; and without the scopes of deals, only events with a deal fail."""
    create = HubSpotOptions.of(account.subscription).create_properties
    asked = [("create the group", account.create_group(object))] if create else []
    ask, doing = (account.create_property, "create") if create else (account.read_property, "read")
    asked += [(f"{doing} {definition['name']}", ask(object, definition)) for definition in definitions]
    for what, asking in asked:
        answer = yield from asking
        if answer.ok or answer.taken is not None:
            continue
        if object == "deals" and answer.forbidden:
            break
        if object in ("notes", "tasks") and (answer.missing or answer.outcome.verdict == "dead"):
            continue
        if answer.missing:
            reason = f"{answer.outcome.reason}: could not {what} of {object}: {CREATE_PROPERTIES}"
            return replace(answer, outcome=replace(answer.outcome, reason=reason))
        return answer
    return Answer.of("delivered", "ok")
