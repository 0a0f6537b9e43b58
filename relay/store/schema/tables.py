"""Every table as a SQLModel class: the one description that migrations, queries and checks share.

Times are epoch seconds (UTC) in double precision. JSON bytes and ciphertexts are blobs. The comment above each index
names the query that it serves.
"""

from typing import Annotated, Any, ClassVar

from sqlalchemy import DDL, JSON, BigInteger, Index, Integer, SmallInteger, UniqueConstraint, text
from sqlalchemy import Text as SqlText
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.event import listen
from sqlmodel import Field, SQLModel

from relay.core.deliveries.delivery import SKIPPED_REASONS

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMING
SQLModel.model_config["defer_build"] = True  # rows are never validated: no validator is made

UNENDED_JOB = "(outcome IS NULL OR outcome IN ('untracked', 'not_found'))"
"""Jobs whose end the relay has not seen: open ones, and those that it no longer tracks."""
UNSUCCESSFUL_JOB = "status || '' IN ('failed', 'cancelled')"
"""The empty text keeps SQLite from seeking by it instead of by a page's bounds."""
OPEN_WITH_ACCOUNT = "closed_at IS NULL AND connect_account_id IS NOT NULL"
OPEN_DELIVERY = "state IN ('pending', 'blocked')"
OPEN_STATE = "|| '' IN ('pending', 'blocked')"
"""After a state: whether it is an open one, for deliveries that are found by their ids."""
LISTED_DELIVERY = f"{OPEN_DELIVERY} AND created_at >= 0"
"""The same rows, for list pages. The second condition keeps PostgreSQL from choosing the list index for the hot
statements when its statistics say that no row is open."""
SKIPPED_DELIVERY = f"state = 'cancelled' AND reason IN {SKIPPED_REASONS}"
"""Deliveries that were not sent because their events name no contact of the sink."""


Text = Annotated[str, Field(sa_type=SqlText)]
Resource = Annotated[str, Field(sa_type=SqlText, sa_column_kwargs={"server_default": ""})]
OptionalText = Annotated[str | None, Field(sa_type=SqlText)]
TextKey = Annotated[str, Field(sa_type=SqlText, primary_key=True)]
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
LargeInteger = BigInteger().with_variant(Integer, "sqlite")
Position = Annotated[int | None, Field(sa_type=LargeInteger, primary_key=True)]
Sealed = Annotated[bytes, Field(sa_column_kwargs={"info": {"sealed": True}})]
"""A ciphertext, bound to the row's primary key (its columns joined by slashes). Rotation of the encryption keys finds
such columns by this type: see `relay.store.access.ciphertexts`."""
OptionalSealed = Annotated[bytes | None, Field(sa_column_kwargs={"info": {"sealed": True}})]
LargeCount = Annotated[int, Field(sa_type=LargeInteger)]
OptionalCount = Annotated[int | None, Field(sa_type=LargeInteger)]


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows for which `where` holds."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class JobRow(SQLModel, table=True):
    """A job that the relay tracks or has tracked.

    resource          empty for the first one of the source's definition
    deadline_seconds  how long after its schedule it becomes overdue
    group_round       the round of its group that counts it
    error_code        of a failed job
    captured          the recipient of its create, if `proxy.capture` is set
    status_url        where it is read, if that is not where its source's jobs are read by their ids
    told              the progress that the last event about it had
    trace             as `TraceContext.kept` writes it
    """

    __tablename__: ClassVar[str] = "jobs"
    __table_args__ = (
        UniqueConstraint("external_id", "source", "account", "resource"),
        # start-up: the open jobs of one account; count of open jobs
        partial_index("ix_jobs_open", "source", "account", "uid", where="closed_at IS NULL"),
        # list pages with open=true, and with the status of an open job; jobs registered since one
        partial_index("ix_jobs_unended", "uid", where=UNENDED_JOB),
        # upkeep: the expired deadlines of an account
        partial_index(
            "ix_jobs_deadline", "source", "account", "deadline_at", "uid", where="closed_at IS NULL AND overdue = 0"
        ),
        # retention: jobs closed before a time
        partial_index("ix_jobs_closed", "closed_at", "uid", where="closed_at IS NOT NULL"),
        # list pages with status=failed and status=cancelled
        partial_index("ix_jobs_unsuccessful", "status", "uid", where=UNSUCCESSFUL_JOB),
        # list pages with account=, and with source= and account=
        Index("ix_jobs_account_uid", "account", "uid"),
        # list pages with group=; whether any job of it is left
        partial_index("ix_jobs_group", "group_name", "uid", where="group_name IS NOT NULL"),
        # list pages with channel=
        partial_index("ix_jobs_channel", "channel", "uid", where="channel IS NOT NULL"),
        # list pages with connect_account=
        partial_index("ix_jobs_connect", "connect_account_id", "uid", where="connect_account_id IS NOT NULL"),
        # start-up and rotation: the encryption keys of captured recipients
        partial_index("ix_jobs_captured", "uid", where="captured IS NOT NULL"),
        # the same of addresses
        partial_index("ix_jobs_status_url", "uid", where="status_url IS NOT NULL"),
        # a group's open jobs by channel and scheduled time, and those that ended last
        partial_index(
            "ix_jobs_group_work",
            *("source", "account", "group_name", "closed_at", "channel", "scheduled_at"),
            where="group_name IS NOT NULL",
        ),
        # list pages: the failed jobs of an incident
        partial_index(
            "ix_jobs_failed",
            *("source", "account", "error_code", "connect_account_id", "closed_at", "uid"),
            where="error_code IS NOT NULL",
        ),
        # how many open jobs name a connect account
        partial_index(
            "ix_jobs_open_connect", "source", "account", "connect_account_id", "uid", where=OPEN_WITH_ACCOUNT
        ),
        # Room for another version of a row on its page: a poll without news then writes no index entries.
        {"postgresql_with": {"fillfactor": 85}},
    )

    uid: TextKey
    source: Text
    account: Text
    external_id: Text
    status: OptionalText = None
    phase: OptionalText = None
    outcome: OptionalText = None
    sequence: int = 0
    retry_count: int = 0
    running_sent: int = 0
    running_started_at: float | None = None
    overdue: int = 0
    action: OptionalText = None
    channel: OptionalText = None
    scheduled_at: float | None = None
    started_at: float | None = None
    next_attempt_at: float | None = None
    attempt_count: int = 0
    spacing_seconds: float | None = None
    weight: float = 1.0
    tracked_at: float
    last_polled_at: float | None = None
    next_poll_at: float | None = None
    poll_step: int = Field(default=0, sa_type=SmallInteger, sa_column_kwargs={"server_default": "0"})
    closed_at: float | None = None
    deadline_at: float | None = None
    deadline_seconds: float | None = None
    poll_count: int = 0
    failure_count: int = 0
    missing_count: int = 0
    missing_since: float | None = None
    last_error: dict[str, Any] | None = Field(default=None, sa_type=Json)
    job_metadata: bytes = Field(default=b"{}", sa_column_kwargs={"name": "metadata"})
    upstream: bytes | None = None
    request: bytes | None = None
    connect_account_id: OptionalText = None
    group_name: OptionalText = None
    group_round: int | None = None
    result_status: OptionalText = None
    error_code: OptionalText = None
    captured: OptionalSealed = None
    resource: Resource = ""
    status_url: OptionalSealed = None
    told: bytes | None = None
    trace: OptionalText = None


class EventRow(SQLModel, table=True):
    """An event, rendered once. `position` is the commit order; `owner` the account it is about, as source/account.

    stream    of a published event with a partition key; `sequence` is then its place in the stream
    identity  of a published event: a digest of its owner, its source and the id that it came with
    """

    __tablename__: ClassVar[str] = "events"
    __table_args__ = (
        UniqueConstraint("id"),
        UniqueConstraint("job_uid", "sequence"),
        # list pages with type=, with subject=, and by time only; the last one also serves retention
        Index("ix_events_type", "type", "recorded_at", "position"),
        Index("ix_events_subject", "subject", "recorded_at", "position"),
        Index("ix_events_recorded_at", "recorded_at", "position"),
        # list pages of a token bound to an account
        Index("ix_events_owner", "owner", "recorded_at", "position"),
        # publishing: the events that are known already
        partial_index("uq_events_identity", "identity", where="identity IS NOT NULL", unique=True),
        {"sqlite_autoincrement": True},
    )

    position: Position = None
    id: Text
    job_uid: OptionalText = None
    sequence: int | None = None
    type: Text
    source: Text
    subject: OptionalText = None
    time: float
    recorded_at: float
    body: bytes
    owner: OptionalText = None
    stream: OptionalText = None
    identity: OptionalText = None


class StreamRow(SQLModel, table=True):
    """The published events of one owner and partition key. Its lock is for its events what a job's is for those of a
    job. `sequence`: the place of the last one; `used_at`: when it was recorded, or up to an hour earlier, so that most
    events do not change the index."""

    __tablename__: ClassVar[str] = "streams"
    # retention: streams that nothing was published to since a time
    __table_args__ = (Index("ix_streams_used_at", "used_at"),)

    uid: TextKey
    sequence: int
    used_at: float


class SubscriptionRow(SQLModel, table=True):
    """A sink and its events. `sealed` holds the sink, the custom headers and the sink's credential, encrypted.

    owner          the account it is limited to, as source/account; NULL: none
    consent        the result of the handshake with the sink of its digest: `core.subscriptions.subscription.Consent`
    handshake_at   while pending: when its sink is asked, or the end of the turn of the node that asks
    refresh_until  until then one node trades the credential's refresh token or, after a failure, no node does
    creator        the token that made it, for `auth.max_subscriptions_per_token`; NULL: not known, or a callback
    """

    __tablename__: ClassVar[str] = "subscriptions"
    __table_args__ = (
        # registration: one subscription per callback URL
        partial_index("uq_subscriptions_callback", "sink_digest", where="callback = 1", unique=True),
        # list pages without callbacks
        partial_index("ix_subscriptions_listed", "id", where="callback = 0"),
        # all subscriptions, and list pages, of a token bound to an account
        partial_index("ix_subscriptions_owner", "owner", "id", where="owner IS NOT NULL"),
        # handshakes: the pending subscriptions whose sink is asked next
        partial_index("ix_subscriptions_handshake", "handshake_at", "id", where="state = 'pending'"),
        # the failing sinks, which nodes read from each other
        partial_index("ix_subscriptions_failing", "failing_since", where="failing_since IS NOT NULL"),
    )

    id: TextKey
    kind: Text
    sink_digest: Text
    sealed: Sealed
    types: list[str] | None = Field(default=None, sa_type=Json)
    source: OptionalText = None
    owner: OptionalText = None
    state: Text = "enabled"
    state_since: float | None = None
    state_reason: OptionalText = None
    callback: int = 0
    config: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    description: OptionalText = None
    created_at: float
    start_at: float | None = None
    failing_since: float | None = None
    failing_reason: OptionalText = None
    paused_until: float | None = None
    probe_at: float | None = None
    drain_since: float | None = None
    refresh_until: float | None = None
    consent: dict[str, Any] | None = Field(default=None, sa_type=Json)
    handshake_at: float | None = None
    creator: OptionalText = None


class SecretRow(SQLModel, table=True):
    """A signing secret, encrypted. `owner`: a subscription's id, `callbacks` for the relay's default, `signing` for its
    ed25519 private keys."""

    __tablename__: ClassVar[str] = "secrets"
    __table_args__ = (
        # the secrets of an owner
        Index("ix_secrets_owner", "owner"),
        # retention: rotated secrets that have expired
        partial_index("ix_secrets_expires_at", "expires_at", where="expires_at IS NOT NULL"),
    )

    id: TextKey
    owner: Text
    ciphertext: Sealed
    created_at: float
    expires_at: float | None = None


class DeliveryRow(SQLModel, table=True):
    """One event on its way to one subscription.

    job_uid   the key of its order: its event's job or stream (`Event.order_key`)
    state     pending (the head of its job and subscription), blocked (a follower), delivered, dead, cancelled,
              uncertain (the sink may have accepted it)
    priority  0 first attempts, 1 retries and the backlog of a failing sink, 2 manual retries and replays, which have
              heads and followers of their own
    due_at    when it may be claimed: the next attempt, or the end of its holder's lease. Below 0: at once, by every
              clock, see `core.deliveries.delivery.at_once`
    replay    the replay that counts its end; NULL again once counted
    was       the state that stopping the replay restores; NULL if it was open without the replay
    owner     the subscription's owner
    alone     1 once a bundle with it was refused: it is sent by itself
    round     how often it was sent again by a replay or by hand
    """

    __tablename__: ClassVar[str] = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "subscription_id"),
        # claim: the due heads of one subscription, first attempts first
        partial_index("ix_deliveries_due", "subscription_id", "priority", "due_at", where="state = 'pending'"),
        # insert: is an earlier one open? promote: the next one of this job and subscription
        partial_index("ix_deliveries_open", "job_uid", "subscription_id", "sequence", where=OPEN_DELIVERY),
        # start-up: leases that a crash left behind
        partial_index("ix_deliveries_lease", "lease_token", where="lease_token IS NOT NULL"),
        # list pages with state=dead, state=cancelled and state=uncertain
        partial_index("ix_deliveries_dead", "id", where="state = 'dead'"),
        partial_index("ix_deliveries_cancelled", "id", where="state = 'cancelled'"),
        partial_index("ix_deliveries_uncertain", "id", where="state = 'uncertain'"),
        # the number of skipped deliveries of a subscription, and since when
        partial_index("ix_deliveries_skipped", "subscription_id", "created_at", where=SKIPPED_DELIVERY),
        # list pages with state=pending
        partial_index("ix_deliveries_pending", "id", where=LISTED_DELIVERY),
        # list pages with subscription=
        Index("ix_deliveries_subscription_id_id", "subscription_id", "id"),
        # list pages of a token bound to an account
        partial_index("ix_deliveries_owner", "owner", "id", where="owner IS NOT NULL"),
        # replays: open deliveries of each, and those that ended since its last step
        partial_index("ix_deliveries_replay", "replay", where="replay IS NOT NULL"),
    )

    id: TextKey
    event_id: Text
    subscription_id: Text
    job_uid: OptionalText = None
    sequence: int | None = None
    state: Text
    priority: int = 0
    due_at: float
    attempt_count: int = 0
    made_count: int = 0
    lease_token: OptionalText = None
    created_at: float
    ended_at: float | None = None
    reason: OptionalText = None
    replay: OptionalText = None
    was: OptionalText = None
    owner: OptionalText = None
    alone: int = Field(default=0, sa_type=SmallInteger, sa_column_kwargs={"server_default": "0"})
    round: int = Field(default=0, sa_column_kwargs={"server_default": "0"})


class AttemptRow(SQLModel, table=True):
    """One attempt at a delivery, with secrets redacted. `position` is the commit order.

    details  for display only, one JSON list: request and response headers, timings, when the next attempt was planned,
             whether the excerpt is hex and, of a dry run, its requests
    """

    __tablename__: ClassVar[str] = "attempts"
    # the attempts of a delivery, in order
    __table_args__ = (Index("ix_attempts_delivery_id_number", "delivery_id", "number"),)

    position: Position = None
    delivery_id: Text
    number: int
    started_at: float
    duration_ms: float
    status_code: int | None = None
    error: OptionalText = None
    details: bytes | None = None
    response_excerpt: OptionalText = None
    remote_ip: OptionalText = None
    decision: OptionalText = None


class AccountRow(SQLModel, table=True):
    """An upstream account: its polling health and since when, an adopted API key, the node that holds its polling
    lease and until when, the planner's saved plan (JSON), when its connect accounts were last listed, and since when
    its credits are known to be low."""

    __tablename__: ClassVar[str] = "accounts"

    source: TextKey
    name: TextKey
    state: Text = "ok"
    since: float | None = None
    problem: dict[str, Any] | None = Field(default=None, sa_type=Json)
    key_ciphertext: OptionalSealed = None
    holder: OptionalText = None
    held_until: float | None = None
    plan: OptionalText = None
    listed_at: float | None = None
    credits_low_since: float | None = None


class HazardRow(SQLModel, table=True):
    """Statistics of one class of a source's jobs, and the number of events behind them."""

    __tablename__: ClassVar[str] = "hazards"

    source: TextKey
    name: TextKey
    event_count: float
    values_json: Text
    updated_at: float


class JobCallbackRow(SQLModel, table=True):
    """The callback subscriptions of a job. `types`: the event types each one receives (a JSON list), NULL for all."""

    __tablename__: ClassVar[str] = "job_callbacks"
    # removal of a callback subscription
    __table_args__ = (Index("ix_job_callbacks_subscription_id", "subscription_id"),)

    job_uid: TextKey
    subscription_id: TextKey
    types: OptionalText = None


class IdempotencyRow(SQLModel, table=True):
    """A stored response. `id` is the digest of token, method, path and key.

    holder  the request that holds the key until `held_until`, while there is no response (`status_code` is NULL)
    """

    __tablename__: ClassVar[str] = "idempotency_keys"
    # retention: responses stored before a time
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    id: TextKey
    body_digest: Text
    status_code: int | None = None
    ciphertext: OptionalSealed = None
    created_at: float
    holder: OptionalText = None
    held_until: float | None = None


class IntentRow(SQLModel, table=True):
    """A create that a caller sends through the relay: written before it is sent, deleted once its fate is known.

    id      begins with the time of `created_at`, so everything sent before a time is a range of ids
    reason  why the fate is unknown; NULL while the request is in flight
    told    1 once an event has reported the unknown fate, or a person has resolved it and no event is needed
    fate    the finding of a person; the row is then kept as a record
    sealed  the callback URL and its types, encrypted, because the URL can be a credential
    """

    __tablename__: ClassVar[str] = "intents"
    __table_args__ = (
        # settle: earlier creates with the same Idempotency-Key and body. Indexed by the body's digest, because a key
        # may be longer than PostgreSQL's index limit (2,704 bytes)
        partial_index(
            "ix_intents_repeat", "source", "account", "path", "body_digest", where="idempotency_key IS NOT NULL"
        ),
        # list pages and count of creates of unknown fate, without those in flight
        partial_index("ix_intents_unknown", "id", where="reason IS NOT NULL AND fate IS NULL"),
        # creates of unknown fate that no event has reported yet; those in flight have no reason
        partial_index("ix_intents_untold", "reason", "id", where="told = 0"),
    )

    id: TextKey
    source: Text
    account: Text
    resource: Resource = ""
    path: Text
    body_digest: Text
    idempotency_key: OptionalText = None
    created_at: float
    reason: OptionalText = None
    status_code: int | None = None
    channel: OptionalText = None
    connect_account_id: OptionalText = None
    request: bytes | None = None
    intent_metadata: bytes | None = Field(default=None, sa_column_kwargs={"name": "metadata"})
    sealed: OptionalSealed = None
    told: int = Field(default=0, sa_type=SmallInteger, sa_column_kwargs={"server_default": "0"})
    fate: OptionalText = None
    job_id: OptionalText = None
    group_name: OptionalText = None
    group_size: OptionalCount = None


class ReplayRow(SQLModel, table=True):
    """Events that are sent again, and the progress of that.

    position         the last event processed, of those up to `last_position`
    which            see `ReplayRequest.only`
    matched          deliveries to send, counted at the beginning
    passed           how many of them were processed; `queued` of those are open or have ended
    delivered, dead  outcomes counted so far
    holder           the node that advances it until `held_until`
    owner            the account of the bound token that started it; NULL: it was not bound
    """

    __tablename__: ClassVar[str] = "replays"
    __table_args__ = (
        # scheduler: the running replays
        partial_index("ix_replays_running", "id", where="state = 'running'"),
        # retention: replays that ended before a time
        partial_index("ix_replays_ended_at", "ended_at", where="ended_at IS NOT NULL"),
    )

    id: TextKey
    subscription_id: OptionalText = None
    owner: OptionalText = None
    state: Text
    since: float
    until: float
    types: list[str] | None = Field(default=None, sa_type=Json)
    which: Text
    reason: OptionalText = None
    position: LargeCount = 0
    last_position: LargeCount = 0
    matched: LargeCount = 0
    passed: LargeCount = 0
    queued: LargeCount = 0
    delivered: LargeCount = 0
    dead: LargeCount = 0
    holder: OptionalText = None
    held_until: float | None = None
    created_at: float
    ended_at: float | None = None


class TokenRow(SQLModel, table=True):
    """An API token. A revoked one has no row.

    digest           the SHA-256 of the secret, in hex. The secret itself is stored nowhere
    source, account  the account that it is bound to; NULL: all of them
    networks         where callers may come from; empty: anywhere
    """

    __tablename__: ClassVar[str] = "tokens"
    __table_args__ = (UniqueConstraint("name"), UniqueConstraint("digest"))

    id: TextKey
    name: Text
    digest: Text
    scopes: list[str] = Field(default_factory=list, sa_type=Json)
    created_at: float
    created_by: Text
    expires_at: float | None = None
    last_used_at: float | None = None
    source: OptionalText = None
    account: OptionalText = None
    networks: list[str] = Field(default_factory=list, sa_type=Json)
    requests_per_minute: int | None = None


class AuditRow(SQLModel, table=True):
    """One entry of the audit, see `AuditRecord` and `AuditEntry` in `relay/core/access/audit.py`. Rows are never
    updated, and deleted only up to the number that an `audit.cut` names: triggers refuse anything else.

    id  begins with the time of `at`
    """

    __tablename__: ClassVar[str] = "audit"
    __table_args__ = (
        # list pages, newest first
        Index("ix_audit_id", "id", unique=True),
        # list pages with action=, and with actor=; cuts
        Index("ix_audit_action_id", "action", "id"),
        Index("ix_audit_actor_id", "actor", "id"),
        # list pages: whether a started entry has ended
        partial_index("ix_audit_ends", "ends", where="ends IS NOT NULL"),
    )

    number: Annotated[int, Field(sa_type=LargeInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})]
    id: Text
    at: float
    action: Text
    actor: OptionalText = None
    token_id: OptionalText = None
    target: OptionalText = None
    address: OptionalText = None
    result: Text
    status: int | None = None
    times: LargeCount = 1
    request_id: OptionalText = None
    ends: OptionalCount = None
    detail: bytes
    previous: bytes
    mac: bytes


class CallbackHostRow(SQLModel, table=True):
    """A host that a caller's callbacks go to. `caller`: a token, or an account whose key was sent."""

    __tablename__: ClassVar[str] = "callback_hosts"
    # retention: hosts that their callers have not named since a time
    __table_args__ = (Index("ix_callback_hosts_used_at", "used_at"),)

    caller: TextKey
    host: TextKey
    used_at: float


class SinkMemoryRow(SQLModel, table=True):
    """A fact about a sink that a subscription remembers under a key, such as the chat message that shows a group.

    data   JSON, see `relay.core.deliveries.dialogue.Memory`
    token  the delivery whose turn it is until `held_until`; NULL: none has it
    """

    __tablename__: ClassVar[str] = "sink_memories"
    __table_args__ = (
        # erasure: the memories about a group
        Index("ix_sink_memories_key", "key"),
        # retention: rows not written since a time
        Index("ix_sink_memories_updated_at", "updated_at"),
    )

    subscription_id: TextKey
    key: TextKey
    data: Text
    token: OptionalText = None
    held_until: float | None = None
    updated_at: float


class FigureRow(SQLModel, table=True):
    """A count or a sum of one minute, hour or day, for charts. A crash may lose the last seconds of it.

    span    minute, hour or day
    label   the account as source/account, or a subscription's id; "" for the whole relay
    bucket  the class of size of durations (see `core.figures`); 0 of anything else
    count   how often it happened, or how many values there are
    total   the sum of the values
    """

    __tablename__: ClassVar[str] = "figures"
    # retention: figures of a span from before a time
    __table_args__ = (Index("ix_figures_span", "span", "began_at"),)

    name: TextKey
    label: TextKey
    span: TextKey
    began_at: Annotated[float, Field(primary_key=True)]
    bucket: Annotated[int, Field(primary_key=True)]
    count: LargeCount = 0
    total: float = 0.0


class SessionRow(SQLModel, table=True):
    """A browser that is signed in to the dashboard. A row has the digests of the session's secret and of its token, no
    secret.

    kind          session, or link: a link that makes one session, once
    token_digest  digest of its token: a session ends with its token
    name          of the token
    """

    __tablename__: ClassVar[str] = "sessions"
    __table_args__ = (
        # retention: sessions and links that have expired
        Index("ix_sessions_expires_at", "expires_at"),
        # a new one: the oldest of its token go
        Index("ix_sessions_token", "token_digest", "kind", "created_at"),
    )

    digest: TextKey
    kind: Text
    token_digest: Text
    name: Text
    created_at: float
    expires_at: float


class JobSearchRow(SQLModel, table=True):
    """A value in a job's metadata that `web.search_keys` makes searchable. `digest`: the beginning of the
    value and a digest of it, see `relay.core.jobs.job.indexed`."""

    __tablename__: ClassVar[str] = "job_search"
    # erasure and retention: the rows of a job
    __table_args__ = (Index("ix_job_search_job_uid", "job_uid"),)

    key: TextKey
    digest: Annotated[bytes, Field(primary_key=True)]
    job_uid: TextKey


class VersionRow(SQLModel, table=True):
    """Counters that invalidate the caches of other nodes: `subscriptions`, `callbacks`, `tokens`."""

    __tablename__: ClassVar[str] = "versions"

    name: TextKey
    number: int = 0


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

_CUT = "SELECT 1 FROM audit WHERE action = 'audit.cut' AND times >= OLD.number"
AUDIT_IS_APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
        f"CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit WHEN NOT EXISTS ({_CUT}) "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'DELETE' AND EXISTS ({_CUT}) THEN RETURN OLD; END IF; "
        "RAISE EXCEPTION 'the audit is append-only'; END $$",
        "CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_append_only()",
        "CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ),
}
"""Refuses changes by the program's own mistakes and by hand. Verification finds what is changed without them."""
for _database, _statements in AUDIT_IS_APPEND_ONLY.items():
    for _statement in _statements:
        _after_create = DDL(_statement).execute_if(dialect=_database)  # type: ignore[no-untyped-call]
        listen(AuditRow.__table__, "after_create", _after_create)  # type: ignore[attr-defined]


_NOT_CLOSED = "state IN ('watching', 'open')"


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

    digest       of the facts that its failures share: its source, account, connect account, subscription and code
    state        watching (too few failures to be reported), open, closed
    recent       times of the failures while watching
    told_count   the number of failures in the last event
    due_at       when upkeep reviews it: whether it can be closed, or forgotten while watching
    sink         of a subscription, without its path
    """

    __tablename__: ClassVar[str] = "incidents"
    __table_args__ = (
        # a failure: the incident it belongs to
        partial_index("uq_incidents_digest", "digest", where=_NOT_CLOSED, unique=True),
        # a failure with a new cause: how many its account has already, and the oldest one watched; the open ones of a
        # connect account that recovers
        partial_index("ix_incidents_live", "owner", "state", "due_at", where=_NOT_CLOSED),
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
