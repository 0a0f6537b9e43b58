"""values of metadata are found by their beginning

The rows of `job_search` had a digest of the value only. They are written again from the metadata of their jobs. Values
that the metadata no longer has cannot be found, and their rows are removed.
"""

from hashlib import sha256

from alembic import op
from relay.core.jsontext import JSONDecodeError, dumps, loads
from sqlalchemy import text

revision = '0029'
down_revision = '0028'
branch_labels = None
depends_on = None

COUNT = 5_000
NEXT = text('SELECT DISTINCT job_uid FROM job_search WHERE job_uid > :after ORDER BY job_uid LIMIT :count')
ROWS = text(
    'SELECT s.key, s.digest, s.job_uid, j.metadata, j.request FROM job_search AS s LEFT JOIN jobs AS j'
    ' ON j.uid = s.job_uid WHERE s.job_uid > :after AND s.job_uid <= :last'
)
DELETE = text('DELETE FROM job_search WHERE job_uid > :after AND job_uid <= :last')
INSERT = text('INSERT INTO job_search (key, digest, job_uid) VALUES (:key, :digest, :job_uid)')


def digest_of(value):
    return sha256(value.encode(errors='surrogatepass')).digest()[:16]


def indexed(value):
    beginning = value.casefold().encode(errors='surrogatepass')[:32]
    return beginning + b'\0' + digest_of(value)[:8]


def upgrade() -> None:
    change(digest_of, indexed)


def downgrade() -> None:
    change(indexed, digest_of)


def change(before, after) -> None:
    connection, last = op.get_bind(), ''
    while uids := connection.execute(NEXT, {'after': last, 'count': COUNT}).scalars().all():
        bounds = {'after': last, 'last': uids[-1]}
        rows = connection.execute(ROWS, bounds).all()
        connection.execute(DELETE, bounds)
        made = {
            (row.key, after(value), row.job_uid)
            for row in rows
            for value in values_of(row)
            if before(value) == bytes(row.digest)
        }
        if made:
            connection.execute(INSERT, [dict(zip(('key', 'digest', 'job_uid'), one)) for one in sorted(made)])
        last = uids[-1]


def values_of(row):
    """The texts of the values that the job has with the row's key: in its metadata, and in those of its create."""
    of_create = read(row.request).get('metadata')
    for metadata in (read(row.metadata), of_create if isinstance(of_create, dict) else {}):
        value = metadata.get(row.key)
        if isinstance(value, str):
            yield value
        elif isinstance(value, bool | int | float):
            yield dumps(value).decode()


def read(document):
    try:
        found = loads(bytes(document or b'{}'))
    except JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
