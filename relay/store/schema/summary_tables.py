"""Tables that sum up jobs for people: groups, incidents, connect accounts. See `tables` for the conventions."""

from typing import Any, ClassVar

from sqlalchemy import Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from relay.store.schema.tables import Json, LargeCount, OptionalCount, OptionalText, Text, TextKey, partial_index

_NOT_CLOSED = text("state IN ('watching', 'open')")


class GroupRow(SQLModel, table=True):
    """Jobs that belong together, see `relay/core/jobs/groups.py`. Written in the transaction that changes one of its
    jobs.

    counts       jobs by state; `failures`: failed jobs by error code
    closed_at    since when no more jobs come
    finished_at  when this round finished; NULL: it has not
    last_at      when its latest job was registered; `max_gap_seconds`: the longest time between two of them
    due_at       when it finishes unless a job changes; NULL: not before one does
    """

    __tablename__: ClassVar[str] = "groups"
    __table_args__ = (
        UniqueConstraint("source", "account", "name"),
        # by name alone
        Index("ix_groups_name", "name"),
        # list pages with account=, and of a token bound to an account
        Index("ix_groups_account", "account", "id"),
        # list pages with source=
        Index("ix_groups_source", "source", "id"),
        # upkeep: groups that may have finished
        partial_index("ix_groups_due", "due_at", "id", where="due_at IS NOT NULL"),
        # list pages with state=open; retention: rounds finished before a time
        partial_index("ix_groups_open", "id", where="finished_at IS NULL"),
        partial_index("ix_groups_finished", "finished_at", "id", where="finished_at IS NOT NULL"),
    )

    id: TextKey
    source: Text
    account: Text
    name: Text
    round: int = 1
    expected: OptionalCount = None
    closed_at: float | None = None
    counts: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    skipped: LargeCount = 0
    failures: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    first_at: float
    last_at: float
    max_gap_seconds: float = 0.0
    finished_at: float | None = None
    due_at: float | None = None


class IncidentRow(SQLModel, table=True):
    """Failures with one cause, see `relay/core/incidents.py`. Written in the transaction that records a failure.

    digest       of what its failures have in common: its source, account, connect account, subscription and code
    state        watching (too few failures to be reported), open, closed
    recent       times of the failures while watching
    told_count   the number of failures in the last event
    due_at       when upkeep reviews it: whether it can be closed, or forgotten while watching
    sink         of a subscription, without its path
    """

    __tablename__: ClassVar[str] = "incidents"
    __table_args__ = (
        # a failure: the incident it belongs to
        Index(
            "uq_incidents_digest",
            "digest",
            unique=True,
            sqlite_where=_NOT_CLOSED,
            postgresql_where=_NOT_CLOSED,
        ),
        # a failure with a new cause: how many its account has already, and the oldest one watched; the open ones of a
        # connect account that recovers
        Index(
            "ix_incidents_live",
            "owner",
            "state",
            "due_at",
            sqlite_where=_NOT_CLOSED,
            postgresql_where=_NOT_CLOSED,
        ),
        # upkeep: incidents to review
        partial_index("ix_incidents_due", "due_at", "id", where="due_at IS NOT NULL"),
        # list pages, with and without state=; watching ones are not shown
        partial_index("ix_incidents_shown", "id", where="state <> 'watching'"),
        partial_index("ix_incidents_open", "id", where="state = 'open'"),
        # list pages of a token bound to an account, and with source= and account=
        Index("ix_incidents_owner", "owner", "id"),
        # retention: incidents closed before a time
        partial_index("ix_incidents_closed_at", "closed_at", "id", where="closed_at IS NOT NULL"),
    )

    id: TextKey
    digest: Text
    kind: Text
    source: OptionalText = None
    account: OptionalText = None
    owner: OptionalText = None
    connect_account_id: OptionalText = None
    subscription_id: OptionalText = None
    sink: OptionalText = None
    code: OptionalText = None
    channel: OptionalText = None
    state: Text
    recent: list[float] = Field(default_factory=list, sa_type=Json)
    failed_count: LargeCount = 0
    told_count: LargeCount = 0
    first_failure_at: float
    last_failure_at: float
    opened_at: float | None = None
    closed_at: float | None = None
    closed_because: OptionalText = None
    hint: dict[str, Any] | None = Field(default=None, sa_type=Json)
    due_at: float | None = None


class ConnectAccountRow(SQLModel, table=True):
    """An account that an upstream account sends from, see `relay/core/jobs/connect_accounts.py`.

    uid           where list pages continue: the upstream's ids may be of any form
    status        the upstream's own
    state         ok, needs_reconnect, cannot_send, removed; or new: not confirmed yet. `since`: since when
    unconfirmed   the state that one listing has shown and a second one must confirm, and when it was first shown
    changes       times of its latest changes of state
    told_state    the state in the last event, `told_at`: when
    """

    __tablename__: ClassVar[str] = "connect_accounts"
    __table_args__ = (
        # list pages
        Index("uq_connect_accounts_uid", "uid", unique=True),
        # retention: accounts removed before a time
        partial_index("ix_connect_accounts_removed", "since", where="state = 'removed'"),
    )

    source: TextKey
    account: TextKey
    id: TextKey
    uid: Text
    channel: OptionalText = None
    name: OptionalText = None
    status: OptionalText = None
    can_send: int | None = None
    state: Text
    since: float
    unconfirmed: OptionalText = None
    unconfirmed_at: float | None = None
    changes: list[float] = Field(default_factory=list, sa_type=Json)
    told_state: Text
    told_at: float | None = None
