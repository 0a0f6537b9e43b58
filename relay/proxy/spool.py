"""Keeps the body of a create until it has been sent: in memory if it is small, else in a file without a name.

All of it is read before anything is sent, because a create is sent once. Such a file disappears with the process, also
if that is killed. What all creates hold, in memory and on disk, is limited in total and for each caller, and a part of
the disk is left free.
"""

import hashlib
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import IO

from relay.api.http.limits import Admission, HeldBytes
from relay.errors import Busy, TooLarge

MEMORY_BYTES = 1 << 20
"""A larger body is in a file."""
MAX_CREATE_BYTES = 1 << 30
PART_BYTES = 64 * 1024
FREE_BYTES = 512 << 20
FREE_SHARE = 0.1
"""Minimum free space of the disk in bytes, and as a share of a smaller disk."""
CHECK_BYTES = 8 << 20
"""Bytes between two checks of the free disk space."""


class Spool:
    """The body of one create; each iteration begins at its beginning. Use it in a `with`, which frees what it holds.

    whole  all of it if it fits in memory; None before `read`
    """

    def __init__(self, admission: Admission, caller: str) -> None:
        self._in_memory = HeldBytes(admission.bodies, caller)
        self._on_disk = HeldBytes(admission.spooled, caller)
        self._file: IO[bytes] | None = None
        self._parts: list[bytes] = []
        self.whole: bytes | None = None
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._check_at_bytes = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._file is not None:
            self._file.close()
        self._in_memory.release()
        self._on_disk.release()

    @property
    def digest(self) -> str:
        """SHA-256 of what was read, in hex."""
        return self._digest.hexdigest()

    async def read(self, upload: AsyncIterable[bytes]) -> None:
        """Reads the whole body. Raises TooLarge, Busy, and what `upload` raises."""
        async for part in upload:
            self._size_bytes += len(part)
            if self._size_bytes > MAX_CREATE_BYTES:
                raise TooLarge(f"a create is larger than {MAX_CREATE_BYTES:,} bytes. Nothing was sent")
            self._digest.update(part)
            with _kept():
                self._keep(part)
        if self._file is None:
            self.whole = b"".join(self._parts)
            return
        with _kept():
            self._file.flush()  # now: a disk that is full must not show while the create is sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._file is None:
            for part in self._parts:
                yield part
            return
        self._file.seek(0)
        while part := self._file.read(PART_BYTES):
            yield part

    def _keep(self, part: bytes) -> None:
        if self._file is None and self._size_bytes <= MEMORY_BYTES:
            self._in_memory.add(len(part))
            self._parts.append(part)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `__exit__`)
            part = b"".join([*self._parts, part])
            self._parts.clear()
            self._in_memory.release()
        self._on_disk.add(len(part))
        if self._size_bytes >= self._check_at_bytes:
            self._check_at_bytes = self._size_bytes + CHECK_BYTES
            if not _has_room(os.fstatvfs(self._file.fileno())):
                raise _busy(f"the disk of {tempfile.gettempdir()} is almost full")
        self._file.write(part)


@contextmanager
def _kept() -> Iterator[None]:
    """Raises Busy if the disk refuses."""
    try:
        yield
    except OSError as error:
        raise _busy(f"it cannot be kept in {tempfile.gettempdir()} ({error.strerror})") from error


def _has_room(disk: os.statvfs_result) -> bool:
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    return free > CHECK_BYTES + min(FREE_BYTES, total * FREE_SHARE)


def _busy(why: str) -> Busy:
    headers = {"Retry-After": "30", "Connection": "close"}
    return Busy(f"{why}. Nothing was sent: send it again later", headers=headers)
