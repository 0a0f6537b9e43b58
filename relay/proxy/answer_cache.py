"""LRU cache of complete answers to job reads. `reads.py` decides when an answer may be served."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_BYTES = 64 << 20
OVERHEAD_BYTES = 500

Key = tuple[str, str, str]
"""(source, account, upstream job id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """One job's answer. Times are epoch seconds.

    body      None if there is no item to serve yet
    known_at  when the database last showed the job as tracked; its deletion elsewhere may go unnoticed
    ended     the job has ended, so the answer is final
    term      the polling term (`Poller.term`) in which an open job's answer is valid
    due_at    the next planned poll; bounds an open job's answer while another node polls the account
    """

    uid: str
    body: bytes | None = field(repr=False)
    polled_at: float
    known_at: float
    ended: bool
    term: int = 0
    due_at: float | None = None


class AnswerCache:
    """Least recently used answers, bounded in bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._answers: OrderedDict[Key, CachedAnswer] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Key) -> CachedAnswer | None:
        """The cached answer; None on a miss."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: Key, answer: CachedAnswer) -> None:
        """Stores an answer and evicts the least recently used ones over the limit."""
        self.drop(key)
        self._answers[key] = answer
        self.size_bytes += _size(answer)
        while self.size_bytes > self._max_bytes and len(self._answers) > 1:
            self.drop(next(iter(self._answers)))

    def renew(self, key: Key, make: Callable[[], CachedAnswer]) -> None:
        """Replaces the answer after a poll, if the job is cached."""
        if key in self._answers:
            self.put(key, make())

    def drop(self, key: Key) -> None:
        """Removes one answer."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size_bytes -= _size(answer)

    def clear(self) -> None:
        """Removes all answers: another node may have polled these jobs meanwhile."""
        self._answers.clear()
        self.size_bytes = 0


def _size(answer: CachedAnswer) -> int:
    return OVERHEAD_BYTES + (0 if answer.body is None else len(answer.body))
