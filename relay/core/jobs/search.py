"""Search by metadata: the values that a job can be found by, of its own metadata and of its create's. Pure.

A value is found by a digest of its text, so that a stored row has the same size for every value and none of its text.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from relay.core.jobs.job import Job
from relay.core.jsontext import dumps

MAX_VALUE_CHARACTERS = 1_000
DIGEST_BYTES = 16


def digest_of(text: str) -> bytes:
    """What a value is found by: the first 16 bytes of the SHA-256 of its text."""
    return sha256(text.encode(errors="surrogatepass")).digest()[:DIGEST_BYTES]


def text_of(value: Any) -> str | None:
    """The text of a value: a string as it is, a number or a boolean as in JSON. None for a value that cannot be
    searched for: null, a list, an object, and a text of more than MAX_VALUE_CHARACTERS."""
    if isinstance(value, bool | int | float):
        value = dumps(value).decode()
    return value if isinstance(value, str) and len(value) <= MAX_VALUE_CHARACTERS else None


def texts_of(job: Job, key: str) -> Iterator[str]:
    """The texts that a job can be found by with this key."""
    created = None if job.request is None else job.request.get("metadata")
    for metadata in (job.metadata, created):
        text = text_of(metadata.get(key)) if isinstance(metadata, Mapping) else None
        if text is not None:
            yield text


def searchable(job: Job, keys: Sequence[str]) -> set[tuple[str, bytes]]:
    """The keys and the digests that a job can be found by."""
    if not job.metadata and job.request is None:
        return set()
    return {(key, digest_of(text)) for key in keys for text in texts_of(job, key)}
