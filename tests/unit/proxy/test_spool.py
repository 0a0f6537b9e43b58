"""The body of a create before it is sent: where it is kept, and how much all creates may hold."""

import errno
import hashlib
import io
import tempfile
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from relay.api.http.limits import Admission
from relay.errors import Busy
from relay.proxy import spool
from relay.proxy.spool import MEMORY_BYTES, PART_BYTES, Spool

GIBIBYTE = 1 << 30


async def parts(size: int, part: bytes = b"x" * PART_BYTES) -> AsyncIterator[bytes]:
    for at in range(0, size, len(part)):
        yield part[: size - at]


@pytest.fixture
def admission() -> Admission:
    return Admission()


@pytest.mark.parametrize("size", [0, 10, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES + 7])
async def test_a_body_can_be_read_twice_and_frees_what_it_held(admission: Admission, size: int) -> None:
    with Spool(admission, "crm") as spooled:
        await spooled.read(parts(size))
        in_memory = size <= MEMORY_BYTES
        assert (admission.bodies.taken, admission.spooled.taken) == ((size, 0) if in_memory else (0, size))
        assert (spooled.whole is not None) == in_memory
        for _ in range(2):
            assert b"".join([part async for part in spooled]) == b"x" * size
        assert spooled.digest == hashlib.sha256(b"x" * size).hexdigest()
    assert (admission.bodies.taken, admission.spooled.taken) == (0, 0)


async def test_creates_on_disk_are_limited_in_total_and_for_each_caller(admission: Admission) -> None:
    admission.spooled.limit, admission.spooled.limit_of_owner = 10 * MEMORY_BYTES, 6 * MEMORY_BYTES
    with Spool(admission, "crm") as first, Spool(admission, "other") as second, Spool(admission, "crm") as third:
        await first.read(parts(4 * MEMORY_BYTES))
        with pytest.raises(Busy, match="of this token") as raised:
            await third.read(parts(3 * MEMORY_BYTES))
        assert raised.value.headers["Retry-After"]
        await second.read(parts(4 * MEMORY_BYTES))
        with Spool(admission, "last") as last, pytest.raises(Busy, match="Nothing was"):
            await last.read(parts(4 * MEMORY_BYTES))
        assert admission.spooled.taken <= admission.spooled.limit
    assert admission.spooled.taken == 0


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    [
        (100 * GIBIBYTE, 1 * GIBIBYTE, True),
        (100 * GIBIBYTE, GIBIBYTE // 2, False),
        (GIBIBYTE // 2, GIBIBYTE // 8, True),
        (GIBIBYTE // 2, GIBIBYTE // 32, False),
    ],
)
async def test_a_part_of_the_disk_stays_free(
    admission: Admission, monkeypatch: pytest.MonkeyPatch, total: int, free: int, fits: bool
) -> None:
    disk = SimpleNamespace(f_frsize=4096, f_blocks=total // 4096, f_bavail=free // 4096)
    monkeypatch.setattr(spool.os, "fstatvfs", lambda _file: disk)
    with Spool(admission, "crm") as spooled:
        if fits:
            await spooled.read(parts(2 * MEMORY_BYTES))
        else:
            with pytest.raises(Busy, match="almost full"):
                await spooled.read(parts(2 * MEMORY_BYTES))


async def test_a_disk_that_fills_meanwhile_is_no_internal_error(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool.os, "fstatvfs", full)
    with Spool(admission, "crm") as spooled, pytest.raises(Busy, match="No space left on device"):
        await spooled.read(parts(2 * MEMORY_BYTES))


async def test_a_disk_that_is_full_shows_before_anything_is_sent(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(Full, "fileno", lambda _self: 0)
    with Spool(admission, "crm") as spooled, pytest.raises(Busy, match="No space left on device"):
        await spooled.read(parts(2 * MEMORY_BYTES))
