"""The rows by which jobs are found by their metadata, written in the transaction that writes the metadata."""

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection

from relay.core.job import Job
from relay.core.search import searchable
from relay.store.statements import insert_into, json_list, run, run_many, sql
from relay.store.tables import JobSearchRow

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
