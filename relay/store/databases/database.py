"""The interface of a database, which `sqlite` and `postgres` implement, and stores limited to one account.

The limit is part of the store, not of its callers: `within` returns the same store with an account, and every method
that a caller can reach another account's rows through adds it to its conditions. A row of another account is then
answered exactly like one that does not exist.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, Protocol, TypeVar

from relay.clock import Clock
from relay.core.events.event import owner_of
from relay.store.databases.group_commit import Batch, Item, Result


class Database(Protocol):
    """The interface of `SqliteDatabase` and `PostgresDatabase`, which document the methods."""

    @property
    def commit_count(self) -> int: ...
    @property
    def item_count(self) -> int: ...
    @property
    def trouble(self) -> str | None: ...
    def on_end(self, *, commit: Callable[[], None], rollback: Callable[[], None]) -> None: ...
    async def write(self, batch: Batch[Item, Result], item: Item) -> Result: ...
    async def call(self, batch: Batch[Item, Result | None], item: Item) -> Result | None: ...
    async def read(self, query: Callable[..., Result], *arguments: Any) -> Result: ...
    async def read_beside(self, query: Callable[..., Result], *arguments: Any) -> Result: ...
    def try_read(self, query: Callable[..., Result], *arguments: Any) -> Result | None: ...
    async def size_bytes(self) -> int: ...
    async def compact(self) -> None: ...
    @property
    def shared(self) -> bool: ...
    def clock(self, clock: Clock) -> Clock: ...
    def lease_clock(self, clock: Clock) -> Clock: ...
    async def listen(self, on_notice: Callable[[str], None], on_name: Callable[[str | None], None]) -> None: ...
    async def close(self) -> None: ...


class Cipher(Protocol):
    """Encrypts stored values. `context` binds a ciphertext to its row."""

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """The ciphertext."""

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext. Raises DecryptError."""


Account = tuple[str, str]
"""Its source and its name."""

Self = TypeVar("Self", bound="Scoped")


class Scoped:
    """A store that can be limited to one account."""

    _account: Account | None = None

    def within(self: Self, account: Account) -> Self:
        """This store as a token bound to the account sees it."""
        view = copy(self)
        view._account = account
        return view

    @property
    def _owner(self) -> str | None:
        """The `owner` of the rows that may be seen; None: all may."""
        return None if self._account is None else owner_of(*self._account)

    def _sees(self, owner: str | None) -> bool:
        return self._account is None or owner == owner_of(*self._account)
