"""Weights of an account's planned jobs: a job's own weight, raised while clients wait for it."""

from relay.core.jobs.job import NORMAL_WEIGHT

WAITING_CLIENT_WEIGHT = 4.0
"""Factor on a job's own weight while a client waits for it."""


class Weights:
    """Stores only weights other than the normal one, so a million normal jobs take no memory."""

    def __init__(self) -> None:
        self._own: dict[str, float] = {}
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of jobs with an entry."""
        return len(self._own.keys() | self._clients.keys())

    def own(self, uid: str) -> float:
        """The job's own weight, without waiting clients."""
        return self._own.get(uid, NORMAL_WEIGHT)

    def effective(self, uid: str) -> float:
        """The weight to plan with."""
        return self.own(uid) * WAITING_CLIENT_WEIGHT if uid in self._clients else self.own(uid)

    def set_own(self, uid: str, weight: float) -> None:
        """Sets the job's own weight."""
        if weight == NORMAL_WEIGHT:
            self._own.pop(uid, None)
        else:
            self._own[uid] = weight

    def forget(self, uid: str) -> None:
        """Drops the job's own weight. Waiting clients still count."""
        self._own.pop(uid, None)

    def forget_all(self) -> None:
        """Drops every own weight."""
        self._own.clear()

    def add_client(self, uid: str) -> None:
        """A client starts to wait for the job."""
        self._clients[uid] = self._clients.get(uid, 0) + 1

    def remove_client(self, uid: str) -> None:
        """A client stops waiting for the job."""
        left = self._clients.pop(uid) - 1
        if left:
            self._clients[uid] = left
