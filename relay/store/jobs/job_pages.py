"""Pages of jobs, newest first, by any combination of filters.

A filter that few jobs pass has an index that ends with the job's uid, so a page of it alone reads its own rows only. Of
several filters the rarest is walked along its index, at most SCANNED rows a page, and each row is checked for the
others; where none has an index, the table is walked. Where the walk ends before the page is full, the page is short and
its cursor continues there: the cost of a page does not depend on the size of the table, and no combination needs an
index of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select, text
from sqlalchemy.engine import Connection

from relay.core.jobs.job import TERMINAL, Job, indexed, searchable, texts_of
from relay.core.records import Page
from relay.ids import least_id
from relay.store.databases.database import Account
from relay.store.databases.pages import (
    encode_cursor,
    fitting_sizes,
    narrowest,
    newest_first,
    rarest,
    size_of,
    unindexed,
)
from relay.store.databases.statements import SQLITE, insert_into, json_list, run, run_many, sql, table_of
from relay.store.rows import JOB_COLUMNS, job_from
from relay.store.schema.tables import UNENDED_JOB, UNSUCCESSFUL_JOB, JobRow, JobSearchRow

JOBS, SEARCH = table_of(JobRow), table_of(JobSearchRow)
SCANNED = 5_000
"""Rows that one page reads at most, where several filters are given."""

_UIDS = sql("uid IN $json_values(uids)")
# Jobs by uid, for pages and groups of reads.
BY_UIDS = {
    SQLITE: select(*JOB_COLUMNS).where(text(_UIDS.sqlite)),
    "postgresql": select(*JOB_COLUMNS).where(_UIDS.postgresql),
}
# The bytes of a listed job.
LISTED_BYTES = size_of(JOBS.c.upstream, JOBS.c.metadata, JOBS.c.request)


class Counted(NamedTuple):
    """A number of jobs. `more`: there may be more, which were not counted."""

    number: int
    more: bool


class OfResource(NamedTuple):
    """Jobs of the resources with a name. `first_of`: the sources whose first one has it."""

    name: str
    first_of: Sequence[str]


class JobFilter(NamedTuple):
    """The conditions of a page of jobs. None: any.

    connect_account  the upstream's id of the sending account
    since, until     registered at or after, and before, a time
    metadata         a key of the metadata, and the text of its value
    uids             these jobs, which are few
    """

    status: str | None = None
    open: bool | None = None
    source: str | None = None
    account: str | None = None
    group: str | None = None
    channel: str | None = None
    connect_account: str | None = None
    since: float | None = None
    until: float | None = None
    metadata: tuple[str, str] | None = None
    resource: OfResource | None = None
    uids: tuple[str, ...] | None = None

    def within(self, account: Account) -> "JobFilter | None":
        """The same of one account's jobs; None if these are none."""
        if self.source not in (None, account[0]) or self.account not in (None, account[1]):
            return None
        return self._replace(source=account[0], account=account[1])


_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "group": JOBS.c.group_name,
    "connect_account": JOBS.c.connect_account_id,
    "account": JOBS.c.account,
    "status": JOBS.c.status,
    "channel": JOBS.c.channel,
    "source": JOBS.c.source,
}
GIVEN = ("metadata", *_COLUMNS, "open", "resource")
_DRIVERS: tuple[tuple[str, ...], ...] = (
    ("metadata",),
    ("source", "account", "open"),
    *((name,) for name in _COLUMNS if name != "source"),
)
"""Filters that have an index, together; those that are rare as a rule come first. Most jobs have succeeded, and are of
one source: such pages are walked along the table."""
_UIDS_GIVEN = ("uids",)
_UNENDED = ("unended",)
"""The walk along the jobs that have not ended, for filters that hold for some of them only."""
_UNSUCCESSFUL = TERMINAL - {"succeeded"}
_OF_ACCOUNT = {"metadata", "group", "connect_account", "account"}
"""Filters that a bound token's pages may walk along: their rows are its account's, but for names that several accounts
share. How short a page is must not tell how many rows of others there are."""


def drivers_of(wanted: JobFilter, *, bound: bool = False) -> list[tuple[str, ...]]:
    """The sets of filters that the page may be walked along; () is the table's own order."""
    without = {name for name in JobFilter._fields if getattr(wanted, name) is None}
    without |= set() if wanted.open else {"open"}
    without |= set() if wanted.status in _UNSUCCESSFUL else {"status"}
    if wanted.uids is not None:
        return [_UIDS_GIVEN]
    found = [names for names in _DRIVERS if without.isdisjoint(names) and (not bound or set(names) & _OF_ACCOUNT)]
    if not bound and (wanted.open or wanted.status not in (None, *TERMINAL)):
        found.append(_UNENDED)
    return found or [()]


def _checked(wanted: JobFilter, name: str) -> ColumnElement[Any]:
    """A filter's condition, for rows that are found by another index: the databases cannot know which is rare."""
    if name == "metadata":
        same = [column == value for column, value in _of_metadata(wanted)]
        # one seek a row; an EXISTS could become a join that begins with all jobs of the value
        seek: Select[Any] = select(literal_column("1")).where(*same, SEARCH.c.job_uid == JOBS.c.uid).limit(1)
        return seek.scalar_subquery().is_not(None)
    if name == "open":
        closed_at = func.coalesce(JOBS.c.closed_at, literal_column("-1"))
        return closed_at == literal_column("-1") if wanted.open else closed_at != literal_column("-1")
    if name == "resource":
        assert wanted.resource is not None
        resource = unindexed(JOBS.c.resource)
        firsts = [unindexed(JOBS.c.source) == source for source in wanted.resource.first_of]
        return or_(resource == wanted.resource.name, *(and_(resource == "", first) for first in firsts))
    condition: ColumnElement[Any] = unindexed(_COLUMNS[name]) == getattr(wanted, name)
    return condition


def _of_metadata(wanted: JobFilter) -> list[tuple[ColumnElement[Any], Any]]:
    assert wanted.metadata is not None
    key, value = wanted.metadata
    return [(SEARCH.c.key, key), (SEARCH.c.digest, indexed(value))]


def _walked(
    wanted: JobFilter, driver: Sequence[str], before: str | None, end: str | None = None
) -> tuple[Select[Any], ColumnElement[str]]:
    """The uids of a walk, newest first, and their column: from `end` on, of `before`, and of the filter's times."""
    uid: ColumnElement[str] = SEARCH.c.job_uid if "metadata" in driver else JOBS.c.uid
    given = _of_metadata(wanted) if "metadata" in driver else []
    given += [(_COLUMNS[name], getattr(wanted, name)) for name in driver if name in _COLUMNS]
    statement = select(uid)
    conditions = {"open": "closed_at IS NULL", "status": UNSUCCESSFUL_JOB, "unended": UNENDED_JOB}
    statement = statement.where(*(literal_column(conditions[name]) for name in driver if name in conditions))
    if "uids" in driver and wanted.uids is not None:
        statement = statement.where(uid.in_(wanted.uids))
    since = [end, None if wanted.since is None else least_id("job", wanted.since)]
    # An id has milliseconds, and a time may have more: one on, and `tracked_at` decides.
    until = [before, None if wanted.until is None else least_id("job", wanted.until + 0.001)]
    return newest_first(statement, given, [uid], since=narrowest(max, since), before=narrowest(min, until)), uid


def end_statement(wanted: JobFilter, driver: Sequence[str], before: str | None) -> Select[Any]:
    """The last uid of the next SCANNED rows of a walk; no row if there are fewer."""
    statement, _ = _walked(wanted, driver, before)
    return statement.limit(1).offset(SCANNED - 1)


def page_statement(
    limit: int, before: str | None, wanted: JobFilter, driver: Sequence[str], end: str | None = None
) -> Select[Any]:
    """The uids of one page, newest first, with their bytes: found by the filters of `driver`, down to `end`."""
    statement, uid = _walked(wanted, driver, before, end)
    checks = _checks(wanted, driver)
    size: ColumnElement[Any] = LISTED_BYTES
    if "metadata" in driver:  # one seek a row; a join could become one that begins with the jobs
        size = select(size).where(JOBS.c.uid == uid, *checks).scalar_subquery()
        checks = [size.is_not(None)]
    return statement.where(*checks).with_only_columns(uid.label("uid"), size.label("size")).limit(limit + 1)


def _checks(wanted: JobFilter, driver: Sequence[str]) -> list[ColumnElement[Any]]:
    """The conditions of the filters that are not in `driver`."""
    others = [name for name in GIVEN if name not in driver]
    checks = [_checked(wanted, name) for name in others if getattr(wanted, name) is not None]
    if wanted.since is not None:
        checks.append(JOBS.c.tracked_at >= wanted.since)
    if wanted.until is not None:
        checks.append(JOBS.c.tracked_at < wanted.until)
    return checks


def count_statement(most: int, wanted: JobFilter, driver: Sequence[str], end: str | None = None) -> Select[Any]:
    """The number of the jobs of `page_statement`, as many as `most`."""
    statement, uid = _walked(wanted, driver, None, end)
    checks = _checks(wanted, driver)
    if "metadata" in driver and checks:  # as for a page
        found: Select[Any] = select(literal_column("1")).where(JOBS.c.uid == uid, *checks)
        checks = [found.scalar_subquery().is_not(None)]
    counted: Select[Any] = statement.where(*checks).limit(most)
    return select(func.count()).select_from(counted.subquery("counted"))


def read_jobs(
    connection: Connection, wanted: JobFilter, limit: int, before: str | None, bound: bool = False
) -> Page[Job]:
    """A page of jobs. It may be short although there are more, where several filters are given."""
    driver, end = walk_of(connection, wanted, before, bound=bound)
    found = connection.execute(page_statement(limit, before, wanted, driver, end)).all()
    shown = found[: fitting_sizes((row.size for row in found), limit)]
    uids = [row.uid for row in shown]
    jobs = {job.uid: job for job in jobs_by_uid(connection, uids)}
    items = tuple(jobs[uid] for uid in uids if uid in jobs and is_meant(jobs[uid], wanted))
    last = uids[-1] if len(found) > len(shown) else end
    return Page(items=items, next_cursor=None if last is None else encode_cursor(last))


def count_jobs(connection: Connection, wanted: JobFilter, most: int, bound: bool = False) -> Counted:
    """The number of jobs that pass, read like a page: their own rows only, or SCANNED rows at most."""
    driver, end = walk_of(connection, wanted, None, bound=bound)
    count = int(connection.execute(count_statement(most + 1, wanted, driver, end)).scalar_one())
    return Counted(min(count, most), more=count > most or end is not None)


def jobs_by_uid(connection: Connection, uids: Sequence[str]) -> list[Job]:
    """Those of these jobs that exist."""
    if not uids:
        return []
    return [job_from(row) for row in connection.execute(BY_UIDS[connection.dialect.name], {"uids": json_list(uids)})]


def is_meant(job: Job, wanted: JobFilter) -> bool:
    """True if the metadata still has the value: it may have changed while its key was not searchable."""
    return wanted.metadata is None or wanted.metadata[1] in texts_of(job, wanted.metadata[0])


def walk_of(
    connection: Connection, wanted: JobFilter, before: str | None, *, bound: bool
) -> tuple[tuple[str, ...], str | None]:
    """The filters to walk along, and the uid at which this page's walk ends, as `rarest` says."""
    drivers = drivers_of(wanted, bound=bound)
    given = {name for name in GIVEN if getattr(wanted, name) is not None}
    if drivers[0] == _UIDS_GIVEN or set(drivers[0]) == given:
        return drivers[0], None
    return rarest(connection, {driver: end_statement(wanted, driver, before) for driver in drivers}, "job")


# Writes a value of a job's metadata.
INSERT_SEARCH = insert_into(JobSearchRow, "key", "digest", "job_uid")
# Deletes the search rows of one job.
DELETE_SEARCH = "DELETE FROM job_search WHERE job_uid = :uid"
# Deletes the search rows of deleted jobs.
DELETE_SEARCH_OF_GONE_JOBS = sql(
    """
DELETE FROM job_search WHERE job_uid IN $json_values(uids) AND NOT EXISTS (
  SELECT 1 FROM jobs WHERE uid = job_search.job_uid
)
"""
)


def write_search(connection: Connection, keys: Sequence[str], jobs: Iterable[Job]) -> None:
    """Makes jobs that have no rows yet findable by these keys of their metadata."""
    rows = [{"key": key, "digest": digest, "job_uid": job.uid} for job in jobs for key, digest in searchable(job, keys)]
    run_many(connection, INSERT_SEARCH, rows)


def delete_search(connection: Connection, uid: str) -> None:
    """Makes a job not findable."""
    run(connection, DELETE_SEARCH, uid=uid)


def delete_search_of_gone(connection: Connection, uids: Sequence[str]) -> None:
    """The same for those of these jobs that were deleted."""
    run(connection, DELETE_SEARCH_OF_GONE_JOBS, uids=json_list(uids))
