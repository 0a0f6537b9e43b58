"""What the upstream last said of the jobs that callers read, as whole answers: a read of them costs next to nothing."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_BYTES = 64 << 20
OVERHEAD_BYTES = 500

Key = tuple[str, str, str]
"""Source, account, and the upstream's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """One job's answer. `body` is None where there is none to give; `looked_at` is in epoch seconds.

    `ended`: the job has ended, and its answer will not change any more. Else it holds within one `term` of this node's
    polling of the account, and elsewhere until `due_at`, when the node that polls looks again. `known_at`: when the job
    was known to be tracked, since another node, or retention, may erase it and the notice of that may be lost.
    """

    uid: str
    body: bytes | None = field(repr=False)
    polled_at: float
    known_at: float
    ended: bool
    term: int = 0
    due_at: float | None = None


class AnswerCache:
    """Of the jobs that were asked for last; those of jobs that nobody asks for are not kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, CachedAnswer] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Key) -> CachedAnswer | None:
        """The answer, if it is kept."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: Key, kept: CachedAnswer) -> None:
        """Keeps it, and lets go of what was asked for longest ago where that is too much."""
        self.drop(key)
        self._kept[key] = kept
        self.size_bytes += _size(kept)
        while self.size_bytes > self._max_bytes and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))

    def renew(self, key: Key, make: Callable[[], CachedAnswer]) -> None:
        """A look has shown the job: its answer is another one, where it is kept at all."""
        if key in self._kept:
            self.put(key, make())

    def drop(self, key: Key) -> None:
        """Lets go of it."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size_bytes -= _size(kept)

    def clear(self) -> None:
        """Lets go of all: somebody else may have looked at the jobs meanwhile."""
        self._kept.clear()
        self.size_bytes = 0


def _size(kept: CachedAnswer) -> int:
    return OVERHEAD_BYTES + (0 if kept.body is None else len(kept.body))
