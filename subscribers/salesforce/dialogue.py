"""Deliveries to Salesforce: a record for each event, linked to the person and the deal that the event is about.

A record is made or updated by its external id, which is unique, so a repeated request updates the record of the first
one: nothing needs to be remembered, and nothing is ever uncertain.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Step, Steps
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.redaction import host_of
from subscribers.base import Dialogue
from subscribers.common import crm
from subscribers.salesforce.answers import (
    CUT,
    ID,
    KEY_FIELD,
    NEWEST_VERSION,
    NO_WRITING,
    OLDEST_VERSION,
    PEOPLE,
    RESUME,
    Answer,
    newest_version,
)
from subscribers.salesforce.options import SalesforceOptions
from subscribers.salesforce.render import LEAD, PREFIXES, TASK, Meant, fields, links, meant_by, names_of
from subscribers.salesforce.requests import CHECK, PLACEHOLDERS, Org, soql_text, versions

_UNMATCHED, _AMBIGUOUS = "unmatched", "ambiguous"


class _Delivery(crm.Attempt):
    """One attempt."""

    def steps(self) -> Steps:
        """The versions of the instance, unless one is set; the person, unless an id is known; and the record. A record
        whose links are all refused counts as unmatched."""
        subscription, meant = self.subscription, meant_by(self.event, self.context)
        may_be_alone = SalesforceOptions.of(subscription).unmatched == "create"
        if not (meant.ids or meant.searched or may_be_alone):
            return Ended(outcome=crm.not_matched(subscription, _UNMATCHED))
        org = yield from _org_of(subscription, self.now)
        if isinstance(org, Outcome):
            return Ended(outcome=org)
        body = fields(self.event, subscription, self.context, org.object)
        ids, why = meant.ids, _UNMATCHED
        if meant.person_known or not meant.searched:
            outcome = yield from self._write_linked(org, body, ids, {})
            if outcome is not None:
                return Ended(outcome=outcome)
            ids = {}
        if meant.searched:
            person = yield from _find_person(org, meant)
            if isinstance(person, Outcome):
                return Ended(outcome=person)
            found, why = person
            outcome = yield from self._write_linked(org, body, ids, found)
            if outcome is not None:
                return Ended(outcome=outcome)
        if may_be_alone:
            return Ended(outcome=(yield from org.write(self.event, body, linked=False)).outcome)
        unmatched = crm.not_matched(subscription, why)
        return Ended(outcome=replace(unmatched, retry_after_seconds=org.pause_seconds))

    def _write_linked(
        self, org: Org, body: Mapping[str, Any], ids: Mapping[str, str], found: Mapping[str, str]
    ) -> Generator[Step, Response, Outcome | None]:
        """The outcome of the record with links to the ids that were given and to those that were found, as many as
        Salesforce takes. None if there is no record to link it to. A link that is refused although the other end is
        there is no sign of that: the record is refused, for a reason that a person has to see."""
        answer = None
        for linked in links(org.object, {**ids, **found}):
            answer = yield from org.write(self.event, {**body, **linked}, linked=True)
            if not answer.refuses(linked):
                return answer.outcome
        if answer is None or SalesforceOptions.of(org.subscription).unmatched == "create":
            return None
        for object, id in () if found else ids.items():
            asked = yield from org.look_up(object, f"Id = '{id}'")
            if not asked.ok and asked.code not in ("INVALID_QUERY_FILTER_OPERATOR", "INVALID_TYPE"):  # no valid id
                return asked.outcome
            if _ids_in(asked.document, object):
                return answer.outcome
        return answer.outcome if found else None


DIALOGUE = Dialogue(key=lambda *_: None, steps=lambda *given: _Delivery(*given).steps())
"""The delivery of an event. Nothing is remembered."""


def _org_of(subscription: Subscription, now: float) -> Generator[Step, Response, Org | Outcome]:
    """The org with a version of its API, or the outcome of the question for one."""
    version = SalesforceOptions.of(subscription).api_version
    if version is None:
        answer = yield from versions(subscription, now)
        if not answer.ok:
            return answer.outcome
        version = newest_version(answer.document)
        if version is None:
            reason = f"the instance lists no API version from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0"
            return Outcome(verdict="retry", reason=reason)
    return Org(subscription=subscription, now=now, version=version)


def _find_person(org: Org, meant: Meant) -> Generator[Step, Response, tuple[dict[str, str], str] | Outcome]:
    """The one contact, else the one lead, with the address, else with the number. Without one: why."""
    conditions = [] if meant.email is None else [f"Email = {soql_text(meant.email)}"]
    if meant.phones:
        listed = ", ".join(map(soql_text, meant.phones))
        conditions.append(f"Phone IN ({listed}) OR MobilePhone IN ({listed})")
    for condition in conditions:
        for object in PEOPLE:
            answer = yield from org.look_up(object, condition)
            if not answer.ok and not (object == LEAD and answer.code == "INVALID_TYPE"):  # an org without leads
                return answer.outcome
            found = _ids_in(answer.document, object)
            if found:
                return ({object: found[0]} if len(found) == 1 else {}), _AMBIGUOUS
    return {}, _UNMATCHED


def _ids_in(document: Any, object: str) -> list[str]:
    """The ids in the answer to a look-up."""
    records = document.get("records") if isinstance(document, Mapping) else None
    ids = [one.get("Id") for one in records[:2] if isinstance(one, Mapping)] if isinstance(records, list) else []
    placeholder, prefix = PLACEHOLDERS[object], PREFIXES[object]
    return [
        id for id in ids if isinstance(id, str) and ((ID.fullmatch(id) and id.startswith(prefix)) or id == placeholder)
    ]


# --- before a subscription is stored


def greeting(subscription: Subscription, now: float) -> Steps:
    """Checks the object and the permissions, and finds the version for the deliveries."""
    listed = yield from versions(subscription, now)
    if not listed.ok:
        return _refused(listed.outcome)
    wanted = SalesforceOptions.of(subscription).api_version
    version = newest_version(listed.document, wanted)
    if version is None:
        reason = f"the instance lists no API version {wanted or f'from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0'}"
        return _refused(_missing(reason))
    org = Org(subscription=subscription, now=now, version=version)
    outcome = yield from _check_object(org)
    if outcome.verdict == "delivered":  # and the user may look for people
        outcome = (yield from org.look_up(PEOPLE[0], f"Email = {soql_text(CHECK)}")).outcome
    if outcome.verdict != "delivered":
        return _refused(outcome)
    return Ended(outcome=listed.outcome, remember={PORTAL: host_of(subscription.sink), "api_version": version})


def _refused(outcome: Outcome) -> Ended:
    """There is no subscription that could be resumed."""
    return Ended(outcome=replace(outcome, reason=outcome.reason.removesuffix(RESUME)))


def _check_object(org: Org) -> Generator[Step, Response, Outcome]:
    """Delivered if the user may write records of the object, with all fields. The description of a standard object is
    larger than what is read of an answer, and that of a custom one can be: then a query asks for the fields."""
    own = SalesforceOptions.of(org.subscription).template or {}
    names = dict.fromkeys((*names_of(org.object), *own))
    wanted = (KEY_FIELD, *(name for name in names if own.get(name, name) is not None))
    if org.object != TASK:
        answer = yield from org.description()
        if answer.ok:
            return _described(org, answer, wanted)
        if answer.outcome != CUT:
            return answer.outcome
    answer = yield from org.summary()
    if not answer.ok:
        return answer.outcome
    if not _is_writable(answer.document["objectDescribe"]):
        return _missing(NO_WRITING.format(org.object))
    return (yield from org.fields(wanted)).outcome


def _described(org: Org, answer: Answer, wanted: Sequence[str]) -> Outcome:
    """Delivered if the description of an object shows the permissions, and these fields."""
    object = org.object
    if not _is_writable(answer.document):
        return _missing(NO_WRITING.format(object))
    listed = [one for one in answer.document["fields"] if isinstance(one, Mapping)]
    known = {name: one for one in listed if isinstance(name := one.get("name"), str)}
    absent = [name for name in wanted if name not in known]
    if absent:
        what = f"{object} has not, or this user may not see, {', '.join(absent)}"
        return _missing(f"{what}: deploy it or correct config.template")
    key = known[KEY_FIELD]
    if key.get("externalId") is not True or key.get("unique") is not True:
        return _missing(f"make {object}.{KEY_FIELD} a unique external id, or an event could make two records")
    closed = [name for name in wanted if not _is_writable(known[name])]
    if closed:
        return _missing(f"let the user that the app runs as edit {', '.join(closed)}")
    return answer.outcome


def _is_writable(described: Mapping[str, Any]) -> bool:
    return described.get("createable") is True and described.get("updateable") is True


def _missing(what: str) -> Outcome:
    return Outcome(verdict="disable", reason=what)
