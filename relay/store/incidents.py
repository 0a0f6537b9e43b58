"""Lists incidents, and reviews them in upkeep. Failures change them in `outbox/incident_recorder.py`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.engine import Connection

from relay.core.events.event import owner_of
from relay.core.incidents import Incident
from relay.core.jobs.job import Job
from relay.core.records import Page
from relay.ids import least_id
from relay.store.databases.database import Database, Scoped
from relay.store.databases.locks import MATCH, incidents_of, locking
from relay.store.databases.pages import (
    decode_cursor,
    decode_moment,
    fitting,
    moment_key,
    newest_first,
    page_of,
    read_page,
)
from relay.store.databases.statements import run
from relay.store.jobs.job_pages import JOBS, LISTED_BYTES
from relay.store.outbox.incident_recorder import INCIDENTS, ShownIncident, incident_from, shown, turn_of
from relay.store.outbox.recording import Outbox
from relay.store.rows import JOB_COLUMNS, job_from

MAX_SCANNED = 10_000
"""At most this many ended jobs, or deliveries, are searched for a success."""
REVIEWED_AT_ONCE = 100

# The incidents that are due.
DUE = select(INCIDENTS).where(text("due_at <= :now")).order_by(INCIDENTS.c.due_at).limit(REVIEWED_AT_ONCE)
# True if a job of an account, or of a connect account, began after a time and succeeded.
SUCCEEDED_SINCE = f"""
SELECT 1 FROM (
  SELECT source, account, connect_account_id, outcome, started_at, tracked_at FROM jobs
  WHERE closed_at IS NOT NULL AND closed_at > :since ORDER BY closed_at DESC, uid DESC LIMIT {MAX_SCANNED}
) AS found
WHERE source = :source AND account = :account AND outcome = 'succeeded'
  AND COALESCE(started_at, tracked_at) > :since AND tracked_at > :tracked_since
  AND (:connect_account_id = '' OR connect_account_id = :connect_account_id)
LIMIT 1
"""
# True if a delivery that was made after a time has reached its subscription's sink. Bounds: see `newest_first`.
DELIVERED_SINCE = f"""
SELECT 1 FROM (
  SELECT state FROM deliveries
  WHERE subscription_id <= :subscription_id AND (subscription_id, id) > (:subscription_id, :after)
  ORDER BY subscription_id, id LIMIT {MAX_SCANNED}
) AS found
WHERE state = 'delivered' LIMIT 1
"""
# Counts open incidents by kind.
COUNT_OPEN = "SELECT kind, COUNT(*) AS number FROM incidents WHERE state = 'open' GROUP BY kind"


class IncidentStore(Scoped):
    """Reads of incidents, and the part of their life that only time decides."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def get(self, incident_id: str) -> ShownIncident | None:
        """One incident; None if there is none, or not enough has failed to tell of it."""
        return None if "\0" in incident_id else await self._database.read(_get, incident_id, self._owner)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        source: str | None = None,
        account: str | None = None,
    ) -> Page[ShownIncident]:
        """Newest first."""
        statement = page_statement(limit, decode_cursor(cursor, prefix="inc_"), state, source, account, self._owner)
        return await self._database.read(_page, statement, limit)

    async def jobs(self, incident: Incident, *, limit: int, cursor: str | None = None) -> Page[Job]:
        """The failed jobs of an incident, the latest first."""
        if incident.kind != "jobs":
            return Page(items=())
        statement = jobs_statement(incident, limit, decode_moment(cursor, prefix="job_"))
        return await self._database.read(_jobs, statement, limit)

    async def open_counts(self) -> Mapping[str, int]:
        """Number of open incidents by kind."""
        return await self._database.read(_open_counts)

    async def review(self, now: float) -> int:
        """Closes or forgets a part of the incidents that are over by `now`. Returns how many were reviewed."""
        found = await self._database.read(_due, now)
        if found:
            await self._database.write(self._review, (found, now))
        return len(found)

    @locking(lambda item: [MATCH, *(incidents_of(turn_of(incident)) for incident, _ in item[0])])
    def _review(
        self, connection: Connection, items: Sequence[tuple[Sequence[tuple[Incident, bool]], float]]
    ) -> Sequence[None]:
        for found, now in items:
            self._outbox.insert(connection, (), self._outbox.incidents.review(connection, found, now))
        return [None] * len(items)


def _get(connection: Connection, incident_id: str, owner: str | None) -> ShownIncident | None:
    row = connection.execute(select(INCIDENTS).where(INCIDENTS.c.id == incident_id)).one_or_none()
    if row is None or row.state == "watching" or owner not in (None, row.owner):
        return None
    return shown(connection, [incident_from(row)])[0]


def page_statement(
    limit: int,
    before: str | None,
    state: str | None,
    source: str | None,
    account: str | None,
    owner: str | None = None,
) -> Any:
    """One page of incidents, newest first."""
    if source is not None and account is not None and owner is None:
        owner = owner_of(source, account)
    given = [] if owner is None else [(INCIDENTS.c.owner, owner)]
    statement = newest_first(select(INCIDENTS), given, [INCIDENTS.c.id], before=[] if before is None else [before])
    statement = statement.where(text(_STATES[state])).limit(limit + 1)
    if source is not None:
        statement = statement.where(INCIDENTS.c.source == source)
    if account is not None:
        statement = statement.where(INCIDENTS.c.account == account)
    return statement


def _page(connection: Connection, statement: Any, limit: int) -> Page[ShownIncident]:
    page = read_page(connection, statement, limit, incident_from, "id")
    return Page(items=tuple(shown(connection, page.items)), next_cursor=page.next_cursor)


def _open_counts(connection: Connection) -> dict[str, int]:
    return {row.kind: row.number for row in run(connection, COUNT_OPEN)}


def _due(connection: Connection, now: float) -> list[tuple[Incident, bool]]:
    """The incidents to review, each with whether there was a success since its last failure."""
    due = [incident_from(row) for row in connection.execute(DUE, {"now": now})]
    return [(incident, incident.state == "open" and _has_succeeded(connection, incident)) for incident in due]


_STATES: Mapping[str | None, str] = {
    None: "state <> 'watching'",
    "open": "state = 'open'",
    "closed": "state <> 'watching' AND state = 'closed'",
}


def _has_succeeded(connection: Connection, incident: Incident) -> bool:
    """True if a success of the incident's key began after its last failure: of a job; of a job that was created since,
    too; or of a delivery."""
    since = incident.last_failure_at
    if incident.kind == "sink":
        values: dict[str, Any] = {"subscription_id": incident.subscription_id, "after": least_id("dlv", since + 0.001)}
        return run(connection, DELIVERED_SINCE, **values).first() is not None
    values = {
        "since": since,
        "source": incident.source,
        "account": incident.account,
        "connect_account_id": incident.connect_account_id or "",
        "tracked_since": since if incident.kind == "creates" else 0.0,
    }
    return run(connection, SUCCEEDED_SINCE, **values).first() is not None


def jobs_statement(incident: Incident, limit: int, before: tuple[float, str] | None) -> Any:
    """One page of the failed jobs of an incident, the latest first."""
    first, last = [incident.first_failure_at], [math.nextafter(incident.last_failure_at, math.inf)]
    of_account = JOBS.c.connect_account_id
    given = [
        (JOBS.c.source, incident.source),
        (JOBS.c.account, incident.account),
        (JOBS.c.error_code, incident.code),
        (of_account, incident.connect_account_id),
    ]
    key = [JOBS.c.closed_at, JOBS.c.uid]
    statement = select(*JOB_COLUMNS).limit(limit + 1)
    if incident.connect_account_id is not None:
        return newest_first(statement, given, key, since=first, before=before or last)
    # NULL is compared with nothing. In the order it has the effect that the bounds of `newest_first` have.
    statement = statement.where(*(column == value for column, value in given)).order_by(of_account.desc())
    return newest_first(statement, [], key, since=first, before=before or last)


def _jobs(connection: Connection, statement: Any, limit: int) -> Page[Job]:
    limit = fitting(connection, statement, LISTED_BYTES, limit)
    rows = connection.execute(statement.limit(limit + 1)).all()
    return page_of(rows, limit, job_from, lambda row: moment_key(row.closed_at, row.uid))
