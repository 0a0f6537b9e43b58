"""SQLite's write-ahead log as bytes: which transactions are complete (sqlite.org/fileformat2.html, section 4)."""

import struct
from dataclasses import dataclass

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
MAGIC = 0x377F0682


@dataclass(frozen=True, slots=True, kw_only=True)
class Wal:
    """`salts` differ between generations: once all of a log is in the main file, it restarts over the old one.
    `commit_ends`: the offset after each complete transaction of this generation, in order."""

    salts: bytes
    page_bytes: int
    commit_ends: tuple[int, ...]

    @property
    def end(self) -> int:
        """After the last complete transaction; anything beyond is ignored."""
        return self.commit_ends[-1] if self.commit_ends else 0


def read_wal(content: bytes) -> Wal:
    """A log without transactions if the header is empty or torn."""
    nothing = Wal(salts=b"", page_bytes=0, commit_ends=())
    if len(content) < HEADER_BYTES:
        return nothing
    magic, _version, page_bytes, _number = struct.unpack(">4I", content[:16])
    salts = content[16:24]
    if magic not in (MAGIC, MAGIC + 1):
        return nothing
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, content[:24], (0, 0))
    if sums != struct.unpack(">2I", content[24:32]):
        return nothing
    ends: list[int] = []
    size = FRAME_HEADER_BYTES + page_bytes
    for at in range(HEADER_BYTES, len(content) - size + 1, size):
        frame = content[at : at + size]
        sums = _checksum(order, frame[FRAME_HEADER_BYTES:], _checksum(order, frame[:8], sums))
        if frame[8:16] != salts or sums != struct.unpack(">2I", frame[16:24]):
            break
        if frame[4:8] != bytes(4):
            ends.append(at + size)
    return Wal(salts=salts, page_bytes=page_bytes, commit_ends=tuple(ends))


def _checksum(order: str, content: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
