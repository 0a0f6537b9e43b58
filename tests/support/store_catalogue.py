"""Every hot statement of the store by name, and SQL that fills tables, for the tests of query plans."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from relay.core.incidents import Incident
from relay.store import accounts, events, figures, incidents, published, upkeep
from relay.store.access import audit, ciphertexts, sessions
from relay.store.deliveries import (
    attempt_results,
    bundles,
    cancellation,
    claims,
    deliveries,
    delivery_pages,
    memories,
    past_events,
    pulls,
    replay_statements,
    replays,
)
from relay.store.deliveries import counts as delivery_groups
from relay.store.jobs import erasure, group_work, intents, job_pages, job_search, jobs, learned, registrations
from relay.store.jobs import groups as job_groups
from relay.store.outbox import incident_recorder, ordering
from relay.store.outbox import recording as outbox
from relay.store.subscriptions import handshakes, secrets, subscriptions
from tests.support.store_kit import NOW

FAILED = "ai.revor.job.failed"


def is_page(statement: str) -> bool:
    """Whether a statement is an ordered page."""
    return "ORDER BY" in statement and "LIMIT" in statement


@dataclass(frozen=True)
class Case:
    """One statement of the catalogue."""

    name: str
    statement: Any
    walks: bool = False
    sorts: bool = False
    harmless: tuple[str, ...] = ()
    postgresql: Any = None
    """PostgreSQL's statement, if it is another one."""


def pages_of_jobs() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "status": {"status": "running"},
        "open": {"open": True},
        "closed": {"open": False},
        "source": {"source": "revor"},
        "account": {"account": "default"},
        "source and account": {"source": "revor", "account": "default"},
        "all of them": {"status": "running", "open": True, "source": "revor", "account": "default"},
        "status and closed": {"status": "failed", "open": False},
        "group": {"group": "group 7"},
        "group and account": {"group": "group 7", "source": "revor", "account": "default"},
        "channel": {"channel": "email"},
        "connect account": {"connect_account": "acc_5"},
        "metadata": {"metadata": ("deal", "value 5")},
        "since and until": {"since": NOW, "until": NOW + 1},
        "channel and since": {"channel": "email", "since": NOW},
        "metadata and until": {"metadata": ("deal", "value 5"), "until": NOW},
        "metadata, status and closed": {"metadata": ("deal", "value 5"), "status": "failed", "open": False},
        "everything": {
            **{"status": "running", "open": True, "source": "revor", "account": "default", "group": "group 7"},
            **{"channel": "email", "connect_account": "acc_5", "metadata": ("deal", "value 5"), "since": NOW},
        },
    }
    for name, given in filters.items():
        wanted = job_pages.JobFilter(**given)
        drivers = job_pages.drivers_of(wanted)
        for before in (None, "job_01"):
            where = "first page" if before is None else "cursor"
            for driver in drivers or [()]:
                along = f"jobs by {name}, along {' and '.join(driver) or 'uid'}, {where}"
                made = job_pages.page_statement(51, before, wanted, driver, None if len(given) < 2 else "job_00")
                # with several filters at most `SCANNED` rows, which may be sorted if they are few
                yield Case(along, made, walks=not driver, sorts=len(drivers) > 1)
                if before is None:
                    counted = job_pages.count_statement(1_001, wanted, driver, None if len(given) < 2 else "job_00")
                    yield Case(f"{along}: count", counted, walks=not driver, sorts=len(drivers) > 1)
                if len(drivers) > 1:
                    yield Case(f"{along}: how far", job_pages.end_statement(wanted, driver, before))


def searches_of_jobs() -> Iterator[Case]:
    yield Case("search: ids", job_search.IDS_FROM, harmless=("SCAN near",))
    yield Case("search: ids of the relay", job_search.UIDS_FROM)
    yield Case("search: values", job_search.VALUES_FROM)
    wanted = job_pages.JobFilter(uids=("job_10000501", "job_10000502"), status="failed")
    yield Case("search: of these ids", job_pages.page_statement(51, "job_2", wanted, ("uids",)), sorts=True)
    for place in (None, ("revor", "default")):
        # the newest groups, and all connect accounts, which are a thousand for each account at most
        yield Case(f"search: groups of {place}", job_search.groups_statement(place), walks=place is None)
        statement = job_search.connect_accounts_statement(place)
        yield Case(f"search: sending accounts of {place}", statement, walks=True, sorts=place is not None)


def group_pages() -> Iterator[Case]:
    """Of finished groups: along the table, which has few others."""
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "open": {"state": "open"},
        "finished": {"state": "finished"},
        "source": {"source": "revor"},
        "account": {"account": "default"},
        "a bound token": {"within": ("revor", "default")},
    }
    for name, given in filters.items():
        for before in (None, "grp_01"):
            made = job_groups.page_statement(51, before, **{"state": None, "source": None, "account": None, **given})
            walks = name in ("nothing", "finished")
            yield Case(f"groups by {name}, {'first page' if before is None else 'cursor'}", made, walks=walks)


def event_pages() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "type": {"types": (FAILED,)},
        "types": {"types": (FAILED, "ai.revor.webset.failed", "ai.revor.job.succeeded")},
        "subject": {"subject": "a"},
        "since": {"since": NOW},
        "until": {"until": NOW},
        "since and until": {"since": NOW, "until": NOW},
        "type and since": {"types": (FAILED,), "since": NOW},
        "types and times": {"types": (FAILED, "ai.revor.job.succeeded"), "since": NOW, "until": NOW + 9},
        "subject, type and until": {"subject": "a", "types": (FAILED,), "until": NOW},
        "subject and types": {"subject": "a", "types": (FAILED, "ai.revor.webset.failed")},
        "owner": {"owner": "revor/a"},
        "owner and since": {"owner": "revor/a", "since": NOW},
        "owner and type": {"owner": "revor/a", "types": (FAILED,)},
        "owner and types": {"owner": "revor/a", "types": (FAILED, "ai.revor.webset.failed")},
        "owner and subject": {"owner": "revor/a", "subject": "a"},
    }
    for name, given in filters.items():
        wanted = events.EventFilter(**given)
        for before in (None, (NOW, "evt_1")):
            where = "first page" if before is None else "cursor"
            for driver in events.drivers_of(wanted):
                along = f"events by {name}, along {driver or 'time'}, {where}"
                is_merged = driver == "types" and len(wanted.types) > 1
                yield Case(along, events.page_statement(51, before, wanted, driver), walks=not given, sorts=is_merged)
                if driver and not is_merged:
                    yield Case(f"{along}: how far", events.end_statement(wanted, driver, before))


def audit_pages() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "time": {"since": NOW, "until": NOW + 1},
        "actor": {"actor": "ops"},
        "action": {"action": "tokens.create"},
    }
    for name, given in filters.items():
        for before in (None, "aud_01"):
            values = {"since": None, "until": None, "actor": None, "action": None, **given}
            made = audit.page_statement(51, before, **values)
            yield Case(
                f"audit by {name}, {'first page' if before is None else 'cursor'}", made, walks=name == "nothing"
            )


def connect_account_pages() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "state": {"state": "needs_reconnect"},
        "account": {"source": "revor", "account": "default"},
    }
    for name, given in filters.items():
        for before in (None, "acc_01"):
            made = accounts.page_statement(51, before, **given)
            case = f"connect accounts by {name}, {'first page' if before is None else 'cursor'}"
            # by state: few have another one than ok; by account: a thousand at most, sorted
            yield Case(case, made, walks=name != "account", sorts=name == "account")


def pages_of_deliveries() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "pending": {"state": "pending"},
        "dead": {"state": "dead"},
        "cancelled": {"state": "cancelled"},
        "uncertain": {"state": "uncertain"},
        "subscription": {"subscription_id": "sub_1"},
        "subscription and dead": {"subscription_id": "sub_1", "state": "dead"},
        "subscription and pending": {"subscription_id": "sub_1", "state": "pending"},
        "delivered": {"state": "delivered"},
        "event": {"event_id": "evt_1"},
        "owner": {"owner": "revor/a"},
        "owner and dead": {"owner": "revor/a", "state": "dead"},
        "reason": {"reason": "http_500"},
        "since and until": {"since": NOW, "until": NOW + 1},
        "subscription, dead and since": {"subscription_id": "sub_1", "state": "dead", "since": NOW},
        "everything": {
            **{"state": "dead", "subscription_id": "sub_1", "reason": "http_500", "since": NOW, "until": NOW + 1},
        },
    }
    for name, given in filters.items():
        wanted = delivery_pages.DeliveryFilter(**given)
        drivers = delivery_pages.drivers_of(wanted)
        for before in (None, "dlv_01"):
            where = "first page" if before is None else "cursor"
            for driver in drivers:
                along = f"deliveries by {name}, along {driver or 'id'}, {where}"
                end = None if len(given) < 2 and driver else "dlv_00"
                made = delivery_pages.page_statement(51, before, wanted, driver, end)
                # one row for each subscription at most; with several filters at most `SCANNED`
                yield Case(along, made, walks=driver == "", sorts=name == "event" or len(given) > 1)
                if driver != "event_id" and len(given) > 1:
                    yield Case(
                        f"{along}: how far", delivery_pages.end_statement(wanted, driver, before), walks=not driver
                    )


def groups_of_deliveries() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "pending": {"state": "pending"},
        "dead": {"state": "dead"},
        "cancelled": {"state": "cancelled"},
        "uncertain": {"state": "uncertain"},
        "delivered": {"state": "delivered"},
        "subscription": {"subscription_id": "sub_1"},
        "subscription and dead": {"subscription_id": "sub_1", "state": "dead"},
        "subscription and pending": {"subscription_id": "sub_1", "state": "pending"},
        "event": {"event_id": "evt_1"},
        "owner": {"owner": "revor/a"},
        "owner and dead": {"owner": "revor/a", "state": "dead"},
        "owner and event": {"owner": "revor/a", "event_id": "evt_1"},
        "reason": {"reason": "http_500"},
        "dead since": {"state": "dead", "since": NOW, "until": NOW + 1},
    }
    for name, given in filters.items():
        wanted = delivery_pages.DeliveryFilter(**given)
        walks = name in ("nothing", "delivered", "reason")
        for columns in (("reason",), ("reason", "subscription_id", "day")):
            made = delivery_groups.groups_statement(columns, wanted)
            # sorts the scanned rows, which are found by index
            yield Case(f"groups of deliveries by {name}, {len(columns)}", made, walks=walks, sorts=True)
        counted = delivery_groups.scanned_statement(wanted)
        yield Case(f"groups of deliveries by {name}: how many", counted, walks=walks)


def retries_of_deliveries() -> Iterator[Case]:
    for state in ("pending", "dead", "cancelled", "uncertain", "delivered"):
        for subscription_id in (None, "sub_1"):
            for owner in (None, "revor/a"):
                wanted = delivery_pages.DeliveryFilter(state, subscription_id, owner=owner)
                for of_events in (True, False):
                    made = delivery_groups.retried_statement(wanted, of_events=of_events)
                    name = f"retry {state} deliveries of {subscription_id} and {owner}, by events {of_events}: count"
                    # nearly all rows are delivered, so their page is a page of the table
                    yield Case(name, made, walks=state == "delivered" and subscription_id is None and owner is None)


def counts_of_deliveries() -> Iterator[Case]:
    for owner in (None, "revor/a"):
        for subscription_id in (None, "sub_1"):
            name = f"skipped deliveries by {owner} and {subscription_id}"
            yield Case(name, deliveries.skipped_statement(subscription_id, owner))
        yield Case(f"uncertain deliveries by {owner}", deliveries.uncertain_statement(owner))


def intent_pages() -> Iterator[Case]:
    for name, unknown in (("later", intents.NEW_UNKNOWN), ("earlier", intents.OLD_UNKNOWN)):
        for before in (None, "int_10000700"):
            made = intents.page_statement(unknown, before)
            yield Case(f"intents, the {name} ones, {'first page' if before is None else 'cursor'}", made)


INCIDENT = Incident(
    id="inc_1",
    digest="digest 1",
    kind="jobs",
    source="revor",
    account="default",
    connect_account_id="acc_1",
    code="code",
    first_failure_at=NOW,
    last_failure_at=NOW + 60,
)


def incident_pages() -> Iterator[Case]:
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "open": {"state": "open"},
        "closed": {"state": "closed"},
        "source": {"source": "revor"},
        "account": {"account": "default"},
        "source and account": {"source": "revor", "account": "default"},
        "owner": {"owner": "revor/default"},
        "owner and open": {"owner": "revor/default", "state": "open"},
    }
    for name, given in filters.items():
        for before in (None, "inc_01"):
            values = {"state": None, "source": None, "account": None, **given}
            made = incidents.page_statement(51, before, **values)
            yield Case(f"incidents by {name}, {'first page' if before is None else 'cursor'}", made)
    for before in (None, (NOW, "job_1")):
        made = incidents.jobs_statement(INCIDENT, 51, before)
        yield Case(f"jobs of an incident, {'first page' if before is None else 'cursor'}", made)


def replay_pages() -> Iterator[Case]:
    for owner in (None, "revor/default"):
        for before in (None, "rpl_01"):
            made = replays.page_statement(51, before, owner)
            yield Case(f"replays of {owner or 'all'}, {'first page' if before is None else 'cursor'}", made, walks=True)


RUNNING_REPLAYS = ("SCAN replays USING INDEX ix_replays_running",)  # a hundred at most
CATALOGUE = (
    *(Case(f"rotation: {one.table}", one.stale, walks=True) for one in ciphertexts.sealed_columns()),
    Case("claim: backlog", claims.PENDING_SUBSCRIPTIONS),
    Case("claim: take", claims.TAKE, sorts=True),  # at most three times as many as requested
    Case("claim: with event", claims.WITH_EVENT),
    Case("bundle: due heads", bundles.DUE_HEADS, sorts=True),  # those of one bundle
    Case("bundle: lock due heads", bundles.LOCK_HEADS, sorts=True),
    Case("bundle: open deliveries of jobs", bundles.OPEN_OF_JOBS, sorts=True),
    Case("bundle: open deliveries of jobs, manual", bundles.MANUAL_OPEN_OF_JOBS, sorts=True),
    Case("bundle: lock followers", bundles.LOCK_FOLLOWERS),
    Case("bundle: lease", bundles.LEASE),
    Case("pull: has a lease ended", pulls.ANY_ENDED),
    Case("pull: ended leases", pulls.LOCK_ENDED),
    Case("pull: subscriptions with ended leases", pulls.WITH_ENDED, sorts=True),  # of what is under a lease
    Case("pull: lock what is acknowledged", pulls.LOCK_ACKED),
    Case("pull: lock what is given back", pulls.LOCK_NACKED, sorts=True),  # those of one request
    Case("pull: open ones", pulls.OPEN_PULLED),
    Case("pull: give back", pulls.GIVE_BACK),
    Case("pull: lag", pulls.LAG, sorts=True),  # the distinct ones of those counted
    Case("pull: arrivals", pulls.ARRIVALS),
    Case("pull: subscriptions", pulls.PULLED),
    Case("probe: turn", claims.PROBE_TURN),
    Case("probe: next turn", claims.PROBE_AT),
    Case("probe: take the oldest", claims.TAKE_OLDEST, sorts=True),  # three hundred at most
    Case("drain: expedite", claims.EXPEDITE),
    Case("failing often: demote", claims.DEMOTE),
    Case("end attempts: held", attempt_results.HELD),
    Case("end attempts: made before", attempt_results.RECORDED),
    Case("end attempts: count held", attempt_results.COUNT_HELD),
    Case("end attempts: write attempt", attempt_results.WRITE_ATTEMPT),
    Case("end attempts: follow-on claims", attempt_results.FOLLOW_ON_CLAIMS),
    Case("end attempts: update deliveries", attempt_results.UPDATE_DELIVERIES),
    Case("end attempts: promote", attempt_results.PROMOTE),
    Case("end attempts: promote, manual", attempt_results.PROMOTE_MANUAL),
    Case("end attempts: head", attempt_results.HEAD),
    Case("end attempts: head, manual", attempt_results.HEAD_MANUAL),
    Case("end attempts: disable", attempt_results.DISABLE),
    Case("end attempts: stay disabled", attempt_results.STAY_DISABLED),
    Case("end attempts: recover", attempt_results.RECOVER),
    Case("release", deliveries.RELEASE),
    Case("release all", deliveries.RELEASE_ALL),
    Case("attempts of a delivery", deliveries.ATTEMPTS_OF_DELIVERY),
    Case("measure: pending", deliveries.PENDING),
    Case("measure: oldest pending", deliveries.OLDEST_PENDING),
    Case("outbox: open pairs", outbox.OPEN_OF_JOBS),
    Case("outbox: open pairs, manual", outbox.OPEN_MANUAL_OF_JOBS),
    Case("outbox: callbacks", outbox.CALLBACKS_OF_JOBS),
    Case("outbox: events", outbox.INSERT_EVENT),
    Case("outbox: deliveries", outbox.INSERT_DELIVERY),
    Case("outbox: event of an incident", outbox.EVENT_OF_INCIDENT),
    Case(
        "register: existing by external id",
        registrations.BY_EXTERNAL_IDS["sqlite"],
        postgresql=registrations.BY_EXTERNAL_IDS["postgresql"],
    ),
    Case("register: insert plain", registrations.INSERT_PLAIN),
    Case("register: insert", registrations.INSERT_JOB),
    Case("register: captured recipient", registrations.SET_CAPTURED),
    Case("register: address", registrations.SET_STATUS_URL),
    Case("address of a job", jobs.STATUS_URL),
    Case("register: by uid", registrations.BY_UID),
    Case("register: searchable values", job_pages.INSERT_SEARCH),
    Case("register: searchable values of before", job_pages.DELETE_SEARCH),
    Case("register: events of a job", registrations.EVENTS_OF_JOB),
    Case("record: states", jobs.STATES),
    Case("record: advance, seen", jobs.ADVANCE_SEEN),
    Case("record: advance, unseen", jobs.ADVANCE_UNSEEN),
    Case("note", jobs.NOTE),
    Case("get: by uid", job_pages.BY_UIDS["sqlite"], postgresql=job_pages.BY_UIDS["postgresql"]),
    Case("find", jobs.BY_EXTERNAL_ID),
    Case("open after", jobs.OPEN_AFTER),
    Case("opened since", jobs.OPENED_SINCE),
    Case("accounts past deadline", jobs.ACCOUNTS_PAST_DEADLINE),
    Case("past deadline", jobs.PAST_DEADLINE),
    Case("stream: after a position", events.AFTER, postgresql=events.AFTER_XID),
    Case("stream: is a later event hidden", events.AFTER, postgresql=events.HIDDEN_AFTER_XID),
    Case("stream: resumed at a restored event", events.AFTER, postgresql=events.FIRST_RESTORED_SINCE),
    Case("start: events of another server", events.AFTER, postgresql=events.ANY_FROM_ELSEWHERE),
    Case("stream: of a job", events.OF_JOB_AFTER),
    Case("event by id", events.BY_ID),
    Case("past events: the first", past_events.FIRST_POSITION),
    Case("past events: the last", past_events.LAST_POSITION),
    Case("subscription: state", subscriptions.SET_STATE),
    Case("subscription: forget failures", subscriptions.FORGET_FAILURES),
    Case("subscription: probe now", secrets.PROBE_NOW),
    Case("subscription: failing", subscriptions.FAILING),
    Case("credential: turn", secrets.SET_REFRESH_UNTIL),
    Case("handshake: pending", handshakes.PENDING),
    Case("handshake: take turn", handshakes.TAKE_TURN),
    Case("handshake: end turn", handshakes.END_TURN),
    Case("handshake: await consent", handshakes.AWAIT_CONSENT),
    Case("remove: heads", cancellation.HEADS_OF_SUBSCRIPTION),
    Case("remove: lock heads", cancellation.LOCK_HEADS),
    Case("remove: cancel heads", cancellation.CANCEL_HEADS),
    Case("remove: cancel followers", cancellation.CANCEL_FOLLOWERS),
    Case("callback: of URLs", subscriptions.BY_DIGEST),
    Case("callback: count those of jobs", subscriptions.COUNT_CALLBACKS),
    Case("remove: callback links", subscriptions.DELETE_CALLBACK_LINKS),
    Case("manual: block later ones", ordering.BLOCK_LATER_MANUAL),
    Case("manual: count those ahead", ordering.AHEAD_MANUAL),
    Case("ordering: jobs of a subscription", ordering.JOBS_OF_SUBSCRIPTION),
    Case("ordering: unblock all", ordering.UNBLOCK_ALL),
    Case("ordering: block followers", ordering.BLOCK_FOLLOWERS),
    Case("replay: end of a slice", replay_statements.END_OF_SLICE),
    Case("replay: count events", replay_statements.COUNT_EVENTS),
    Case("replay: events for filters", replay_statements.LIST_EVENTS),
    Case("replay: bodies of events", replay_statements.BODIES),
    Case("replay: count deliveries", replay_statements.COUNT_DELIVERIES),
    Case("replay: slice", replay_statements.SLICE),
    Case("replay: deliveries of events", replay_statements.DELIVERIES_OF),
    Case("replay: reopen", replay_statements.REOPEN),
    Case("replay: add", replay_statements.ADD),
    Case("replay: join what is open", replay_statements.JOIN_OPEN),
    Case("replay: progress", replay_statements.PROGRESS),
    Case("replay: count ended", replay_statements.COUNT_ENDED),
    Case("replay: take lease", replay_statements.TAKE_LEASE),
    Case("replay: save progress", replay_statements.SAVE_PROGRESS),
    Case("replay: end", replay_statements.END),
    Case("replay: free all", replay_statements.FREE_ALL, harmless=RUNNING_REPLAYS),
    Case("replay: running", replay_statements.RUNNING),
    Case("replay: number of running", replay_statements.RUNNING_OWNERS, harmless=RUNNING_REPLAYS),
    Case("replay: pairs to return", replay_statements.PAIRS_TO_RETURN, sorts=True),  # as many as are open
    Case("replay: return unsent", replay_statements.RETURN_UNSENT),
    Case("replay: detach", replay_statements.DETACH),
    Case("forecast: open jobs of a group", group_work.OPEN_OF_GROUP),
    Case("forecast: next channel", group_work.NEXT_CHANNEL),
    Case("forecast: first of a channel", group_work.FIRST_OF_CHANNEL),
    Case("forecast: last of a channel", group_work.LAST_OF_CHANNEL),
    Case("forecast: unscheduled of a channel", group_work.UNSCHEDULED_OF_CHANNEL),
    Case("forecast: without a channel", group_work.WITHOUT_CHANNEL),
    Case("forecast: open jobs of the account", group_work.OPEN_OF_ACCOUNT),
    Case("forecast: ended jobs of a group", group_work.ENDED_OF_GROUP),
    Case("forecast: ended jobs of the account", group_work.ENDED_OF_ACCOUNT, walks=True),
    Case("forecast: accounts of jobs", group_work.NEEDED),
    Case("group: ends over time", job_groups.COUNT_ENDS),
    Case("forecast: health", group_work.HEALTH),
    Case("group: insert", job_groups.INSERT_GROUP),
    Case(
        "group: lock",
        job_groups.LOCK_GROUPS["sqlite"],
        postgresql=job_groups.LOCK_GROUPS["postgresql"],
    ),
    Case("group: update", job_groups.UPDATE_GROUP),
    Case("group: rounds of jobs", job_groups.SET_ROUNDS),
    Case("group: delete an empty one", job_groups.DELETE_EMPTY),
    Case("groups: by name", job_groups.BY_NAME, sorts=True),  # of the few accounts that have one of this name
    Case("groups: due", job_groups.DUE),
    Case("heads", upkeep.OPEN_SLICE),
    Case("heads: pending subscriptions", upkeep.PENDING_SUBSCRIPTIONS),
    Case("retention: old events", upkeep.OLD_EVENTS),
    Case("retention: deliveries of events", upkeep.LOCK_DELIVERIES),
    Case("retention: attempts of deliveries", upkeep.DELETE_ATTEMPTS_OF_DELIVERIES),
    Case("retention: deliveries", upkeep.DELETE_DELIVERIES),
    Case("retention: events", upkeep.DELETE_EVENTS),
    Case("retention: streams", upkeep.DELETE_OLD_STREAMS),
    Case("publish: known ones", published.OF_IDENTITIES),
    Case("retention: old attempts", upkeep.DELETE_OLD_ATTEMPTS, harmless=("SCAN attempts",)),  # from the oldest on
    Case("retention: old jobs", upkeep.OLD_JOBS),
    Case("retention: jobs", upkeep.DELETE_JOBS),
    Case("retention: old groups", upkeep.OLD_GROUPS),
    Case("retention: groups", upkeep.DELETE_GROUPS),
    Case("retention: callbacks of jobs", upkeep.DELETE_CALLBACKS_OF_GONE_JOBS),
    Case("retention: searchable values of jobs", job_pages.DELETE_SEARCH_OF_GONE_JOBS),
    Case("retention: keys", upkeep.DELETE_OLD_KEYS),
    Case("retention: memories", upkeep.DELETE_OLD_MEMORIES),
    Case("retention: replays", upkeep.DELETE_OLD_REPLAYS),
    Case("retention: intents", upkeep.DELETE_OLD_INTENTS),
    Case("retention: removed connect accounts", upkeep.DELETE_REMOVED_ACCOUNTS),
    Case("retention: connect accounts", upkeep.DELETE_LISTED_ACCOUNTS),
    Case("connect accounts: known", accounts.OF_ACCOUNT),
    Case("connect accounts: listed", accounts.MARK_LISTED),
    Case("connect accounts: keep", accounts.KEEP),
    Case("accounts: mark low credits", accounts.MARK_LOW),
    Case("connect accounts: forget", accounts.FORGET),
    Case("retention: secrets", upkeep.DELETE_OLD_SECRETS),
    Case("retention: sessions", upkeep.DELETE_OLD_SESSIONS),
    Case("erase: jobs", erasure.JOBS_NAMED, sorts=True),
    Case("erase: events of a job", erasure.EVENTS_NAMED, sorts=True, harmless=("SCAN named",)),
    Case("erase: events about a subject", erasure.EVENTS_ABOUT),
    Case("erase: of a job", erasure.EVENTS_OF_JOB),
    Case("erase: reports", erasure.REPORTS_SLICE, sorts=True, harmless=("SCAN slice",)),
    Case("erase: reports of a create", erasure.REPORTS_OF_CREATE),
    Case("erase: where events went", erasure.SUBSCRIPTIONS_OF, sorts=True),
    Case("erase: lock events", erasure.LOCK_EVENTS),
    Case("erase: open deliveries", erasure.OPEN_PAIRS, sorts=True),
    Case("erase: attempts", erasure.DELETE_ATTEMPTS),
    Case("erase: deliveries", erasure.DELETE_DELIVERIES),
    Case("erase: events", erasure.DELETE_EVENTS),
    Case("session: make room", sessions.DELETE_OLDEST),
    Case("session: take a link", sessions.TAKE_LINK),
    Case("session: end", sessions.END_SESSION),
    Case("intent: begin", intents.BEGIN),
    Case("intent: end", intents.END),
    Case("intent: settle", intents.SETTLE_REPEATS),
    Case("intent: unknown", intents.UNKNOWN),
    Case("intent: dismiss", intents.DISMISS),
    Case("intent: mark reported", intents.MARK_REPORTED),
    Case("intent: resolve", intents.RESOLVE),
    Case("intents: unreported, lost", intents.UNREPORTED_LOST),
    Case("intents: unreported, cut off", intents.UNREPORTED_CUT_OFF),
    Case("intents: count", intents.COUNT_UNKNOWN),
    Case("memory: make", memories.MAKE_MEMORY),
    Case("memory: take", memories.TAKE_MEMORY),
    Case("memory: keep", memories.KEEP_MEMORY),
    Case("memory: end turns", memories.END_TURNS),
    Case("memory: forget a subscription's", memories.FORGET_SUBSCRIPTION),
    Case("memory: lock those to forget", memories.LOCK_KEYS, sorts=True),  # of one job, or of a hundred events
    Case("memory: forget those of groups", memories.FORGET_KEYS),
    Case("memory: of an event", memories.MEMORY),
    Case("memory: settle", memories.WRITE_MEMORY),
    Case("settle", deliveries.SETTLE),
    Case("figures: add", figures.ADD),
    Case("figures: series", figures.SERIES, sorts=True),  # of a subscription that is one of several
    Case("figures: own subscriptions", figures.OWN_SUBSCRIPTIONS),
    Case("figures: an own subscription", figures.OWN_SUBSCRIPTION),
    Case("retention: figures", upkeep.DELETE_OLD_FIGURES),
    Case("retention: figures of days to come", upkeep.DELETE_FUTURE_FIGURES),
    Case("learned: save", learned.SAVE),
    Case("learned: find", learned.FIND),
    Case("learned: load", learned.LOAD, sorts=True),  # the classes of one source, at the start of a node
    Case(
        "incidents: live",
        incident_recorder.LIVE["sqlite"],
        postgresql=incident_recorder.LIVE["postgresql"],
    ),
    Case("incidents: save", incident_recorder.SAVE),
    Case(
        "incidents: open of accounts",
        incident_recorder.OPEN_OF_ACCOUNTS["sqlite"],
        postgresql=incident_recorder.OPEN_OF_ACCOUNTS["postgresql"],
    ),
    Case("incidents: count", incident_recorder.COUNT_LIVE),
    Case("incidents: count those of sinks", incident_recorder.COUNT_UNOWNED),
    Case("incidents: forget", incident_recorder.FORGET_OLDEST),
    Case("incidents: forget one of a sink", incident_recorder.FORGET_UNOWNED),
    Case("incidents: names of accounts", incident_recorder.ACCOUNT_NAMES),
    Case("incidents: open jobs of accounts", incident_recorder.COUNT_OPEN_JOBS),
    Case("incidents: due", incidents.DUE),
    Case("incidents: success since", incidents.SUCCEEDED_SINCE),
    Case("incidents: delivery since", incidents.DELIVERED_SINCE),
    Case("retention: incidents", upkeep.DELETE_OLD_INCIDENTS),
    *incident_pages(),
    *replay_pages(),
    Case("account: keep plan", accounts.KEEP_PLAN),
    Case("account: keep plan, held", accounts.KEEP_PLAN_HELD),
    Case("account: plan", accounts.PLAN),
    *intent_pages(),
    *pages_of_jobs(),
    *searches_of_jobs(),
    *group_pages(),
    *event_pages(),
    *pages_of_deliveries(),
    *audit_pages(),
    *connect_account_pages(),
    *groups_of_deliveries(),
    *retries_of_deliveries(),
    *counts_of_deliveries(),
)

# --- any number of rows, the same in every database

SUBSCRIPTION_COUNT = 20


def filling(count: int, *, empty_bytes: str, to_bytes: str = "CAST({} AS BLOB)") -> list[str]:
    """Statements that fill every table, the large ones with `count` rows. A tenth of the jobs and of the deliveries
    is open, and nine tenths of those are blocked. A fiftieth of the deliveries ended otherwise than delivered."""
    every = _rows(count)
    return [
        f"""
INSERT INTO jobs (uid, source, account, external_id, status, outcome, sequence, retry_count, running_sent, overdue,
  attempt_count, weight, tracked_at, closed_at, deadline_at, next_poll_at, poll_count, failure_count, missing_count,
  metadata, group_name, group_round, channel, connect_account_id) {every}
SELECT {_key("job")}, 'revor', CASE WHEN i % 40 = 0 THEN 'other' ELSE 'default' END, 'external ' || i,
  CASE WHEN i % 10 = 0 THEN 'running' WHEN i % 10 = 1 THEN 'failed' ELSE 'succeeded' END,
  CASE WHEN i % 10 = 0 THEN NULL ELSE 'succeeded' END, 1, 0, 0, CASE WHEN i % 1000 = 0 THEN 1 ELSE 0 END, 1, 1.0,
  {NOW} + i, CASE WHEN i % 10 = 0 THEN NULL ELSE {NOW} + i END, {NOW} + i + 604800, {NOW} + i, 1, 0, 0, {empty_bytes},
  CASE WHEN i % 2 = 0 THEN 'group ' || (i % 400) END, CASE WHEN i % 2 = 0 THEN 1 END,
  CASE WHEN i % 20 > 0 THEN CASE WHEN i % 3 = 0 THEN 'email' ELSE 'linkedin' END END,
  CASE WHEN i % 20 > 0 THEN 'acc_' || (i % 100) END
FROM n""",
        f"""
INSERT INTO job_search (key, digest, job_uid) {every}
SELECT CASE WHEN i % 2 = 0 THEN 'deal' ELSE 'campaign' END, {to_bytes.format("'value ' || (i % 5000)")},
  {_key("job")} FROM n""",
        f"""
INSERT INTO events (id, job_uid, sequence, type, source, subject, time, recorded_at, body) {every}
SELECT {_key("evt")}, CASE WHEN i % 500 = 0 THEN NULL ELSE {_key("job")} END,
  CASE WHEN i % 500 = 0 THEN NULL ELSE 1 END,
  CASE WHEN i % 10 = 1 THEN 'ai.revor.job.failed' ELSE 'ai.revor.job.succeeded' END, 'revor', 'subject ' || i,
  {NOW} + i, {NOW} + i, {empty_bytes}
FROM n""",
        f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, lease_token, created_at, ended_at, replay) {every}
SELECT {_key("dlv")}, {_key("evt")}, 'sub_' || ((i / 100) % {SUBSCRIPTION_COUNT}),
  CASE WHEN i % 100 BETWEEN 1 AND 10 THEN {_key("job", "(i - i % 100)")} ELSE {_key("job")} END, 1 + i % 100,
  CASE WHEN i % 100 = 1 THEN 'pending' WHEN i % 100 BETWEEN 2 AND 10 THEN 'blocked' WHEN i % 100 = 11 THEN 'dead'
    WHEN i % 100 = 12 THEN 'cancelled' ELSE 'delivered' END,
  CASE WHEN i % 300 = 1 THEN 1 ELSE 0 END, {NOW} + i, 1, 1, CASE WHEN i % 1000 = 1 THEN 'lease ' || (i % 20) END,
  {NOW} + i, CASE WHEN i % 100 BETWEEN 1 AND 10 THEN NULL ELSE {NOW} + i END,
  CASE WHEN i % 1000 IN (21, 22) THEN 'rpl_' || (i % 7) END
FROM n""",
        f"""
INSERT INTO replays (id, subscription_id, state, since, until, which, position, last_position, matched, passed, queued,
  delivered, dead, created_at, ended_at) {_rows(4_000)}
SELECT 'rpl_' || i, 'sub_' || (i % 20), CASE WHEN i < 8 THEN 'running' ELSE 'done' END, {NOW}, {NOW}, 'all', 1, 9, 9, 0,
  0, 0, 0, {NOW}, CASE WHEN i < 8 THEN NULL ELSE {NOW} + i END
FROM n""",
        f"""
INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code) {every}
SELECT {_key("dlv")}, 1, {NOW} + i, 12.5, 204 FROM n""",
        f"""
INSERT INTO subscriptions (id, kind, sink_digest, sealed, state, callback, config, created_at) {_rows(2_000)}
SELECT 'sub_' || i, 'webhook', 'digest ' || i, {empty_bytes}, 'enabled', CASE WHEN i > 20 THEN 1 ELSE 0 END,
  '{{}}', {NOW}
FROM n""",
        f"""
INSERT INTO secrets (id, owner, ciphertext, created_at, expires_at) {_rows(4_000)}
SELECT {_key("sec")}, 'sub_' || (i % 2000), {empty_bytes}, {NOW}, CASE WHEN i % 7 = 0 THEN {NOW} END FROM n""",
        f"""
INSERT INTO job_callbacks (job_uid, subscription_id) {_rows(max(4_000, count // 10))}
SELECT {_key("job")}, 'sub_' || (i % 1900) FROM n""",
        f"""
INSERT INTO idempotency_keys (id, body_digest, status_code, ciphertext, created_at) {_rows(max(4_000, count // 10))}
SELECT 'key ' || i, 'digest', 200, {empty_bytes}, {NOW} + i FROM n""",
        # the first 500 were sent long ago; of the others a twentieth is unknown, the rest in flight
        f"""
INSERT INTO intents (id, source, account, path, body_digest, idempotency_key, created_at, reason, told) {_rows(count)}
SELECT {_key("int")}, 'revor', 'default', '/api/v1/outreach/dispatches', 'digest ' || i,
  CASE WHEN i % 3 = 0 THEN 'key ' || (i / 30) END, {NOW} + i, CASE WHEN i % 20 = 0 THEN 'no_answer' END,
  CASE WHEN i < 490 OR i % 20 = 0 THEN 1 ELSE 0 END FROM n""",
        # a fiftieth is open, another one is watched
        f"""
INSERT INTO incidents (id, digest, kind, source, account, owner, state, recent, failed_count, told_count,
  first_failure_at, last_failure_at, closed_at, due_at) {_rows(4_000)}
SELECT 'inc_' || (10000000 + i), 'digest ' || i, 'jobs', 'revor', 'default',
  CASE WHEN i % 7 > 0 THEN 'revor/account ' || (i % 70) END,
  CASE i % 50 WHEN 0 THEN 'open' WHEN 1 THEN 'watching' ELSE 'closed' END, '[]', 3, 3, {NOW} + i, {NOW} + i,
  CASE WHEN i % 50 > 1 THEN {NOW} + i END, CASE WHEN i % 50 <= 1 THEN {NOW} + i END
FROM n""",
        f"""
INSERT INTO connect_accounts (source, account, id, uid, state, since, changes, told_state) {_rows(2_000)}
SELECT 'revor', 'account ' || (i % 70), 'acc_' || i, {_key("acc")}, CASE WHEN i % 50 = 0 THEN 'removed' ELSE 'ok' END,
  {NOW} + i, '[]', 'ok' FROM n""",
        f"""
INSERT INTO figures (name, label, span, began_at, bucket, count, total) {_rows(6_000)}
SELECT 'events', CASE WHEN i % 2 = 0 THEN '' ELSE 'revor/a' || (i % 40) END,
  CASE i % 3 WHEN 0 THEN 'minute' WHEN 1 THEN 'hour' ELSE 'day' END, {NOW} + 60 * i, 0, 1, 1.0
FROM n""",
        f"""
INSERT INTO hazards (source, name, event_count, values_json, updated_at) {_rows(4_000)}
SELECT CASE WHEN i % 4 = 0 THEN 'other' ELSE 'revor' END, 'class ' || i, i, '{{}}', {NOW} FROM n""",
        f"""
INSERT INTO groups (id, source, account, name, round, counts, skipped, failures, first_at, last_at, max_gap_seconds,
  finished_at, due_at) {_rows(4_000)}
SELECT {_key("grp")}, 'revor', CASE WHEN i % 40 = 0 THEN 'other' ELSE 'default' END, 'group ' || i, 1, '{{}}', 0,
  '{{}}', {NOW} + i, {NOW} + i, 0, CASE WHEN i % 10 > 0 THEN {NOW} + i END, CASE WHEN i % 20 = 0 THEN {NOW} + i END
FROM n""",
        f"""
INSERT INTO sink_memories (subscription_id, key, data, token, updated_at) {_rows(4_000)}
SELECT 'sub_' || (i % 20), 'incident/' || i, '{{}}', CASE WHEN i % 50 = 0 THEN 'token ' || i END, {NOW} + i FROM n""",
        f"""
INSERT INTO sessions (digest, kind, token_digest, name, created_at, expires_at) {_rows(4_000)}
SELECT 'digest ' || i, CASE WHEN i % 9 = 0 THEN 'link' ELSE 'session' END, 'token ' || (i % 300), 'ops', {NOW} + i,
  {NOW} + 43200 + i FROM n""",
        f"""
INSERT INTO accounts (source, name, state) {_rows(2_000)} SELECT 'revor', 'account ' || i, 'ok' FROM n""",
    ]


def _rows(count: int) -> str:
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"


def _key(prefix: str, number: str = "i") -> str:
    return f"'{prefix}_' || (10000000 + {number})"
