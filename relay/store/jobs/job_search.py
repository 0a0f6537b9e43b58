"""Jobs that one text finds: by their id, their group, their sending account, or a value of their metadata.

A text is first resolved to exact filters, each by an index or among a bounded number of names; then the pages of these
filters are merged. So a search costs a bounded number of pages, however many jobs there are.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.engine import Connection

from relay.core.jobs.connect_accounts import NEW
from relay.core.jobs.job import Job, beginning_of, indexed, texts_of
from relay.store.databases.pages import encode_cursor, fitting_sizes, newest_first, unindexed
from relay.store.databases.statements import run, table_of
from relay.store.jobs.job_pages import JobFilter, is_meant, jobs_by_uid, page_statement, walk_of
from relay.store.schema.tables import ConnectAccountRow, GroupRow

GROUPS, CONNECT_ACCOUNTS = table_of(GroupRow), table_of(ConnectAccountRow)
MAX_IDS = 20
MAX_NAMES = 10
"""Groups, and sending accounts, that one text may find."""
MAX_VALUES = 20
"""Values that one text may find with a key of the metadata."""
NAMES_READ = 2_000
"""The newest groups, and the sending accounts, whose names are compared."""
IDS_READ = 200
LEAST_CHARACTERS = 4
"""Of the beginning of an id."""
_ID_CHARACTERS = re.compile(r"[A-Za-z0-9_.:-]+", re.ASCII)
_LAST_ID_CHARACTER = "z"
_UID = "job_"
_LONGEST_ID = 200

# The uids of the jobs whose id upstream has a beginning. Collations differ in what lies between the bounds, so the
# beginnings are compared too.
IDS_FROM = f"""
SELECT uid FROM (
  SELECT uid, external_id FROM jobs WHERE external_id >= :low AND external_id <= :high
  ORDER BY external_id LIMIT {IDS_READ}
) AS near WHERE substr(external_id, 1, :length) = :low LIMIT :count
"""
# The same of the relay's ids.
UIDS_FROM = "SELECT uid FROM jobs WHERE uid >= :low AND uid <= :high ORDER BY uid LIMIT :count"
# The next values of a key, in the order of their indexed bytes, each with the newest job that has it. One seek a value.
VALUES_FROM = """
WITH RECURSIVE found(digest, place) AS (
  SELECT (
    SELECT digest FROM job_search WHERE key = :key AND digest >= :low AND digest < :high ORDER BY digest LIMIT 1
  ), 1
  UNION ALL
  SELECT (
    SELECT next.digest FROM job_search AS next WHERE next.key = :key AND next.digest > found.digest
    AND next.digest < :high ORDER BY next.digest LIMIT 1
  ), place + 1
  FROM found WHERE found.digest IS NOT NULL AND place < :count
)
SELECT digest, (
  SELECT newest.job_uid FROM job_search AS newest WHERE newest.key = :key AND newest.digest = found.digest
  ORDER BY newest.job_uid DESC LIMIT 1
) AS uid
FROM found WHERE digest IS NOT NULL
"""


class Match(NamedTuple):
    """What a text was found as. `key`: of the metadata; `value`: the id, the name of the group, the upstream's id of
    the sending account, or the value; `name`: of the sending account, if it is known."""

    by: Literal["id", "group", "connect_account", "metadata"]
    value: str
    key: str | None = None
    name: str | None = None


class FoundJobs(NamedTuple):
    """One page of a search, newest first.

    matches  what the text was found as, as far as jobs of this page or of later ones have it
    more     more values or ids begin with the text than are searched
    """

    items: Sequence[Job] = ()
    next_cursor: str | None = None
    matches: Sequence[Match] = ()
    more: bool = False


def search_jobs(
    connection: Connection,
    text: str,
    keys: Sequence[str],
    wanted: JobFilter,
    limit: int,
    before: str | None,
    bound: bool = False,
) -> FoundJobs:
    """The page of the jobs that pass `wanted` and that a text finds."""
    values, more = _values(connection, text, keys, wanted)
    ids, more_ids = _ids(connection, text, wanted)
    filters = [*ids, *_names(connection, text, wanted, bound=bound), *values]
    sizes, found_by, floor, matches = dict[str, int](), dict[str, list[JobFilter]](), "", list[Match]()
    for match, filter in filters:
        driver, end = walk_of(connection, filter, before, bound=bound)
        rows = connection.execute(page_statement(limit, before, filter, driver, end)).all()
        for row in rows:
            sizes[row.uid] = row.size
            found_by.setdefault(row.uid, []).append(filter)
        floor = max(floor, rows[-1].uid if len(rows) > limit else end or "")
        if rows:
            matches.append(match)
    ordered = sorted((uid for uid in sizes if uid >= floor), reverse=True)
    shown = ordered[: fitting_sizes((sizes[uid] for uid in ordered), limit)][:limit]
    jobs = {job.uid: job for job in jobs_by_uid(connection, shown)}
    items = [jobs[uid] for uid in shown if uid in jobs and any(is_meant(jobs[uid], one) for one in found_by[uid])]
    last = shown[-1] if len(shown) < len(ordered) else floor
    return FoundJobs(items, encode_cursor(last) if last else None, matches, (more or more_ids) and not bound)


Filters = list[tuple[Match, JobFilter]]


def _ids(connection: Connection, text: str, wanted: JobFilter) -> tuple[Filters, bool]:
    """The filter of the ids that begin with the text, and whether there are more."""
    found: list[str] = []
    bounds: dict[str, Any] = {"low": text, "high": text, "length": len(text), "count": MAX_IDS + 1}
    if len(text) >= LEAST_CHARACTERS and _ID_CHARACTERS.fullmatch(text) is not None:
        bounds["high"] = text.ljust(_LONGEST_ID, _LAST_ID_CHARACTER)
    found += run(connection, IDS_FROM, **bounds).scalars().all()
    if text.startswith(_UID) and len(text) >= len(_UID) + LEAST_CHARACTERS:
        del bounds["length"]
        found += run(connection, UIDS_FROM, **bounds).scalars().all()
    few = tuple(found[:MAX_IDS])
    return [(Match("id", text), wanted._replace(uids=few))] if few else [], len(found) > MAX_IDS


def _names(connection: Connection, text: str, wanted: JobFilter, *, bound: bool) -> Filters:
    found: Filters = []
    place = (wanted.source, wanted.account) if bound else None
    begins = _beginning_with(text)
    if wanted.group is None:
        names = [row.name for row in connection.execute(groups_statement(place))]
        for name in _chosen(text, names, begins):
            found.append((Match("group", name), wanted._replace(group=name)))
    if wanted.connect_account is None:
        named = {row.id: row.name for row in connection.execute(connect_accounts_statement(place))}
        chosen = _chosen(text, named, lambda id: begins(id) or begins(named[id] or ""))
        found += [
            (Match("connect_account", id, name=named.get(id)), wanted._replace(connect_account=id)) for id in chosen
        ]
    return found


def _chosen(text: str, names: Iterable[str], is_found: Callable[[str], bool]) -> list[str]:
    """The text itself, which an index finds, and the names that it finds."""
    return list(dict.fromkeys([text, *(name for name in names if is_found(name))]))[:MAX_NAMES]


def _beginning_with(text: str) -> Callable[[str], bool]:
    """True of a name with a word that begins with the text, whatever the case."""
    wanted = re.compile(rf"(?<!\w){re.escape(text.casefold())}")
    return lambda name: wanted.search(name.casefold()) is not None


def groups_statement(place: tuple[str | None, str | None] | None) -> Select[Any]:
    """The names of the newest groups. `place`: only those of this account."""
    given = [] if place is None else [(GROUPS.c.account, place[1])]
    statement = newest_first(select(GROUPS.c.name), given, [GROUPS.c.id])
    if place is not None:
        statement = statement.where(unindexed(GROUPS.c.source) == place[0])
    return statement.limit(NAMES_READ)


def connect_accounts_statement(place: tuple[str | None, str | None] | None) -> Select[Any]:
    """The ids and names of connect accounts. `place`: only those that this account lists."""
    columns = CONNECT_ACCOUNTS.c
    statement = select(columns.id, columns.name).where(columns.state != NEW).order_by(columns.uid).limit(NAMES_READ)
    return statement if place is None else statement.where(columns.source == place[0], columns.account == place[1])


def _values(connection: Connection, text: str, keys: Sequence[str], wanted: JobFilter) -> tuple[Filters, bool]:
    """The filters of the values that begin with the text, and whether there are more."""
    if wanted.metadata is not None:
        return [], False
    low = beginning_of(text)
    bounds = {"low": low, "high": low + b"\xff", "count": MAX_VALUES + 1}
    found: Filters = []
    more = False
    for key in dict.fromkeys(keys):
        rows = run(connection, VALUES_FROM, key=key, **bounds).all()
        more |= len(rows) > MAX_VALUES
        jobs = {job.uid: job for job in jobs_by_uid(connection, [row.uid for row in rows[:MAX_VALUES]])}
        for value in _texts(rows[:MAX_VALUES], jobs, key, text):
            found.append((Match("metadata", value, key=key), wanted._replace(metadata=(key, value))))
    return found, more


def _texts(rows: Sequence[Any], jobs: Mapping[str, Job], key: str, text: str) -> Iterable[str]:
    """The values that the rows stand for, and that begin with the text."""
    for digest, uid in rows:
        texts = texts_of(jobs[uid], key) if uid in jobs else ()
        value = next((one for one in texts if indexed(one) == bytes(digest)), None)
        if value is not None and value.casefold().startswith(text.casefold()):
            yield value
