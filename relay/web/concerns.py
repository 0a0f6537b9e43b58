"""Problems that need a person, found in the API's answers: values in, values out.

Each concern is one sentence, a link and the fix. The worst come first: a relay that is not ready, then problems that
could lead to a message sent twice or a CRM record written twice. All problems of one sink are one concern.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.clock import from_rfc3339
from relay.core.events.sentences import titled
from relay.core.subscriptions.filters import UNREADABLE
from relay.core.turns import turn_of_incident
from relay.web.delivery_words import reason_and_cause

LATE_SECONDS = 300.0
"""Age from which a waiting delivery is late."""
MAX_INTENTS = 100
"""Maximum unknown sends that are counted."""
RECENT_SECONDS = 86_400.0
"""Deliveries given up within this time are urgent; older ones are a warning."""

Item = Mapping[str, Any]
Level = Literal["bad", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """`key`: the text `overview.KEY`, with its values. `path`: the page with details. `fix`: the API's advice.
    `oldest`: `since` is the time of the oldest of several. `turn`: whose it is, one of those of `core/turns.py`."""

    level: Level
    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    path: str
    since: str | None = None
    fix: str | None = None
    oldest: bool = False
    turn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The items of the API's lists in which concerns are found. Lists that the caller may not read are empty.

    upstream  title of the upstreams of the intents
    late  deliveries that have waited longer than LATE_SECONDS, by sink. These, like `dead` and `uncertain`, are counted
          among the newest ones; `least`: there may be more
    """

    ready: Item
    sources: Sequence[Item] = ()
    incidents: Sequence[Item] = ()
    accounts: Sequence[Item] = ()
    subscriptions: Sequence[Item] = ()
    dead: Sequence[Item] = ()
    uncertain: Sequence[Item] = ()
    late: Sequence[Item] = ()
    intents: Sequence[Item] = ()
    upstream: str = ""


def concerns(seen: Seen, now: float) -> list[Concern]:
    """All concerns, the worst first."""
    found = [
        *_readiness(seen),
        *_intents(seen),
        *_uncertain(seen),
        *_sources(seen),
        *_incidents(seen),
        *_accounts(seen),
        *_subscriptions(seen),
        *_dead(seen, now),
        *_late(seen),
    ]
    return sorted(found, key=lambda one: one.level)  # "bad" sorts before "warn", and the order above is kept


def _readiness(seen: Seen) -> Iterator[Concern]:
    for problem in seen.ready.get("problems", ()):
        yield Concern(level="bad", key="problem", values={"problem": problem}, path="/ui/sources")


def _sources(seen: Seen) -> Iterator[Concern]:
    for one in seen.sources:
        if one["state"] in ("down", "unauthorized"):
            values = {"account": f"{one['source']}/{one['account']}"}
            fix = (one.get("problem") or {}).get("message")
            path = "/ui/sources"
            yield Concern(
                level="bad", key=f"source_{one['state']}", values=values, path=path, since=one["since"], fix=fix
            )


def _incidents(seen: Seen) -> Iterator[Concern]:
    covered = _broken(seen) | {one["subscription_id"] for one in seen.dead}
    for one in seen.incidents:
        if one.get("subscription") in covered:
            continue  # the concern of the subscription or its dead deliveries has the name and the likely cause
        if one.get("kind") == "creates" and seen.intents:
            continue  # the concern about unknown sends covers it
        path = f"/ui/incidents/{one['id']}"
        values, turn = {"what": one["what"]}, turn_of_incident(one)
        yield Concern(
            level="bad", key="incident", values=values, path=path, since=one["opened_at"], fix=one["fix"], turn=turn
        )


def _accounts(seen: Seen) -> Iterator[Concern]:
    covered = {one.get("connect_account_id") for one in seen.incidents}
    for one in seen.accounts:
        if one["id"] not in covered and one["state"] in ("needs_reconnect", "cannot_send"):
            channel = titled(one["channel"] or "")
            values = {"name": one["name"] or one["id"], "channel": channel, "n": one["open_jobs"]}
            path, key = "/ui/sources#accounts", f"account_{one['state']}"
            if one["open_jobs"]:
                yield Concern(level="bad", key=key, values=values, path=path, since=one["since"])
            else:
                yield Concern(level="warn", key=f"{key}_idle", values=values, path=path, since=one["since"])


def _uncertain(seen: Seen) -> Iterator[Concern]:
    if count := sum(one["count"] for one in seen.uncertain):
        oldest = min(one["oldest_at"] for one in seen.uncertain)
        path = "/ui/deliveries?state=uncertain"
        key = _counted("uncertain", seen.uncertain)
        yield Concern(level="bad", key=key, values={"n": count}, path=path, since=oldest, oldest=True)


def _intents(seen: Seen) -> Iterator[Concern]:
    if count := len(seen.intents):
        all_are_counted = count < MAX_INTENTS
        oldest = min(one["sent_at"] for one in seen.intents) if all_are_counted else None
        key = "intents" if all_are_counted else "intents_least"
        values = {"n": count, "upstream": seen.upstream}
        yield Concern(level="bad", key=key, values=values, path="/ui/intents", since=oldest, oldest=True)


def _subscriptions(seen: Seen) -> Iterator[Concern]:
    dead = {one["subscription_id"]: one for one in seen.dead}
    doubted = {one["subscription_id"] for one in seen.uncertain}
    for one in seen.subscriptions:
        given_up = dead.get(one["id"])
        also = "" if given_up is None else _counted("_dead", [given_up])
        path = f"/ui/subscriptions/{one['id']}"
        values = {"sink": _name(one), **({} if given_up is None else {"n": given_up["count"]})}
        if one["state"] == "disabled":
            why, since = reason_and_cause(one.get("disabled_reason")), one.get("state_since")
            yield Concern(level="bad", key=f"disabled{also}", values=values, path=path, since=since, fix=why)
        elif one["state"] == "paused" and (one.get("state_reason") or "").startswith(UNREADABLE):
            values, why, since = {"sink": _name(one)}, one["state_reason"], one.get("state_since")
            yield Concern(level="bad", key="held", values=values, path=path, since=since, fix=why)
        elif _fails(one):
            why, since = reason_and_cause(one.get("failing_reason")), one["failing_since"]
            also = also or ("_in_doubt" if one["id"] in doubted else "")
            yield Concern(level="bad", key=f"failing{also}", values=values, path=path, since=since, fix=why)


def _dead(seen: Seen, now: float) -> Iterator[Concern]:
    covered, open_ones = _broken(seen), {one.get("subscription") for one in seen.incidents}
    for one in seen.dead:
        if one["subscription_id"] in covered:
            continue
        recent = now - from_rfc3339(one["newest_at"]) < RECENT_SECONDS
        values = {"n": one["count"], "sink": _sink(seen, one)}
        path = f"/ui/deliveries?state=dead&subscription={one['subscription_id']}"
        level: Level = "bad" if recent or one["subscription_id"] in open_ones else "warn"
        yield Concern(level=level, key=_counted("dead", [one]), values=values, path=path, since=one["newest_at"])


def _late(seen: Seen) -> Iterator[Concern]:
    covered = {one["id"] for one in seen.subscriptions if one["state"] != "enabled" or one.get("failing_since")}
    for one in seen.late:
        if one["subscription_id"] not in covered:
            values = {"n": one["count"], "sink": _sink(seen, one)}
            path = f"/ui/deliveries?state=pending&subscription={one['subscription_id']}"
            key, since = _counted("late", [one]), one["oldest_at"]
            yield Concern(level="warn", key=key, values=values, path=path, since=since, oldest=True)


def _counted(key: str, groups: Sequence[Item]) -> str:
    """The key of the text: a different one if the count is a minimum."""
    return f"{key}_least" if any(one["least"] for one in groups) else key


def _broken(seen: Seen) -> set[str]:
    """Ids of subscriptions that are disabled or failing."""
    return {one["id"] for one in seen.subscriptions if one["state"] == "disabled" or _fails(one)}


def _fails(subscription: Item) -> bool:
    return bool(subscription["state"] == "enabled" and subscription.get("failing_since"))


def _name(subscription: Item) -> str:
    """A subscription's name for people: its description, else its sink."""
    return str(subscription.get("description") or subscription["sink"])


def _sink(seen: Seen, group: Item) -> str:
    known = (_name(one) for one in seen.subscriptions if one["id"] == group["subscription_id"])
    return next(known, None) or str(group["sink"] or group["subscription_id"])
