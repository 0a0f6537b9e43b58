"""Whether the loops of a node move: what decides if it reports that it is alive."""

from collections.abc import Mapping

from relay.core.values import value_class

TURN_SECONDS = 90.0
"""Maximum time between two turns of a loop. An idle one turns every 30 s."""
WORK_SECONDS = 150.0
"""Maximum time without an end while there is work in flight. A poll or an attempt takes 60 s at most, and recording it
up to 30 s while the database is slow."""


@value_class(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a loop has done since it started.

    turns      completed turns
    ended      polls or attempts that ended, whatever their outcome
    in_flight  polls or attempts that have not ended
    """

    turns: int
    ended: int
    in_flight: int


class Movement:
    """Compares the progress of loops over time. An idle loop moves: its turns go on."""

    def __init__(self) -> None:
        self._seen: dict[str, Progress] = {}
        self._turned_at: dict[str, float] = {}
        self._worked_at: dict[str, float] = {}

    def stuck(self, loops: Mapping[str, Progress], now: float) -> str | None:
        """Which loop is stuck and how, or None. Call it at least once every TURN_SECONDS.

        A loop that is seen for the first time counts as moving. `now` is in seconds of a clock that is never set.
        """
        problem = None
        for name, progress in loops.items():
            before = self._seen.get(name)
            if before is None or progress.turns != before.turns:
                self._turned_at[name] = now
            if before is None or progress.ended != before.ended or not progress.in_flight or not before.in_flight:
                self._worked_at[name] = now
            self._seen[name] = progress
            still_seconds, held_seconds = now - self._turned_at[name], now - self._worked_at[name]
            if still_seconds > TURN_SECONDS:
                problem = f"{name} has not turned for {still_seconds:.0f} s"
            elif held_seconds > WORK_SECONDS:
                problem = f"{name} has {progress.in_flight} in flight, and none has ended for {held_seconds:.0f} s"
        return problem
