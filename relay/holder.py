"""The name under which this node holds leases: of accounts, of deliveries, of replays.

With SQLite it never changes. With PostgreSQL a name can be bound to a connection: the server knows when that has ended,
and other nodes then take at once what the name holds (see `relay.store.holders`). So a node whose connection has ended
must give up what it holds under that name before it goes on with another one.
"""

import secrets
from collections import deque
from collections.abc import Sequence

MAX_FORMER = 16
"""Names of before that are remembered: what was begun under one has ended before so many more are lost."""


class Holder:
    """One node's names."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or new_name()
        """What leases are taken under from now on."""
        self.former: Sequence[str] = ()
        """Names of before: what they hold is this node's as long as no other one has taken it."""
        self._lost: deque[str] = deque(maxlen=MAX_FORMER)

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        return (*self.former, self.name)

    def rename(self, name: str) -> None:
        """Takes leases under another name from now on. Those of the name before are kept."""
        self.former = (*self.former, self.name)[-MAX_FORMER:]
        self.name = name

    def lose(self) -> None:
        """Others may take at once what the present name holds: goes on under a new one."""
        self._lost.append(self.name)
        self.rename(new_name())

    def has_lost(self, name: str) -> bool:
        """Whether a name of this node, or that of a lease's token, was lost."""
        return bool(self._lost) and name.partition(".")[0] in self._lost

    def token(self, number: int) -> str:
        """The token of a lease: it begins with the name, so that what a node holds can be found."""
        return f"{self.name}.{number}"


def new_name() -> str:
    """A name that no other node has, bound to nothing: what it holds is free when the lease has run out."""
    return secrets.token_hex(8)
