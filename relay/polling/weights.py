"""What the planned jobs of an account weigh: each its own weight, and more while clients wait for it."""

from relay.core.job import NORMAL_WEIGHT

WAITING_CLIENT_WEIGHT = 4.0
"""How many times its own weight a job has while a client waits for it."""


class Weights:
    """Remembers only what is not normal: a million jobs of normal weight take nothing."""

    def __init__(self) -> None:
        self._own: dict[str, float] = {}
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        """How many jobs something is remembered of."""
        return len(self._own.keys() | self._clients.keys())

    def own(self, uid: str) -> float:
        """What the job weighs by itself."""
        return self._own.get(uid, NORMAL_WEIGHT)

    def of(self, uid: str) -> float:
        """What it weighs now."""
        return self.own(uid) * WAITING_CLIENT_WEIGHT if uid in self._clients else self.own(uid)

    def remember(self, uid: str, weight: float) -> None:
        """This is its own weight from now on."""
        if weight == NORMAL_WEIGHT:
            self._own.pop(uid, None)
        else:
            self._own[uid] = weight

    def forget(self, uid: str) -> None:
        """It is not planned any more. Clients may go on waiting for it."""
        self._own.pop(uid, None)

    def forget_all(self) -> None:
        """None is planned any more."""
        self._own.clear()

    def wait(self, uid: str) -> None:
        """One more client waits for it."""
        self._clients[uid] = self._clients.get(uid, 0) + 1

    def leave(self, uid: str) -> None:
        """One of them waits no longer."""
        left = self._clients.pop(uid) - 1
        if left:
            self._clients[uid] = left
