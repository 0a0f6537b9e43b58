"""Matches events to subscriptions by type and source."""

import difflib
from collections.abc import Iterable, Sequence

from relay.core.events import RELAY_EVENTS, account_event_types, job_event_types
from relay.core.subscription import Subscription


def matches(
    subscription: Subscription, event_type: str, event_source: str, *, job_event: bool, owner: str | None
) -> bool:
    """True if a subscription gets an event. Types and source match exactly, case included.

    One that belongs to an account gets only events about that account: `owner` is the event's.
    Without types it gets every job event and no others. Callbacks never match here: they get the events
    of the jobs registered with them, which only the store knows.
    """
    if subscription.callback or subscription.owner not in (None, owner):
        return False
    if subscription.source is not None and subscription.source != event_source:
        return False
    return subscription.wants(event_type, job_event=job_event)


def known_types(type_prefixes: Iterable[str]) -> tuple[str, ...]:
    """All event types: the job events of each prefix, those about the relay, the account events of each prefix.

    The order matters where several have the same last word: that word stands for the first of them.
    """
    prefixes = dict.fromkeys(type_prefixes)
    jobs = (name for prefix in prefixes for name in job_event_types(prefix))
    accounts = (name for prefix in prefixes for name in account_event_types(prefix))
    return (*jobs, *RELAY_EVENTS, *accounts)


def full_type(name: str, known: Sequence[str]) -> str | None:
    """The known type with this full name or ending, such as `failed` or `job.failed`; None if there is none."""
    if name in known:
        return name
    return next((one for one in known if one.endswith(f".{name}")), None)


def nearest_type(text: str, known: Sequence[str]) -> str | None:
    """The known type that `text` most likely means; None if none is similar.

    An ending such as `failed` or `job.failed` is enough.
    """
    wanted = text.strip().lower().lstrip(".")
    if not wanted:
        return None
    ending = full_type(wanted, known)
    if ending is not None:
        return ending
    last_words = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(wanted[:200], known, n=1, cutoff=0.75)
    near_words = difflib.get_close_matches(wanted.rpartition(".")[2][:200], last_words, n=1, cutoff=0.75)
    if near:
        return near[0]
    return last_words[near_words[0]] if near_words else None
