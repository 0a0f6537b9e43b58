"""The rows by which jobs are found by their metadata, written in the transaction that writes the metadata."""

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection

from relay.core.jobs.job import Job
from relay.core.jobs.search import searchable
from relay.store.databases.statements import insert_into, json_list, run, run_many, sql
from relay.store.schema.tables import JobSearchRow

SLICE = 200
"""Rows read at a time to find those whose job is gone."""

# Writes a value of a job's metadata.
INSERT_SEARCH = insert_into(JobSearchRow, "key", "digest", "job_uid")
# Deletes what one job was found by.
DELETE_SEARCH = "DELETE FROM job_search WHERE job_uid = :uid"
# Deletes what deleted jobs were found by.
DELETE_SEARCH_OF_GONE_JOBS = sql(
    """
DELETE FROM job_search WHERE job_uid IN $json_values(uids) AND NOT EXISTS (
  SELECT 1 FROM jobs WHERE uid = job_search.job_uid
)
"""
)
# The jobs of the next rows by which jobs are found, and whether they no longer exist. Not EXISTS: inside of another
# expression PostgreSQL may answer it with a hash of all jobs.
SEARCH_SLICE = f"""
SELECT job_uid, CASE WHEN (SELECT 1 FROM jobs WHERE uid = job_search.job_uid) IS NULL THEN 1 ELSE 0 END AS gone
FROM job_search WHERE job_uid > :after ORDER BY job_uid LIMIT {SLICE}
"""


def write_search(connection: Connection, keys: Sequence[str], jobs: Iterable[Job]) -> None:
    """Makes jobs that have no rows yet findable by these keys of their metadata."""
    rows = [{"key": key, "digest": digest, "job_uid": job.uid} for job in jobs for key, digest in searchable(job, keys)]
    run_many(connection, INSERT_SEARCH, rows)


def delete_search(connection: Connection, uid: str) -> None:
    """Makes a job not findable."""
    run(connection, DELETE_SEARCH, uid=uid)


def delete_search_of_gone(connection: Connection, uids: Sequence[str]) -> int:
    """The same for those of these jobs that were deleted. Returns how many rows that were."""
    return run(connection, DELETE_SEARCH_OF_GONE_JOBS, uids=json_list(uids)).rowcount


def next_gone(connection: Connection, after: str) -> tuple[list[str], str | None]:
    """The jobs of the next SLICE rows that no longer exist, and where to continue (None: at the end)."""
    rows = run(connection, SEARCH_SLICE, after=after).all()
    gone = {row.job_uid for row in rows if row.gone}
    return sorted(gone), rows[-1].job_uid if len(rows) == SLICE else None
