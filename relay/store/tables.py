"""Every table as a SQLModel class: the one description that migrations, queries and checks share.

Times are epoch seconds (UTC) in double precision. JSON bytes and ciphertexts are blobs. The comment above each index
names the query that it serves.
"""

from typing import Any, ClassVar

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.event import listen
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMING

OPEN_DELIVERY = "state IN ('pending', 'blocked')"
LISTED_DELIVERY = f"{OPEN_DELIVERY} AND created_at >= 0"
"""The same rows, for list pages. The second condition keeps PostgreSQL from choosing the list index for the hot
statements when its statistics say that no row is open."""


def _json() -> Any:
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _text(*, nullable: bool = False, primary_key: bool = False) -> Any:
    return Column(Text, nullable=nullable, primary_key=primary_key)


def _seconds(*, nullable: bool = True) -> Any:
    return Column(Float(53), nullable=nullable)


def _count() -> Any:
    return Column(Integer, nullable=False, default=0)


def _large_count() -> Any:
    return Column(BigInteger().with_variant(Integer, "sqlite"), nullable=False, default=0)


def _position() -> Any:
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _blob(*, nullable: bool = True) -> Any:
    return Column(LargeBinary, nullable=nullable)


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class JobRow(SQLModel, table=True):
    """A job that the relay tracks or has tracked. `deadline_seconds`: how long after its schedule it becomes
    overdue."""

    __tablename__: ClassVar[str] = "jobs"
    __table_args__ = (
        UniqueConstraint("external_id", "source", "account"),
        # start-up: the open jobs of one account; count of open jobs
        _partial("ix_jobs_open", "source", "account", "uid", where="closed_at IS NULL"),
        # list pages with open=true
        _partial("ix_jobs_open_uid", "uid", where="closed_at IS NULL"),
        # list pages with open=false
        _partial("ix_jobs_closed_uid", "uid", where="closed_at IS NOT NULL"),
        # upkeep: the expired deadlines of an account
        _partial(
            "ix_jobs_deadline", "source", "account", "deadline_at", "uid", where="closed_at IS NULL AND overdue = 0"
        ),
        # retention: jobs closed before a time
        _partial("ix_jobs_closed", "closed_at", "uid", where="closed_at IS NOT NULL"),
        # list pages with status=
        Index("ix_jobs_status_uid", "status", "uid"),
        # list pages with account=, and with source= and account=
        Index("ix_jobs_account_uid", "account", "uid"),
        # list pages with source=
        Index("ix_jobs_source_uid", "source", "uid"),
    )

    uid: str = Field(sa_column=_text(primary_key=True))
    source: str = Field(sa_column=_text())
    account: str = Field(sa_column=_text())
    external_id: str = Field(sa_column=_text())
    status: str | None = Field(default=None, sa_column=_text(nullable=True))
    phase: str | None = Field(default=None, sa_column=_text(nullable=True))
    outcome: str | None = Field(default=None, sa_column=_text(nullable=True))
    sequence: int = Field(default=0, sa_column=_count())
    retry_count: int = Field(default=0, sa_column=_count())
    running_sent: int = Field(default=0, sa_column=_count())
    running_started_at: float | None = Field(default=None, sa_column=_seconds())
    overdue: int = Field(default=0, sa_column=_count())
    action: str | None = Field(default=None, sa_column=_text(nullable=True))
    channel: str | None = Field(default=None, sa_column=_text(nullable=True))
    scheduled_at: float | None = Field(default=None, sa_column=_seconds())
    started_at: float | None = Field(default=None, sa_column=_seconds())
    next_attempt_at: float | None = Field(default=None, sa_column=_seconds())
    attempt_count: int = Field(default=0, sa_column=_count())
    spacing_seconds: float | None = Field(default=None, sa_column=_seconds())
    weight: float = Field(default=1.0, sa_column=Column(Float(53), nullable=False, default=1.0))
    tracked_at: float = Field(sa_column=_seconds(nullable=False))
    last_polled_at: float | None = Field(default=None, sa_column=_seconds())
    next_poll_at: float | None = Field(default=None, sa_column=_seconds())
    poll_step: int = Field(default=0, sa_column=Column(SmallInteger, nullable=False, server_default="0"))
    closed_at: float | None = Field(default=None, sa_column=_seconds())
    deadline_at: float | None = Field(default=None, sa_column=_seconds())
    deadline_seconds: float | None = Field(default=None, sa_column=_seconds())
    poll_count: int = Field(default=0, sa_column=_count())
    failure_count: int = Field(default=0, sa_column=_count())
    missing_count: int = Field(default=0, sa_column=_count())
    missing_since: float | None = Field(default=None, sa_column=_seconds())
    last_error: dict[str, Any] | None = Field(default=None, sa_column=Column(_json(), nullable=True))
    job_metadata: bytes = Field(default=b"{}", sa_column=Column("metadata", LargeBinary, nullable=False))
    upstream: bytes | None = Field(default=None, sa_column=_blob())
    request: bytes | None = Field(default=None, sa_column=_blob())
    connect_account_id: str | None = Field(default=None, sa_column=_text(nullable=True))


class EventRow(SQLModel, table=True):
    """An event, rendered once. `position` is the commit order."""

    __tablename__: ClassVar[str] = "events"
    __table_args__ = (
        UniqueConstraint("id"),
        UniqueConstraint("job_uid", "sequence"),
        # list pages with type=, with subject=, and by time only; the last one also serves retention
        Index("ix_events_type", "type", "recorded_at", "position"),
        Index("ix_events_subject", "subject", "recorded_at", "position"),
        Index("ix_events_recorded_at", "recorded_at", "position"),
        {"sqlite_autoincrement": True},
    )

    position: int | None = Field(default=None, sa_column=_position())
    id: str = Field(sa_column=_text())
    job_uid: str | None = Field(default=None, sa_column=_text(nullable=True))
    sequence: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    type: str = Field(sa_column=_text())
    source: str = Field(sa_column=_text())
    subject: str | None = Field(default=None, sa_column=_text(nullable=True))
    time: float = Field(sa_column=_seconds(nullable=False))
    recorded_at: float = Field(sa_column=_seconds(nullable=False))
    body: bytes = Field(sa_column=_blob(nullable=False))


class SubscriptionRow(SQLModel, table=True):
    """Where events go. `sealed` holds the sink and the custom headers, encrypted, because both can be credentials."""

    __tablename__: ClassVar[str] = "subscriptions"
    __table_args__ = (
        # registration: one subscription per callback URL
        Index(
            "uq_subscriptions_callback",
            "sink_digest",
            unique=True,
            sqlite_where=text("callback = 1"),
            postgresql_where=text("callback = 1"),
        ),
        # list pages without callbacks
        _partial("ix_subscriptions_listed", "id", where="callback = 0"),
        # the failing sinks, which nodes read from each other
        _partial("ix_subscriptions_failing", "failing_since", where="failing_since IS NOT NULL"),
    )

    id: str = Field(sa_column=_text(primary_key=True))
    kind: str = Field(sa_column=_text())
    sink_digest: str = Field(sa_column=_text())
    sealed: bytes = Field(sa_column=_blob(nullable=False))
    types: list[str] | None = Field(default=None, sa_column=Column(_json(), nullable=True))
    source: str | None = Field(default=None, sa_column=_text(nullable=True))
    state: str = Field(default="enabled", sa_column=_text())
    state_since: float | None = Field(default=None, sa_column=_seconds())
    state_reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    callback: int = Field(default=0, sa_column=_count())
    config: dict[str, Any] = Field(default_factory=dict, sa_column=Column(_json(), nullable=False))
    description: str | None = Field(default=None, sa_column=_text(nullable=True))
    created_at: float = Field(sa_column=_seconds(nullable=False))
    start_at: float | None = Field(default=None, sa_column=_seconds())
    failing_since: float | None = Field(default=None, sa_column=_seconds())
    failing_reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    paused_until: float | None = Field(default=None, sa_column=_seconds())
    probe_at: float | None = Field(default=None, sa_column=_seconds())
    drain_since: float | None = Field(default=None, sa_column=_seconds())


class SecretRow(SQLModel, table=True):
    """A signing secret, encrypted. `owner`: a subscription's id, or `callbacks` for the relay's default."""

    __tablename__: ClassVar[str] = "secrets"
    __table_args__ = (
        # the secrets of an owner
        Index("ix_secrets_owner", "owner"),
        # retention: rotated secrets that have expired
        _partial("ix_secrets_expires_at", "expires_at", where="expires_at IS NOT NULL"),
    )

    id: str = Field(sa_column=_text(primary_key=True))
    owner: str = Field(sa_column=_text())
    ciphertext: bytes = Field(sa_column=_blob(nullable=False))
    created_at: float = Field(sa_column=_seconds(nullable=False))
    expires_at: float | None = Field(default=None, sa_column=_seconds())


class DeliveryRow(SQLModel, table=True):
    """One event on its way to one subscription.

    state     pending (the head of its job and subscription), blocked (a follower), delivered, dead, cancelled
    priority  0 first attempts, 1 retries and the backlog of a failing sink, 2 manual retries and replays, which have
              heads and followers of their own
    due_at    when it may be claimed: the next attempt, or the end of its holder's lease
    replay    the replay that counts its end; NULL again once counted
    was       the state that stopping the replay restores; NULL if it was open without the replay
    """

    __tablename__: ClassVar[str] = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "subscription_id"),
        # claim: the due heads of one subscription, first attempts first
        _partial("ix_deliveries_due", "subscription_id", "priority", "due_at", where="state = 'pending'"),
        # insert: is an earlier one open? promote: the next one of this job and subscription
        _partial("ix_deliveries_open", "job_uid", "subscription_id", "sequence", where=OPEN_DELIVERY),
        # start-up: leases that a crash left behind
        _partial("ix_deliveries_lease", "lease_token", where="lease_token IS NOT NULL"),
        # list pages with state=dead and state=cancelled
        _partial("ix_deliveries_dead", "id", where="state = 'dead'"),
        _partial("ix_deliveries_cancelled", "id", where="state = 'cancelled'"),
        # list pages with state=pending
        _partial("ix_deliveries_pending", "id", where=LISTED_DELIVERY),
        # list pages with subscription=
        Index("ix_deliveries_subscription_id_id", "subscription_id", "id"),
        # replays: open deliveries of each, and those that ended since its last step
        _partial("ix_deliveries_replay", "replay", where="replay IS NOT NULL"),
    )

    id: str = Field(sa_column=_text(primary_key=True))
    event_id: str = Field(sa_column=_text())
    subscription_id: str = Field(sa_column=_text())
    job_uid: str | None = Field(default=None, sa_column=_text(nullable=True))
    sequence: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    state: str = Field(sa_column=_text())
    priority: int = Field(default=0, sa_column=_count())
    due_at: float = Field(sa_column=_seconds(nullable=False))
    attempt_count: int = Field(default=0, sa_column=_count())
    made_count: int = Field(default=0, sa_column=_count())
    lease_token: str | None = Field(default=None, sa_column=_text(nullable=True))
    created_at: float = Field(sa_column=_seconds(nullable=False))
    ended_at: float | None = Field(default=None, sa_column=_seconds())
    reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    replay: str | None = Field(default=None, sa_column=_text(nullable=True))
    was: str | None = Field(default=None, sa_column=_text(nullable=True))


class AttemptRow(SQLModel, table=True):
    """One attempt at a delivery, with secrets redacted. `position` is the commit order.

    details  for display only, one JSON list: request and response headers, timings, when the next attempt was planned,
             and whether the excerpt is hex
    """

    __tablename__: ClassVar[str] = "attempts"
    # the attempts of a delivery, in order
    __table_args__ = (Index("ix_attempts_delivery_id_number", "delivery_id", "number"),)

    position: int | None = Field(default=None, sa_column=_position())
    delivery_id: str = Field(sa_column=_text())
    number: int = Field(sa_column=Column(Integer, nullable=False))
    started_at: float = Field(sa_column=_seconds(nullable=False))
    duration_ms: float = Field(sa_column=_seconds(nullable=False))
    status_code: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    error: str | None = Field(default=None, sa_column=_text(nullable=True))
    details: bytes | None = Field(default=None, sa_column=_blob())
    response_excerpt: str | None = Field(default=None, sa_column=_text(nullable=True))
    remote_ip: str | None = Field(default=None, sa_column=_text(nullable=True))
    decision: str | None = Field(default=None, sa_column=_text(nullable=True))


class AccountRow(SQLModel, table=True):
    """An upstream account: its polling health and since when, an adopted API key, the node that holds its polling
    lease and until when, and the planner's saved plan (JSON)."""

    __tablename__: ClassVar[str] = "accounts"

    source: str = Field(sa_column=_text(primary_key=True))
    name: str = Field(sa_column=_text(primary_key=True))
    state: str = Field(default="ok", sa_column=Column(Text, nullable=False, default="ok"))
    since: float | None = Field(default=None, sa_column=_seconds())
    problem: dict[str, Any] | None = Field(default=None, sa_column=Column(_json(), nullable=True))
    key_ciphertext: bytes | None = Field(default=None, sa_column=_blob())
    holder: str | None = Field(default=None, sa_column=_text(nullable=True))
    held_until: float | None = Field(default=None, sa_column=_seconds())
    plan: str | None = Field(default=None, sa_column=_text(nullable=True))


class HazardRow(SQLModel, table=True):
    """What the planner has learned of one class of a source's jobs, and from how many events."""

    __tablename__: ClassVar[str] = "hazards"

    source: str = Field(sa_column=_text(primary_key=True))
    name: str = Field(sa_column=_text(primary_key=True))
    event_count: float = Field(sa_column=_seconds(nullable=False))
    values_json: str = Field(sa_column=_text())
    updated_at: float = Field(sa_column=_seconds(nullable=False))


class JobCallbackRow(SQLModel, table=True):
    """The callback subscriptions of a job. `types`: the event types each one receives (a JSON list), NULL for all."""

    __tablename__: ClassVar[str] = "job_callbacks"
    # removal of a callback subscription
    __table_args__ = (Index("ix_job_callbacks_subscription_id", "subscription_id"),)

    job_uid: str = Field(sa_column=_text(primary_key=True))
    subscription_id: str = Field(sa_column=_text(primary_key=True))
    types: str | None = Field(default=None, sa_column=_text(nullable=True))


class IdempotencyRow(SQLModel, table=True):
    """A stored response. `id` is the digest of token, method, path and key.

    holder  the request that holds the key until `held_until`, while there is no response (`status_code` is NULL)
    """

    __tablename__: ClassVar[str] = "idempotency_keys"
    # retention: responses stored before a time
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    id: str = Field(sa_column=_text(primary_key=True))
    body_digest: str = Field(sa_column=_text())
    status_code: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    ciphertext: bytes | None = Field(default=None, sa_column=_blob())
    created_at: float = Field(sa_column=_seconds(nullable=False))
    holder: str | None = Field(default=None, sa_column=_text(nullable=True))
    held_until: float | None = Field(default=None, sa_column=_seconds())


class IntentRow(SQLModel, table=True):
    """A create that a caller sends through the relay: written before it is sent, deleted once its fate is known.

    id      begins with the time of `created_at`, so everything sent before a time is a range of ids
    reason  why the fate is unknown; NULL while the request is in flight
    told    1 once an event has reported the unknown fate, or a person has resolved it and no event is needed
    fate    what a person found out; the row is then kept as a record
    sealed  the callback URL and its types, encrypted, because the URL can be a credential
    """

    __tablename__: ClassVar[str] = "intents"
    __table_args__ = (
        # settle: earlier creates with the same Idempotency-Key and body. Indexed by the body's digest, because a key
        # may be longer than PostgreSQL's index limit (2,704 bytes)
        _partial("ix_intents_repeat", "source", "account", "path", "body_digest", where="idempotency_key IS NOT NULL"),
        # list pages and count of creates of unknown fate, without those in flight
        _partial("ix_intents_unknown", "id", where="reason IS NOT NULL AND fate IS NULL"),
        # creates of unknown fate that no event has reported yet; those in flight have no reason
        _partial("ix_intents_untold", "reason", "id", where="told = 0"),
    )

    id: str = Field(sa_column=_text(primary_key=True))
    source: str = Field(sa_column=_text())
    account: str = Field(sa_column=_text())
    path: str = Field(sa_column=_text())
    body_digest: str = Field(sa_column=_text())
    idempotency_key: str | None = Field(default=None, sa_column=_text(nullable=True))
    created_at: float = Field(sa_column=_seconds(nullable=False))
    reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    status_code: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    channel: str | None = Field(default=None, sa_column=_text(nullable=True))
    connect_account_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    request: bytes | None = Field(default=None, sa_column=_blob())
    intent_metadata: bytes | None = Field(default=None, sa_column=Column("metadata", LargeBinary, nullable=True))
    sealed: bytes | None = Field(default=None, sa_column=_blob())
    told: int = Field(default=0, sa_column=Column(SmallInteger, nullable=False, server_default="0"))
    fate: str | None = Field(default=None, sa_column=_text(nullable=True))
    job_id: str | None = Field(default=None, sa_column=_text(nullable=True))


class ReplayRow(SQLModel, table=True):
    """Events that are sent again, and the progress of that.

    position         the last event processed, of those up to `last_position`
    which            see `ReplayRequest.only`
    matched          deliveries to send, counted at the beginning
    passed           how many of them were processed; `queued` of those are open or have ended
    delivered, dead  outcomes counted so far
    holder           the node that advances it until `held_until`
    """

    __tablename__: ClassVar[str] = "replays"
    __table_args__ = (
        # scheduler: the running replays
        _partial("ix_replays_running", "id", where="state = 'running'"),
        # retention: replays that ended before a time
        _partial("ix_replays_ended_at", "ended_at", where="ended_at IS NOT NULL"),
    )

    id: str = Field(sa_column=_text(primary_key=True))
    subscription_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    state: str = Field(sa_column=_text())
    since: float = Field(sa_column=_seconds(nullable=False))
    until: float = Field(sa_column=_seconds(nullable=False))
    types: list[str] | None = Field(default=None, sa_column=Column(_json(), nullable=True))
    which: str = Field(sa_column=_text())
    reason: str | None = Field(default=None, sa_column=_text(nullable=True))
    position: int = Field(sa_column=_large_count())
    last_position: int = Field(sa_column=_large_count())
    matched: int = Field(sa_column=_large_count())
    passed: int = Field(default=0, sa_column=_large_count())
    queued: int = Field(default=0, sa_column=_large_count())
    delivered: int = Field(default=0, sa_column=_large_count())
    dead: int = Field(default=0, sa_column=_large_count())
    holder: str | None = Field(default=None, sa_column=_text(nullable=True))
    held_until: float | None = Field(default=None, sa_column=_seconds())
    created_at: float = Field(sa_column=_seconds(nullable=False))
    ended_at: float | None = Field(default=None, sa_column=_seconds())


class VersionRow(SQLModel, table=True):
    """Counters that invalidate the caches of other nodes: `subscriptions`, `callbacks`."""

    __tablename__: ClassVar[str] = "versions"

    name: str = Field(sa_column=_text(primary_key=True))
    number: int = Field(sa_column=_count())


# Several nodes commit in a different order than they begin. A stream therefore follows the transaction that wrote an
# event, and stops below the oldest open one (PostgreSQL, "System Information Functions"). 0: the event was restored
# from another server's dump, see `EventStore.adopt_restored`.
EVENT_TRANSACTIONS = (
    "ALTER TABLE events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()",
    "CREATE INDEX ix_events_xid ON events (xid, position)",
)
for _statement in EVENT_TRANSACTIONS:
    _after_create = DDL(_statement).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
    listen(EventRow.__table__, "after_create", _after_create)  # type: ignore[attr-defined]
