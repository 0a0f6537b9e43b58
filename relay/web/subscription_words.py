"""What is wrong with one subscription, whose turn it is, and how to act. Pure: the API's answers in, concerns out.

Those of the overview (`concerns.py`), and what only the subscription's own pages say: that it is paused, or waits for
consent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.api.http.auth import ADMIN
from relay.clock import from_rfc3339
from relay.core.subscriptions.filters import UNREADABLE
from relay.core.subscriptions.subscription import PULL
from relay.core.turns import ADMINISTRATOR, RECEIVER
from relay.web.concerns import LATE_SECONDS, WRITES_SUBSCRIPTIONS, Act, Concern, Counted, Seen, concerns
from relay.web.delivery_words import subscription_name

Answer = Mapping[str, Any]
WHO_PAUSED = Act(key="who_paused", path="/ui/audit?action=subscriptions.pause", scope=ADMIN)
TRIED = ("failing", "switched_off", "send_again", "send_again_least")
"""Concerns in which a test shows whether the sink works again."""


def concerns_of(
    subscription: Answer, dead: Sequence[Answer], uncertain: Sequence[Answer], pending: Sequence[Answer], now: float
) -> list[Concern]:
    """All that is wrong with it, the worst first. The lists are its deliveries by state, as `Seen` has them."""
    path, pulled = f"/ui/subscriptions/{subscription['id']}", subscription["config"]["kind"] == PULL
    late = [] if pulled else [one for one in pending if now - from_rfc3339(one["oldest_at"]) > LATE_SECONDS]
    seen = Seen(ready={}, subscriptions=[subscription], dead=dead, uncertain=uncertain, pending=pending, late=late)
    test = Act(key="test", path=f"{path}/test", posts=True, scope=WRITES_SUBSCRIPTIONS)
    found = []
    for one in concerns(seen, now):
        acts = [act for act in one.acts if act.path != path]
        if one.key in TRIED and not pulled:
            fixed_first = any(act.after for act in acts) or one.key == "failing"
            first = len([act for act in acts if not act.after]) if fixed_first else len(acts)
            acts.insert(first, replace(test, after=fixed_first))
        found.append(replace(one, acts=acts))
    return [*found, *_held(subscription, path, pending)]


def _held(one: Answer, path: str, pending: Sequence[Answer]) -> Iterator[Concern]:
    holds: list[Counted] = [("events_wait", group["count"], group["least"]) for group in pending]
    by_filters = (one["state_reason"] or "").startswith(UNREADABLE)
    if one["state"] == "pending" or (one["state"] == "paused" and not by_filters):
        is_paused = one["state"] == "paused"
        act = Act(
            key="resume" if is_paused else "ask_again",
            path=f"{path}/resume",
            posts=True,
            scope=WRITES_SUBSCRIPTIONS,
        )
        yield Concern(
            level="warn",
            key="paused" if is_paused else "consent",
            values={"sink": subscription_name(one)},
            turn=ADMINISTRATOR if is_paused else RECEIVER,
            holds=holds,
            why=one["state_reason"],
            since=one["state_since"],
            acts=(act, WHO_PAUSED) if is_paused else (act,),
            command=f"relay subscriptions resume {one['id']}",
        )
