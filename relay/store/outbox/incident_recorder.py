"""Opens, grows and closes incidents in the transaction that records a failure or a recovery.

Changes to the incidents of one account, or of one sink, take turns (`IncidentRecorder.lock`). So two nodes that see a
cause for the first time open one incident, and none is opened or closed twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, select, text
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.events.event import INCIDENT_CLOSED, INCIDENT_OPENED, RELAY_SOURCE, Event, Hint, owner_of, relay_event
from relay.core.incidents import (
    ClosedBecause,
    Incident,
    Reported,
    Trouble,
    close,
    data_of,
    digest_of_sink,
    observe,
    review,
)
from relay.core.jsontext import dumps
from relay.core.relay_events import dataschema_for
from relay.core.subscriptions.filters import matches
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.store.databases.locks import hold, incidents_of
from relay.store.databases.statements import SQLITE, TEXT, fetch, insert_into, json_list, run, run_many, sql, table_of
from relay.store.rows import columns, made
from relay.store.schema.tables import IncidentRow

INCIDENTS = table_of(IncidentRow)
MAX_WATCHED = 100
"""Maximum watched causes of an account. A new one replaces the oldest."""
MAX_OPEN = 500
"""Maximum open incidents of an account. Failures with a further cause are reported one by one."""
MAX_LIKELY = 10_000
"""Maximum open jobs counted for an incident."""
MAX_COUNTED = 1_000_000_000

_LIVE = "state IN ('watching', 'open')"


def _where(condition: str) -> dict[str, Select[Any]]:
    """The incidents for which a condition holds, in each dialect."""
    written = sql(condition)
    return {
        SQLITE: select(INCIDENTS).where(text(written.sqlite)),
        "postgresql": select(INCIDENTS).where(written.postgresql),
    }


# The incidents that are watched or open, by digest.
LIVE = _where(f"digest $among(digests) AND {_LIVE}")
# The open incidents of accounts.
OPEN_OF_ACCOUNTS = _where(f"owner $among(owners) AND state = 'open' AND {_LIVE}")
_SAVED = tuple(column.name for column in INCIDENTS.columns)
# Writes an incident.
SAVE = f"""
{insert_into(IncidentRow, *_SAVED)}
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _SAVED if name != "id")}
"""
# Counts an account's incidents by state.
COUNT_LIVE = f"SELECT state, COUNT(*) AS number FROM incidents WHERE owner = :owner AND {_LIVE} GROUP BY state"
# Counts the incidents of sinks that belong to no account.
COUNT_UNOWNED = f"SELECT state, COUNT(*) AS number FROM incidents WHERE owner IS NULL AND {_LIVE} GROUP BY state"
_OLDEST = f"AND state = 'watching' AND {_LIVE} ORDER BY due_at LIMIT 1"
# Drops the cause with the oldest last failure.
FORGET_OLDEST = f"DELETE FROM incidents WHERE id IN (SELECT id FROM incidents WHERE owner = :owner {_OLDEST})"
# The same for sinks that belong to no account.
FORGET_UNOWNED = f"DELETE FROM incidents WHERE id IN (SELECT id FROM incidents WHERE owner IS NULL {_OLDEST})"
_CONNECT_ACCOUNT = {"source": TEXT, "account": TEXT, "id": TEXT}
# The display names of connect accounts.
ACCOUNT_NAMES = sql(
    """
SELECT c.source, c.account, c.id, c.name FROM $json_rows(accounts) AS wanted
JOIN connect_accounts AS c ON c.source = wanted.source AND c.account = wanted.account AND c.id = wanted.id
""",
    accounts=_CONNECT_ACCOUNT,
)
# Counts the open jobs that name each of some connect accounts, up to a limit each.
COUNT_OPEN_JOBS = sql(
    """
SELECT wanted.source, wanted.account, wanted.id, (
  SELECT COUNT(*) FROM (
    SELECT 1 FROM jobs WHERE jobs.source = wanted.source AND jobs.account = wanted.account
      AND jobs.connect_account_id = wanted.id AND jobs.closed_at IS NULL
    LIMIT :most
  ) AS counted
) AS open_count
FROM $json_rows(accounts) AS wanted
""",
    accounts=_CONNECT_ACCOUNT,
)
# The subscriptions with the sink of another one.
SAME_SINK = """
SELECT id FROM subscriptions
WHERE callback = 0 AND sink_digest = (SELECT sink_digest FROM subscriptions WHERE id = :id)
"""


class ShownIncident(NamedTuple):
    """An incident, the display name of its connect account, and how many open jobs are likely to fail too (None:
    unknown)."""

    incident: Incident
    name: str | None
    likely: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary events of a transaction, written with its other events.

    events     about incidents and groups
    collapsed  incidents by the ids of the events they replace for subscriptions that collapse incidents
    withheld   subscriptions that get no event of an incident, by its id: it is about their own sink
    """

    events: tuple[Event, ...] = ()
    collapsed: Mapping[str, Incident] = field(default_factory=dict)
    withheld: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def stands_for(self, event: Event, subscription: Subscription) -> Incident | None:
        """The incident whose event replaces this one for a subscription, which must collapse incidents and be older
        than this one; None if no incident does."""
        incident = self.collapsed.get(event.id)
        if incident is None or subscription.incidents != "collapse" or self.withholds(incident.id, subscription):
            return None
        reported = matches(subscription, event_type_of(incident), RELAY_SOURCE, job_event=False, owner=incident.owner)
        was_there = incident.opened_at is not None and subscription.created_at <= incident.opened_at
        return incident if reported and was_there else None

    def withholds(self, incident_id: str | None, subscription: Subscription) -> bool:
        """True if a subscription gets no event of an incident."""
        return subscription.id in self.withheld.get(incident_id or "", ())


def event_type_of(incident: Incident) -> str:
    """The type of the event that stands for the events of an incident: opened or closed."""
    return INCIDENT_OPENED if incident.state == "open" else INCIDENT_CLOSED


NO_SUMMARY = Summary()


def joined(summaries: Sequence[Summary]) -> Summary:
    """Merges summaries."""
    some = [summary for summary in summaries if summary is not NO_SUMMARY]
    if not some:
        return NO_SUMMARY
    return Summary(
        events=tuple(event for summary in some for event in summary.events),
        collapsed={id: incident for summary in some for id, incident in summary.collapsed.items()},
        withheld={id: subscriptions for summary in some for id, subscriptions in summary.withheld.items()},
    )


class IncidentRecorder:
    """Changes incidents in a transaction that records something else. Pass the Summary on to `Outbox.insert`.

    base_url  the relay's public URL, for the schema that events name
    """

    def __init__(self) -> None:
        self.base_url = ""

    def lock(self, connection: Connection, keys: Iterable[str | None]) -> None:
        """Locks the incidents of these owners, or of these subscriptions' sinks, unless the batch function has declared
        the locks."""
        hold(connection, map(incidents_of, keys))

    def observe(self, connection: Connection, troubles: Sequence[Trouble], now: float) -> Summary:
        """Records failures."""
        if not troubles:
            return NO_SUMMARY
        by_digest: dict[str, list[Trouble]] = {}
        for trouble in troubles:
            by_digest.setdefault(trouble.digest, []).append(trouble)
        self.lock(connection, [turn_of(trouble) for trouble in troubles])
        known = _live(connection, sorted(by_digest))
        found = [
            observe(known.get(digest), by_digest[digest], now, new_id=new_id("inc", now))
            for digest in sorted(by_digest)
        ]
        found = _within_limits(connection, known, found)
        stood_for = {
            trouble.event_id: incident
            for incident, _ in found
            if incident.state == "open"
            for trouble in by_digest[incident.digest]
            if trouble.event_id is not None
        }
        return self._save(connection, found, stood_for, now)

    def accounts_recovered(
        self, connection: Connection, source: str, account: str, reports: Mapping[str, str | None], now: float
    ) -> Summary:
        """Closes the incidents of connect accounts that have recovered. `reports`: the id of the event that reports
        each recovery, by account; None: no event. One query for all: a listing may show a thousand."""
        owner = owner_of(source, account)
        self.lock(connection, [owner])
        over: dict[str | None, list[Incident]] = {}
        for incident in _open(connection, [owner]):
            id = incident.connect_account_id
            if id is not None and id in reports and incident.waits_for_account:
                over.setdefault(reports[id], []).append(incident)
        return self._close(connection, over, "account_recovered", now)

    def sink_recovered(
        self,
        connection: Connection,
        subscription_id: str,
        because: ClosedBecause,
        now: float,
        event_id: str | None = None,
    ) -> Summary:
        """Closes the incident of a subscription's sink. `event_id`: the event that reports the recovery."""
        self.lock(connection, [subscription_id])
        found = _live(connection, [digest_of_sink(subscription_id)]).values()
        return self._close(connection, {event_id: [one for one in found if one.state == "open"]}, because, now)

    def review(self, connection: Connection, found: Sequence[tuple[Incident, bool]], now: float) -> Summary:
        """Closes or drops incidents that are over, unless they have changed since they were read. Each comes with True
        if a success followed its last failure."""
        self.lock(connection, [turn_of(incident) for incident, _ in found])
        present = _live(connection, sorted(incident.digest for incident, _ in found))
        kept: list[Reported] = []
        gone: list[str] = []
        for incident, succeeded in found:
            if present.get(incident.digest) == incident:
                change = review(incident, now, succeeded=succeeded)
                gone += [incident.id] if change is None else []
                kept += [] if change is None else [change]
        if gone:
            connection.execute(delete(IncidentRow).where(col(IncidentRow.id).in_(gone)))
        return self._save(connection, kept, {}, now)

    def _close(
        self,
        connection: Connection,
        incidents: Mapping[str | None, Sequence[Incident]],
        because: ClosedBecause,
        now: float,
    ) -> Summary:
        """Closes incidents, by the id of the event that reports the recovery (None: no event)."""
        found = {event_id: [close(one, because, now) for one in some] for event_id, some in incidents.items()}
        stood_for = {event_id: some[0][0] for event_id, some in found.items() if event_id is not None and some}
        return self._save(connection, [change for some in found.values() for change in some], stood_for, now)

    def _save(
        self, connection: Connection, found: Sequence[Reported], stood_for: Mapping[str, Incident], now: float
    ) -> Summary:
        run_many(connection, SAVE, [_values_of(incident) for incident, _ in found])
        reported = [(incident, type) for incident, type in found if type is not None]
        seen = shown(connection, [incident for incident, _ in reported])
        events = tuple(self._event(one, type, now) for one, (_, type) in zip(seen, reported, strict=True))
        about_sinks = [incident for incident, _ in found if incident.subscription_id is not None]
        withheld = {incident.id: _same_sink(connection, incident.subscription_id) for incident in about_sinks}
        return Summary(events=events, collapsed=stood_for, withheld=withheld)

    def _event(self, shown: ShownIncident, type: str, now: float) -> Event:
        incident, name, likely = shown
        return relay_event(
            new_id("evt", now),
            type,
            now,
            data_of(incident, name=name, likely=likely),
            dataschema=dataschema_for(type, self.base_url),
            subject=incident.id,
            owner=incident.owner,
        )


def incident_from(row: Row[Any]) -> Incident:
    """An incident."""
    hint = None if row.hint is None else Hint(**row.hint)
    return made(Incident, row, recent=tuple(row.recent), failed=row.failed_count, hint=hint)


def _values_of(incident: Incident) -> dict[str, Any]:
    return {
        **columns(incident),
        "recent": dumps(incident.recent).decode(),
        "failed_count": incident.failed,
        "hint": None if incident.hint is None else dumps(asdict(incident.hint)).decode(),
    }


def open_by_connect_account(
    connection: Connection, owners: Iterable[str]
) -> dict[tuple[str | None, str], list[Incident]]:
    """The open incidents of each connect account of these owners, by owner and connect account, the newest last. Only
    incidents that end with the account's recovery."""
    found: dict[tuple[str | None, str], list[Incident]] = {}
    for one in sorted(_open(connection, owners), key=lambda one: one.id):
        if one.waits_for_account:
            found.setdefault((one.owner, one.connect_account_id or ""), []).append(one)
    return found


def _open(connection: Connection, owners: Iterable[str]) -> list[Incident]:
    statement = OPEN_OF_ACCOUNTS[connection.dialect.name]
    return [incident_from(row) for row in connection.execute(statement, {"owners": json_list(sorted(set(owners)))})]


def turn_of(one: Trouble | Incident) -> str | None:
    """Key of the lock of its incidents."""
    return one.subscription_id if one.kind == "sink" else one.owner


def _live(connection: Connection, digests: Sequence[str]) -> dict[str, Incident]:
    rows = connection.execute(LIVE[connection.dialect.name], {"digests": json_list(digests)})
    return {row.digest: incident_from(row) for row in rows}


def _within_limits(connection: Connection, known: Mapping[str, Incident], found: Sequence[Reported]) -> list[Reported]:
    """The changes within MAX_WATCHED and MAX_OPEN: an upstream may answer any number of error codes."""
    kept: list[Reported] = []
    room: dict[str | None, dict[str, int]] = {}
    for incident, type in found:
        owner, is_new = incident.owner, incident.digest not in known
        if is_new or type == INCIDENT_OPENED:
            if owner not in room:
                room[owner] = _room(connection, owner)
            if room[owner][incident.state] <= 0:
                if incident.state == "open":
                    continue
                _forget_oldest(connection, owner)
            room[owner][incident.state] -= 1
        kept.append((incident, type))
    return kept


def _room(connection: Connection, owner: str | None) -> dict[str, int]:
    room = {"watching": MAX_WATCHED, "open": MAX_OPEN}
    counted = run(connection, COUNT_UNOWNED) if owner is None else run(connection, COUNT_LIVE, owner=owner)
    for row in counted:
        room[row.state] -= row.number
    return room


def _forget_oldest(connection: Connection, owner: str | None) -> None:
    if owner is None:
        run(connection, FORGET_UNOWNED)
    else:
        run(connection, FORGET_OLDEST, owner=owner)


def _same_sink(connection: Connection, subscription_id: str | None) -> frozenset[str]:
    rows = run(connection, SAME_SINK, id=subscription_id)
    return frozenset((subscription_id or "", *(row.id for row in rows)))


def shown(connection: Connection, incidents: Sequence[Incident]) -> list[ShownIncident]:
    """Adds names and open jobs of connect accounts to incidents, with two queries in all."""
    keys = [(one.source, one.account, one.connect_account_id) for one in incidents]
    named = sorted({key for key in keys if key[2] is not None})
    opened = sorted({key for key, one in zip(keys, incidents, strict=True) if key[2] and one.state == "open"})
    names = account_names(connection, named)
    counts = open_jobs(connection, opened, MAX_LIKELY)
    return [
        ShownIncident(one, names.get(key), counts.get(key) if one.state == "open" else None)
        for key, one in zip(keys, incidents, strict=True)
    ]


def account_names(connection: Connection, accounts: Sequence[tuple[str | None, ...]]) -> dict[tuple[Any, ...], str]:
    """The display names of connect accounts, by source, account and id. Those without one are left out."""
    rows = fetch(connection, ACCOUNT_NAMES, accounts=json_list(accounts)) if accounts else ()
    return {(source, account, id): name for source, account, id, name in rows if name}


def open_jobs(
    connection: Connection, accounts: Sequence[tuple[str | None, str | None, str | None]], most: int = MAX_COUNTED
) -> dict[tuple[Any, Any, Any], int]:
    """The number of open jobs that name each connect account: its source, account and id. At most `most` each."""
    rows = fetch(connection, COUNT_OPEN_JOBS, accounts=json_list(accounts), most=most) if accounts else ()
    return {(source, account, id): int(count) for source, account, id, count in rows}
