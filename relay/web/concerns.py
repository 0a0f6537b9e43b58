"""Problems that need a person, found in the API's answers: values in, values out. For the overview and `relay status`.

Each concern says what to do, whose turn it is, what it holds up in numbers, and how to act. One cause is one concern.
The worst come first: a relay that is not ready, then problems that could lead to a message sent twice or a CRM record
written twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.clock import from_rfc3339, to_rfc3339
from relay.core.events.sentences import enumerated, titled
from relay.core.subscriptions.filters import UNREADABLE
from relay.core.turns import ADMINISTRATOR, OWNER, Turn, is_unreadable, turn_of, turn_of_incident, turn_of_sink
from relay.web.delivery_words import advice_of, is_failing, subscription_name, trouble_words
from relay.web.senders import anchor_of, name_of
from relay.web.texts import english
from subscribers.registry import website_of
from subscribers.wording.jobs import whom

LATE_SECONDS = 300.0
"""Age from which a waiting delivery is late."""
MAX_INTENTS = 100
"""Maximum unknown sends that are counted."""
MAX_SUBSCRIPTIONS = 200
RECENT_SECONDS = 86_400.0
"""Deliveries given up within this time are urgent; older ones are a warning."""
LIST = 20
"""Incidents, sending accounts and sinks that are read."""
NEWEST = 500
"""Deliveries of a state that are counted: of an outage there may be very many."""
NAMES = 2
"""Sinks, or people, that are named in one sentence."""
RENDER = "render"
"""Reason of deliveries of which the relay cannot make a message: its own fault, and no setting corrects it."""
ISSUES = "https://github.com/revor-relay/revor-relay/issues"
WRITES_SUBSCRIPTIONS, WRITES_JOBS, READS = "subscriptions:write", "jobs:write", "read"

Item = Mapping[str, Any]
Level = Literal["bad", "warn"]
Counted = tuple[str, int, bool]
"""A number of things: the text `overview.holds_KEY`, how many, and True if there may be more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A button or link with the text `overview.act_KEY`. `posts`: it acts by a POST to `path`, else it leads there.
    `scope`: what the token needs. `after`: it helps only once the trouble is fixed."""

    key: str
    path: str
    values: Mapping[str, object] = field(default_factory=dict)
    posts: bool = False
    scope: str = READS
    after: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The jobs that a concern holds up. By default none.

    accounts  those of these sources and accounts
    sender    of these only what is sent from this sending account
    code      of these only jobs that failed with this error, and those of the same sending account
    groups    of these only those of these campaigns
    """

    accounts: frozenset[tuple[str, str]] = frozenset()
    sender: str | None = None
    code: str | None = None
    groups: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """
    key      the text `overview.do_KEY` with `values`: what to do, or what goes on if nothing is to be done
    turn     whose it is, one of those of `core/turns.py`
    holds    what it holds up, in numbers
    why      the cause, in words
    since    its beginning; `oldest`: that of the oldest of several
    acts     the most useful first; those for after the fix last
    command  what to type in a terminal
    incident  the id of the incident that tells of it too
    reach    the jobs that it holds up
    state    the text `overview.state_KEY`: why these jobs do not end, in two words; None if they may
    every    True if it keeps events of all jobs from a sink
    """

    level: Level
    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    turn: Turn
    holds: Sequence[Counted] = ()
    why: str | None = None
    since: str | None = None
    oldest: bool = False
    acts: Sequence[Act] = ()
    command: str
    incident: str | None = None

    @property
    def asks(self) -> bool:
        """True if the first act is what is to be done: a receiver is fixed elsewhere, and some troubles pass."""
        return self.turn in (OWNER, ADMINISTRATOR)

    reach: Reach = Reach()
    state: str | None = None
    every: bool = False

    @property
    def sentence(self) -> str:
        """What is wrong or what to do, without the full stop."""
        return english()(f"overview.do_{self.key}", **self.values)

    @property
    def word(self) -> str | None:
        """Why the jobs that it reaches do not end, in two words; None if they may."""
        return None if self.state is None else english()(f"overview.state_{self.state}")

    @property
    def held(self) -> str:
        """What it holds up, such as `10 jobs failed, 33 wait`; "" if nothing."""
        return ", ".join(_counted_words(self.holds))

    @property
    def headline(self) -> str:
        """Both in one sentence, with the full stop."""
        held = self.held
        return f"{self.sentence}: {held}." if held else f"{self.sentence}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A list of the API to look into. It fills the field of Seen with its name."""

    path: str
    query: Mapping[str, object] = field(default_factory=dict)


def reads(now: float) -> Mapping[str, Read]:
    """The lists in which concerns are found, besides `/readyz`, by the fields of Seen."""
    by_sink = {"group_by": "sink", "newest": NEWEST, "limit": LIST}
    late = to_rfc3339(now - LATE_SECONDS)
    return {
        "sources": Read(path="/v1/sources"),
        "incidents": Read(path="/v1/incidents", query={"state": "open", "limit": LIST}),
        "needing": Read(path="/v1/connect-accounts", query={"state": "needs_reconnect", "limit": LIST}),
        "silent": Read(path="/v1/connect-accounts", query={"state": "cannot_send", "limit": LIST}),
        "removed": Read(path="/v1/connect-accounts", query={"state": "removed", "limit": LIST}),
        "subscriptions": Read(path="/v1/subscriptions", query={"limit": MAX_SUBSCRIPTIONS}),
        "intents": Read(path="/v1/intents", query={"limit": MAX_INTENTS}),
        "dead": Read(path="/v1/deliveries", query={"state": "dead", **by_sink}),
        "uncertain": Read(path="/v1/deliveries", query={"state": "uncertain", **by_sink}),
        "pending": Read(path="/v1/deliveries", query={"state": "pending", **by_sink}),
        "late": Read(path="/v1/deliveries", query={"state": "pending", "until": late, **by_sink}),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The items of the API's lists in which concerns are found. Lists that the caller may not read are empty.

    needing, silent, removed        sending accounts that need reconnecting, others that cannot send, and those that are
                                    not listed any more
    dead, uncertain, pending, late  deliveries by sink, counted among the newest ones; `least`: there may be more.
                                    late: pending for longer than LATE_SECONDS
    doubted                         the people of the first NAMES uncertain deliveries, if they were read
    """

    ready: Item
    sources: Sequence[Item] = ()
    incidents: Sequence[Item] = ()
    needing: Sequence[Item] = ()
    silent: Sequence[Item] = ()
    removed: Sequence[Item] = ()
    subscriptions: Sequence[Item] = ()
    intents: Sequence[Item] = ()
    dead: Sequence[Item] = ()
    uncertain: Sequence[Item] = ()
    pending: Sequence[Item] = ()
    late: Sequence[Item] = ()
    doubted: Sequence[str] = ()


def seen_in(ready: Item, answers: Mapping[str, Item | None]) -> Seen:
    """The items of the answers of `reads`. None: the caller may not read the list."""
    lists: dict[str, Any] = {
        name: [{**one, "least": answer["truncated"]} for one in answer["items"]]
        if "truncated" in answer
        else answer["items"]
        for name, answer in answers.items()
        if answer is not None
    }
    return Seen(ready=ready, **lists)


def concerns(seen: Seen, now: float, search_keys: Sequence[str] = ()) -> list[Concern]:
    """All concerns, the worst first. `search_keys`: of metadata, that name what a send is about, see `whom`."""
    found = [
        *_readiness(seen),
        *_intents(seen, search_keys),
        *_uncertain(seen),
        *_sources(seen),
        *_accounts(seen),
        *_incidents(seen),
        *_subscriptions(seen),
        *_dead(seen, now),
        *_late(seen),
        *_credits(seen),
    ]
    return sorted(found, key=lambda one: one.level)  # "bad" sorts before "warn", and the order above is kept


def first_sentence(found: Sequence[Concern], open_jobs: int) -> str:
    """The worst of these concerns, or that all is well."""
    if not found:
        return english()("overview.well", n=open_jobs)
    return found[0].headline if found[0].level == "bad" else english()("overview.calm", sentence=found[0].headline)


# --- the relay and its upstreams


def _readiness(seen: Seen) -> Iterator[Concern]:
    keyless = [_no_key_problem(seen, one) for one in seen.sources if one["state"] == "no_key"]
    for problem in seen.ready.get("problems", ()):
        if problem in keyless:
            continue  # the concern of the source covers it
        yield Concern(level="bad", key="node", values={"problem": problem}, turn=turn_of("node"), command="relay check")


def _no_key_problem(seen: Seen, source: Item) -> str | None:
    """The problem of the relay that says which setting has no key."""
    place = f"{source['source']}/{source['account']} has no API key"
    return next((one for one in seen.ready.get("problems", ()) if one.startswith(place)), None)


def _sources(seen: Seen) -> Iterator[Concern]:
    down: dict[str, list[Item]] = {}
    for one in seen.sources:
        if one["state"] == "down":
            down.setdefault(_title_of(one), []).append(one)
        elif one["state"] in ("unauthorized", "no_key"):
            default = one["account"] == "default"
            yield Concern(
                level="bad",
                key=f"{one['state']}{'' if default else '_of'}",
                values={"title": _title_of(one), "account": one["account"]},
                turn=turn_of("key"),
                holds=_some(("jobs_unseen", one["open_jobs"], False)),
                why=_no_key_problem(seen, one) or english()("overview.why_key", title=_title_of(one)),
                since=one["since"],
                acts=(*_opens(one, "make_key"), Act(key="put_key", path="/ui/sources")),
                command="relay sources list",
                reach=_reach(one),
                state=one["state"],
            )
    for title, accounts in down.items():
        yield Concern(
            level="bad",
            key="down",
            values={"title": title},
            turn=turn_of("down", title),
            holds=_some(("jobs_unseen", sum(one["open_jobs"] for one in accounts), False)),
            why=" ".join([english()("overview.why_down"), *_said(accounts)]),
            since=min((one["since"] for one in accounts if one["since"]), default=None),
            acts=(Act(key="source", path="/ui/sources"), *_opens(accounts[0])),
            command="relay sources list",
            reach=_reach(*accounts),
            state="down",
        )


def _said(sources: Sequence[Item]) -> Iterator[str]:
    """What a source said last, if it is words and no code."""
    for one in sources[:1]:
        message = str((one.get("problem") or {}).get("message") or "").strip(". ")
        if " " in message:
            yield english()("overview.said", words=message)


def _credits(seen: Seen) -> Iterator[Concern]:
    spent = {(one["source"], one["account"]) for one in seen.incidents if "credit" in (one["code"] or "")}
    for one in seen.sources:
        credits = one.get("credits")
        if not credits or not credits["low_since"] or (one["source"], one["account"]) in spent:
            continue
        left = credits["available"] or 0
        yield Concern(
            level="warn" if left >= 1 else "bad",
            key="credits",
            values={"title": _title_of(one), "account": one["account"]},
            turn=turn_of("credits"),
            holds=(("credits_left", int(left), False),),
            since=credits["low_since"],
            acts=(*_opens(one, "buy"), Act(key="source", path="/ui/sources")),
            command="relay sources list",
            reach=_reach(one) if left < 1 else Reach(),
            state="credits" if left < 1 else None,
        )


def _reach(*items: Item, **only: Any) -> Reach:
    """The jobs of these items' accounts."""
    return Reach(accounts=frozenset((one["source"], one["account"]) for one in items), **only)


def _opens(source: Item | None, key: str = "upstream") -> Iterator[Act]:
    """The link to the upstream, if its address is known. `key`: what to do there."""
    if source is not None and source.get("website"):
        yield Act(key=key, path=source["website"], values={"title": _title_of(source)})


def _source(seen: Seen, name: str | None) -> Item | None:
    return next((one for one in seen.sources if one["source"] == name), None)


def _title(seen: Seen, name: str | None) -> str:
    known = _source(seen, name)
    return _title_of(known) if known is not None else titled(name or "the upstream")


def _title_of(source: Item) -> str:
    """The title of a source; of a relay of another version, which may give none, its name as a title."""
    return str(source.get("title") or titled(source["source"]))


# --- jobs, and what they are sent from


def _intents(seen: Seen, search_keys: Sequence[str]) -> Iterator[Concern]:
    if count := len(seen.intents):
        least = count >= MAX_INTENTS
        sources = dict.fromkeys(one["source"] for one in seen.intents)
        yield Concern(
            level="bad",
            key="intents_least" if least else "intents",
            values={
                "n": count,
                "what": _send(seen.intents[0], search_keys),
                "title": " or ".join(_title(seen, one) for one in sources),
            },
            turn=turn_of("creates"),
            why=english()("overview.why_intents", n=count),
            since=None if least else min(one["sent_at"] for one in seen.intents),
            oldest=count > 1,
            acts=(
                *(act for one in sources for act in _opens(_source(seen, one), "look_up")),
                Act(key="settle", path="/ui/intents", scope=WRITES_JOBS),
            ),
            command="relay intents list",
            incident=next((one["id"] for one in seen.incidents if one["kind"] == "creates"), None),
            reach=_reach(*seen.intents, groups=frozenset(one["group"] for one in seen.intents if one["group"])),
        )


def _send(intent: Item, search_keys: Sequence[str]) -> str:
    """The send and its recipient, as far as they are known: `email to Ada Allen`."""
    channel = intent.get("channel") or ""
    kind = english().get(f"overview.send_{channel}", english()("overview.send", channel=titled(channel)).strip())
    return kind + whom({"data": intent}, search_keys)


def _incidents(seen: Seen) -> Iterator[Concern]:
    sinks = _broken(seen) | {one["subscription_id"] for one in seen.dead}
    covered = {one["trouble"] for one in (*seen.needing, *seen.silent, *_removed(seen))}
    for one in seen.incidents:
        if one["subscription"] in sinks or one["id"] in covered:
            continue  # the concern of the subscription, its dead deliveries or the account covers it
        if one["kind"] == "creates" and seen.intents:
            continue  # so does the one of unknown sends
        if one["kind"] == "jobs":
            yield _of_incident(seen, one)
        else:
            sink = _subscription(seen, one["subscription"])
            state = "paused" if sink is not None and sink["state"] == "paused" else "tried"
            yield Concern(
                level="bad",
                key="incident" if sink is None else "failing",
                values={"what": one["what"]}
                if sink is None
                else {"sink": subscription_name(sink), "trouble": trouble_words(one["code"])},
                turn=turn_of_incident(one),
                holds=() if sink is None else _waiting(seen, sink["id"]),
                why=one["fix"] if sink is None else english()(f"overview.why_{state}"),
                since=one["opened_at"],
                acts=(Act(key="incident", path=f"/ui/incidents/{one['id']}"),),
                command=f"relay incidents show {one['id']}",
                incident=one["id"],
            )


def _of_incident(seen: Seen, incident: Item) -> Concern:
    """Failed jobs with one cause. A fix that says `it` names the account."""
    name = name_of({**incident, "name": incident["connect_account_name"], "id": ""})
    fix = incident["fix"].replace("Reconnect it", f"Reconnect the {name}")
    opens = "upstream" if fix == incident["fix"] else "reconnect"
    return Concern(
        level="bad",
        key="incident",
        values={"what": fix},
        turn=turn_of_incident(incident),
        holds=_failed(incident, incident["likely"]),
        why=_cause(incident["what"]),
        since=incident["first_failure_at"],
        acts=(*_opens(_source(seen, incident["source"]), opens), _jobs_of(incident)),
        command=f"relay incidents show {incident['id']}",
        incident=incident["id"],
        reach=_reach(incident)
        if (spent := "credit" in (incident["code"] or ""))
        else _reach(incident, sender=incident["connect_account_id"], code=incident["code"]),
        state="credits" if spent else "account" if opens == "reconnect" and incident["connect_account_id"] else None,
    )


def _accounts(seen: Seen) -> Iterator[Concern]:
    for key, accounts in (("reconnect", seen.needing), ("silent", seen.silent), ("removed", _removed(seen))):
        for one in accounts:
            trouble = next((incident for incident in seen.incidents if incident["id"] == one["trouble"]), None)
            open_jobs = one["open_jobs"]
            yield Concern(
                level="bad" if open_jobs or trouble else "warn",
                key=key,
                values={"account": name_of(one), "title": _title(seen, one["source"])},
                turn=turn_of("account"),
                holds=_failed(trouble, open_jobs) if trouble else _some(("jobs_wait", open_jobs, False)),
                why=english()(f"overview.why_{key}" if open_jobs or trouble else "overview.why_idle"),
                since=min(one["since"], trouble["first_failure_at"]) if trouble else one["since"],
                acts=(
                    *_opens(_source(seen, one["source"]), key if key == "reconnect" else "upstream"),
                    _jobs_of(trouble) if trouble else Act(key="account", path=f"/ui/accounts#{anchor_of(one)}"),
                ),
                command=f"relay incidents show {trouble['id']}" if trouble else "relay accounts list",
                incident=one["trouble"],
                reach=_reach(one, sender=one["id"], code=trouble["code"] if trouble else None),
                state="account" if key == "reconnect" else key,
            )


def _removed(seen: Seen) -> Sequence[Item]:
    """The removed sending accounts that jobs wait for."""
    return [one for one in seen.removed if one["open_jobs"]]


def _cause(what: str) -> str:
    """The cause in the sentence of an incident. The numbers before it stand elsewhere."""
    cause = what.partition(": ")[2] or what
    return f"{cause[:1].upper()}{cause[1:]}."


def _failed(incident: Item, waiting: int | None) -> Sequence[Counted]:
    return (("jobs_failed", incident["failed"], False), *_some(("others_wait", waiting or 0, False)))


def _jobs_of(incident: Item) -> Act:
    return Act(key="failed_jobs", values={"n": incident["failed"]}, path=f"/ui/incidents/{incident['id']}")


# --- deliveries


def _uncertain(seen: Seen) -> Iterator[Concern]:
    if count := sum(one["count"] for one in seen.uncertain):
        sinks = list(dict.fromkeys(_sink(seen, one) for one in seen.uncertain))
        least = any(one["least"] for one in seen.uncertain)
        only = f"&subscription={seen.uncertain[0]['subscription_id']}" if len(seen.uncertain) == 1 else ""
        yield Concern(
            level="bad",
            key="uncertain_least" if least else "uncertain",
            values={"n": count, "sinks": enumerated(sinks) if len(sinks) <= NAMES else english()("overview.crms")},
            turn=turn_of("uncertain"),
            why=" ".join([english()("overview.why_uncertain", n=count), *_about(seen, count)]),
            since=min(one["oldest_at"] for one in seen.uncertain),
            oldest=count > 1,
            acts=(
                *_crms(seen),
                Act(key="settle", path=f"/ui/deliveries?view=list&state=uncertain{only}", scope=WRITES_SUBSCRIPTIONS),
            ),
            command="relay deliveries list --state uncertain",
        )


def _about(seen: Seen, count: int) -> Iterator[str]:
    """The people of the records in doubt, if they are known."""
    if seen.doubted:
        rest = [english()("overview.others_too")] if count > len(seen.doubted) else []
        yield english()("overview.why_about", n=count, people=enumerated([*seen.doubted, *rest]))


def _crms(seen: Seen) -> Iterator[Act]:
    """Links to the CRMs that may have the records, as far as their addresses are known."""
    doubted = {one["subscription_id"] for one in seen.uncertain}
    for one in seen.subscriptions:
        if one["id"] in doubted and (found := website_of(one["config"]["kind"], one["sink"] or "")):
            yield Act(key="upstream", path=found[1], values={"title": found[0]})


def _subscriptions(seen: Seen) -> Iterator[Concern]:
    for one in seen.subscriptions:
        id = one["id"]
        if one["state"] == "disabled" and is_unreadable(one["disabled_reason"]):
            yield _unreadable(seen, one, "template")
        elif one["state"] == "disabled":
            command = f"relay subscriptions resume {id}"
            yield _of_sink(seen, one, "switched_off", one["disabled_reason"], one["state_since"], command)
        elif one["state"] == "paused" and (one["state_reason"] or "").startswith(UNREADABLE):
            yield _unreadable(seen, one, "filters")
        elif is_failing(one) and not _only_in_doubt(seen, id):
            command = _retry(id) if _of(seen.dead, id) else f"relay subscriptions show {id}"
            yield _of_sink(seen, one, "failing", one["failing_reason"], one["failing_since"], command)


def _unreadable(seen: Seen, one: Item, key: Literal["filters", "template"]) -> Concern:
    """A subscription whose events wait because this version cannot read a part of it."""
    id, path, incident = one["id"], f"/ui/subscriptions/{one['id']}", _incident_of(seen, one["id"])
    act = Act(key="edit" if key == "filters" else "correct", path=f"{path}/edit", scope=WRITES_SUBSCRIPTIONS)
    return Concern(
        level="bad",
        key=key,
        values={"sink": subscription_name(one)},
        turn=ADMINISTRATOR,
        holds=_waiting(seen, id),
        why=f"{(one['state_reason'] or '').partition(': ')[2]}. {english()('overview.why_unreadable')}",
        since=one["state_since"],
        acts=(act, Act(key="subscription", path=path)),
        command=f"relay subscriptions edit {id} --{key} FILE",
        incident=None if incident is None else incident["id"],
    )


def _of_sink(
    seen: Seen, one: Item, key: Literal["failing", "switched_off"], reason: str | None, since: str, command: str
) -> Concern:
    """A subscription whose deliveries fail, or that was switched off because of that."""
    id, path, turn = one["id"], f"/ui/subscriptions/{one['id']}", turn_of_sink(reason)
    incident = _incident_of(seen, id)
    shows, scope = Act(key="subscription", path=path), WRITES_SUBSCRIPTIONS
    if (reason or "").partition(":")[0] == RENDER:
        return _fault(seen, one, since)
    acts = [shows]
    if turn == ADMINISTRATOR:
        acts.insert(0, Act(key="correct", path=f"{path}/edit", scope=scope))
    if key == "failing":
        acts.append(Act(key="pause", path=f"{path}/pause", posts=True, scope=scope))
    else:
        acts.append(Act(key="resume", path=f"{path}/resume", posts=True, scope=scope, after=True))
    probes = "" if key == "failing" else english()(f"overview.why_{'probed' if one.get('next_probe_at') else 'off'}")
    return Concern(
        level="bad",
        key=key,
        values={"sink": subscription_name(one), "trouble": trouble_words(reason)},
        turn=turn,
        holds=(*_given_up(seen, id), *_waiting(seen, id)),
        why=" ".join(filter(None, (advice_of(reason), probes))) or None,
        since=since,
        acts=(*acts, *_send_again(seen, id, after=True)),
        command=command,
        incident=None if incident is None else incident["id"],
        every=not one.get("filters"),
    )


def _fault(seen: Seen, subscription: Item, since: str) -> Concern:
    """Events of which the relay cannot make the message of a subscription."""
    id, incident = subscription["id"], _incident_of(seen, subscription["id"])
    count = sum(one["count"] for one in (*_of(seen.dead, id), *_of(seen.pending, id)))
    return Concern(
        level="bad",
        key="fault",
        values={"n": count or 1, "sink": subscription_name(subscription)},
        turn=ADMINISTRATOR,
        why=english()("overview.why_fault"),
        since=since,
        acts=(
            Act(key="report", path=ISSUES),
            Act(key="deliveries", path=f"/ui/deliveries?view=list&state=dead&subscription={id}"),
        ),
        command="relay doctor --bundle",
        incident=None if incident is None else incident["id"],
    )


def _incident_of(seen: Seen, id: str) -> Item | None:
    return next((one for one in seen.incidents if one["subscription"] == id), None)


def _dead(seen: Seen, now: float) -> Iterator[Concern]:
    covered = _broken(seen)
    for one in seen.dead:
        id = one["subscription_id"]
        if id in covered:
            continue
        recent, incident = now - from_rfc3339(one["newest_at"]) < RECENT_SECONDS, _incident_of(seen, id)
        known = _subscription(seen, id)
        if incident is not None and known is not None and (incident["code"] or "").startswith(RENDER):
            yield _fault(seen, known, one["oldest_at"])
            continue
        yield Concern(
            level="bad" if recent or incident else "warn",
            key="send_again_least" if one["least"] else "send_again",
            values={"n": one["count"], "sink": _sink(seen, one)},
            turn=turn_of("given_up"),
            why=None if incident is None else advice_of(incident["code"]),
            since=one["oldest_at"],
            oldest=one["count"] > 1,
            acts=(
                *_send_again(seen, id),
                Act(key="deliveries", path=f"/ui/deliveries?view=list&state=dead&subscription={id}"),
            ),
            command=_retry(id),
            incident=None if incident is None else incident["id"],
        )


def _late(seen: Seen) -> Iterator[Concern]:
    covered = {one["id"] for one in seen.subscriptions if one["state"] != "enabled" or one["failing_since"]}
    for one in seen.late:
        id = one["subscription_id"]
        if id not in covered:
            yield Concern(
                level="warn",
                key="late",
                values={"sink": _sink(seen, one)},
                turn=turn_of("late"),
                holds=(("events_wait", one["count"], one["least"]),),
                since=one["oldest_at"],
                oldest=one["count"] > 1,
                acts=(Act(key="deliveries", path=f"/ui/deliveries?state=pending&subscription={id}"),),
                command=f"relay deliveries list --state pending --subscription {id}",
            )


def _only_in_doubt(seen: Seen, id: str) -> bool:
    """True if no delivery failed but those whose fate is unknown: the concern about these covers it."""
    return bool(_of(seen.uncertain, id)) and not _of(seen.dead, id) and not _of(seen.pending, id)


def _send_again(seen: Seen, id: str, *, after: bool = False) -> Iterator[Act]:
    """Leads to the page that counts the deliveries given up, and sends them again."""
    for one in _of(seen.dead, id):
        key = "send_again_least" if one["least"] else "send_again"
        path = f"/ui/deliveries/retry?state=dead&subscription={id}"
        yield Act(key=key, values={"n": one["count"]}, path=path, scope=WRITES_SUBSCRIPTIONS, after=after)


def _retry(id: str) -> str:
    return f"relay deliveries retry --state dead --subscription {id}"


def _given_up(seen: Seen, id: str) -> Sequence[Counted]:
    return [("events_given_up", one["count"], one["least"]) for one in _of(seen.dead, id)]


def _waiting(seen: Seen, id: str) -> Sequence[Counted]:
    others = bool(_of(seen.dead, id))
    return [("others_wait" if others else "events_wait", one["count"], one["least"]) for one in _of(seen.pending, id)]


def _of(groups: Sequence[Item], id: str) -> Sequence[Item]:
    return [one for one in groups if one["subscription_id"] == id]


def _broken(seen: Seen) -> set[str]:
    """Ids of subscriptions that are disabled or failing."""
    return {one["id"] for one in seen.subscriptions if one["state"] == "disabled" or is_failing(one)}


def _subscription(seen: Seen, id: str | None) -> Item | None:
    return next((one for one in seen.subscriptions if one["id"] == id), None)


def _sink(seen: Seen, group: Item) -> str:
    return subscription_name(_subscription(seen, group["subscription_id"]), group)


# --- numbers


def _some(*counted: Counted) -> Sequence[Counted]:
    """Those that are not zero."""
    return [one for one in counted if one[1]]


def _counted_words(holds: Sequence[Counted]) -> Iterator[str]:
    for key, count, least in holds:
        yield english()(f"overview.holds_{key}", n=count, least=english()("overview.at_least") if least else "")
