"""Finds out whether a note or a task was created, by looking up our key at HubSpot.

If HubSpot keeps the key unique, a lookup by key is certain, and HubSpot refuses a second record with the key anyway. If
not, the recent records of the contact or the deal are read, and their text is searched for the key. A record then
counts as missing only after the settle time, and only if everything could be read.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from relay.clock import from_rfc3339
from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Step
from relay.core.deliveries.ledger import Entry
from relay.core.subscriptions.subscription import Subscription
from subscribers.hubspot import requests
from subscribers.hubspot.answers import ID, Answer
from subscribers.hubspot.render import BODIES, KEY
from subscribers.wording.text import mapping

Ask = Callable[..., Generator[Step, Response, Answer]]
Found = Generator[Step, Response, str | Outcome | None]

MAX_NEWEST = 100
"""Maximum records whose times are read: the newest, which have the highest ids."""
MAX_READ = 5
"""Maximum records whose text is read."""
EARLIER_SECONDS = 86_400.0
"""Records created over a day before the intent are ignored. The day covers differences of clocks and time zones."""


def was_made(
    ask: Ask,
    subscription: Subscription,
    object: str,
    key: str,
    intent: Entry,
    about: Sequence[tuple[str, str]],
    now: float,
    *,
    keyed: bool,
) -> Found:
    """The id of the record; None if there is none; an outcome if this is unknown.

    about  the objects it may be associated with, as (type, id)
    keyed  the record has the key in a property too
    """
    if keyed:
        answer = yield from ask(requests.read_property(subscription, object, KEY), about_object=False)
        if not (answer.ok or answer.missing):
            return answer.outcome
        if answer.document.get("hasUniqueValue") is True:
            answer = yield from ask(requests.read_by_key(subscription, object, key))
            return answer.id if answer.id is not None or answer.missing else answer.outcome
    return (yield from _by_text(ask, subscription, object, key, intent, about, now))


def _by_text(
    ask: Ask,
    subscription: Subscription,
    object: str,
    key: str,
    intent: Entry,
    about: Sequence[tuple[str, str]],
    now: float,
) -> Found:
    ids: Sequence[str] = ()
    complete = False
    for target, id in about:
        answer = yield from ask(requests.associated(subscription, target, id, object), about_object=False)
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
        answer = yield from ask(requests.read_several(subscription, object, newest), about_object=False)
        results = answer.document.get("results")
        if not isinstance(results, list):
            return ledger.uncertain("not_readable") if answer.ok else answer.outcome
        made = {str(one.get("id")): _seconds(one.get("createdAt")) for one in map(mapping, results)}
        complete = complete and all(id in made for id in newest)  # a 207 omits records deleted since
        lately = [id for id in newest if id in made and made[id] >= intent.at - EARLIER_SECONDS]
    for id in lately[:MAX_READ] or newest[:1]:  # if a clock is days off, ours is likely the newest
        answer = yield from ask(requests.read(subscription, object, id, BODIES[object]))
        if not (answer.ok or answer.missing):
            return answer.outcome
        text = mapping(answer.document.get("properties")).get(BODIES[object])
        if isinstance(text, str) and key in text:
            return id
        complete = complete and (answer.missing or bool(answer.document))  # empty if the answer is too long
    if intent.settles_in(now):
        return intent.waiting(now)[0]
    return None if complete and len(lately) <= MAX_READ else ledger.uncertain("not_found")


def _listed(document: Mapping[str, Any]) -> tuple[Sequence[str], bool]:
    """The ids in a list of associations, and True if the list is complete."""
    results = document.get("results")
    given = [str(mapping(one).get("toObjectId")) for one in results] if isinstance(results, list) else []
    ids = [id for id in dict.fromkeys(given) if ID.fullmatch(id)]
    whole = isinstance(results, list) and len(ids) == len(given) and not document.get("paging")
    return ids, whole


def _seconds(moment: object) -> float:
    """A time in epoch seconds; infinite if it is unreadable, so that the record's text is read."""
    try:
        return from_rfc3339(moment) if isinstance(moment, str) and len(moment) <= 40 else float("inf")
    except ValueError:
        return float("inf")
