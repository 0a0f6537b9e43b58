"""The name under which this node holds leases of accounts, deliveries and replays.

On SQLite it never changes. On PostgreSQL a name can be bound to a connection: when the connection ends, other nodes
take over what the name holds (see `relay.store.databases.lease_owners`). The node must then release it and continue
under a new name.
"""

import secrets
from collections import deque
from collections.abc import Sequence

MAX_FORMER = 16
"""Number of former names remembered. Work begun under one has ended before that many more are lost."""


class LeaseOwner:
    """One node's names."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or new_name()
        """The name for new leases."""
        self.former: Sequence[str] = ()
        """Former names. Their leases are still this node's until another node takes them."""
        self._lost: deque[str] = deque(maxlen=MAX_FORMER)

    @property
    def names(self) -> Sequence[str]:
        """All names, the current one last."""
        return (*self.former, self.name)

    def rename(self, name: str) -> None:
        """Takes new leases under another name. Leases under the old name are kept."""
        self.former = (*self.former, self.name)[-MAX_FORMER:]
        self.name = name

    def lose(self) -> None:
        """Continues under a new name, because other nodes may take what the current one holds."""
        self._lost.append(self.name)
        self.rename(new_name())

    def has_lost(self, name: str) -> bool:
        """True if a name of this node, or the name in a lease token, was lost."""
        return bool(self._lost) and name.partition(".")[0] in self._lost

    def token(self, number: int) -> str:
        """A lease token. It begins with the name, so that a node's leases can be found."""
        return f"{self.name}.{number}"


def new_name() -> str:
    """A unique name that is not bound: what it holds is released when the lease expires."""
    return secrets.token_hex(8)
