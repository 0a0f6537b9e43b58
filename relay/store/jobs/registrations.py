"""Registration: a job is tracked, found tracked already, or reopened."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.engine import Connection

from relay.core.jobs.groups import Closing, place_of_job
from relay.core.jobs.job import NORMAL_WEIGHT, Job, deadline_of
from relay.core.jsontext import dumps
from relay.core.records import Registered, Registration
from relay.errors import Conflict, FieldError, InvalidRequest, RequestError
from relay.store.databases.database import Cipher
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify
from relay.store.databases.statements import SQLITE, insert_into, json_list, run, run_many, sql, table_of
from relay.store.jobs.groups import GroupLedger
from relay.store.jobs.intents import end_registered, resolve_sent
from relay.store.jobs.job_pages import delete_search, write_search
from relay.store.outbox.recording import (
    INSERT_DELIVERY,
    Outbox,
    delivery_values,
    lock_jobs,
    open_pairs,
)
from relay.store.rows import JOB_COLUMNS, event_from, job_from, observation_values, progress_values
from relay.store.schema.tables import EventRow, JobCallbackRow, JobRow

JOBS, EVENTS = table_of(JobRow), table_of(EventRow)

_EXTERNAL_IDS = sql("external_id IN $json_values(external_ids)")
# The tracked jobs of some external ids.
BY_EXTERNAL_IDS = {
    SQLITE: select(*JOB_COLUMNS).where(text(_EXTERNAL_IDS.sqlite)),
    # locked, so that the row found is the row changed; in key order, as everywhere
    "postgresql": select(*JOB_COLUMNS).where(_EXTERNAL_IDS.postgresql).order_by(JOBS.c.uid).with_for_update(),
}
# One job.
BY_UID = select(*JOB_COLUMNS).where(JOBS.c.uid == bindparam("uid"))
# The past events of a job, for a new callback. Protected until their deliveries exist: retention deletes only events
# without open deliveries.
EVENTS_OF_JOB = (
    select(EVENTS)
    .where(EVENTS.c.job_uid == bindparam("job_uid"))
    .order_by(EVENTS.c.sequence)
    .with_for_update(read=True, key_share=True)
)
# Writes new jobs.
INSERT_JOB = insert_into(
    JobRow,
    *("uid", "external_id", "source", "account", "tracked_at", "deadline_at", "deadline_seconds", "metadata", "weight"),
    *("spacing_seconds", "request", "connect_account_id", "group_name", "group_round", "result_status", "error_code"),
    "captured",
    *("status", "phase", "sequence", "retry_count", "running_sent", "running_started_at", "overdue"),
    *("action", "channel", "scheduled_at", "started_at", "next_attempt_at", "attempt_count", "upstream"),
    constants={"poll_count": "0", "failure_count": "0", "missing_count": "0"},
)
# Links another callback subscription to a job that may have only so many. The job's row is locked.
ADD_CALLBACK = """
INSERT INTO job_callbacks (job_uid, subscription_id, types) SELECT :job_uid, :subscription_id, :types
WHERE (SELECT COUNT(*) FROM job_callbacks WHERE job_uid = :job_uid) < :max_callbacks
ON CONFLICT DO NOTHING
"""
# Whether a callback subscription is linked to a job.
IS_LINKED = "SELECT 1 FROM job_callbacks WHERE job_uid = :job_uid AND subscription_id = :subscription_id"
# Links a callback subscription to a new job.
INSERT_CALLBACK = f"{insert_into(JobCallbackRow, 'job_uid', 'subscription_id', 'types')} ON CONFLICT DO NOTHING"
# Changes the event types of a job's callback.
CHANGE_CALLBACK = """
UPDATE job_callbacks SET types = :types WHERE job_uid = :job_uid AND subscription_id = :subscription_id
"""
UNLIMITED = 1 << 30
CALLBACK_REMOVED = "callback_removed"
RESUMABLE = ("untracked", "not_found")

Key = tuple[str, str, str]


class Registrar:
    """The batch function of registrations. `search_keys`: the keys of metadata that jobs are found by."""

    def __init__(self, outbox: Outbox, groups: GroupLedger, cipher: Cipher, search_keys: Sequence[str] = ()) -> None:
        self._outbox = outbox
        self._groups = groups
        self._cipher = cipher
        self._search_keys = tuple(dict.fromkeys(search_keys))

    @locking(lambda item: [MATCH] if any(map(_matches, item)) else [])
    def register(
        self, connection: Connection, items: Sequence[Sequence[Registration]]
    ) -> Sequence[Sequence[Registered | RequestError]]:
        """Tracks the jobs of all items. A registration with a callback too many changes nothing, unless a create has
        made the job. Raises Conflict if a callback was removed meanwhile."""
        registrations = [registration for item in items for registration in item]
        known = _known(connection, registrations)
        new: dict[Key, Registration] = {}
        self._check_callbacks(connection, registrations)
        for registration in registrations:
            if _key(registration) not in known:
                new.setdefault(_key(registration), registration)
        made = self._insert(connection, list(new.values()))
        end_registered(connection, [one.intent for one in registrations if one.intent is not None])
        for one in registrations:
            if one.resolves is not None and not resolve_sent(connection, one.resolves, one.external_id, one.tracked_at):
                raise Conflict(f"{one.resolves.id} was resolved meanwhile", code="intent_resolved")
        return [[self._one(connection, registration, known, made) for registration in item] for item in items]

    def _check_callbacks(self, connection: Connection, registrations: Sequence[Registration]) -> None:
        with_one = [one for one in registrations if one.callback_subscription_id is not None]
        if not with_one:
            return
        known = self._outbox.subscriptions.several(connection, {one.callback_subscription_id or "" for one in with_one})
        for registration in with_one:
            if registration.callback_subscription_id not in known:
                raise Conflict(
                    f"the callback of job {registration.external_id} was removed meanwhile: register it again",
                    code=CALLBACK_REMOVED,
                )

    def _insert(self, connection: Connection, new: Sequence[Registration]) -> dict[Key, Registered]:
        # In key order, or two nodes that register the same jobs would deadlock.
        rows = [{**_job_values(one), "captured": self._captured(one, one.uid)} for one in sorted(new, key=_key)]
        run_many(connection, INSERT_JOB, rows)
        for registration in new:
            notify(connection, f"jobs {registration.source}/{registration.account}")
        links = [
            _callback_values(registration.uid, registration)
            for registration in new
            if registration.callback_subscription_id is not None
        ]
        run_many(connection, INSERT_CALLBACK, links)
        self._outbox.insert(connection, [(event, None) for registration in new for event in registration.events])
        made = {_key(registration): Registered(job=job_of(registration), created=True) for registration in new}
        if self._search_keys:
            write_search(connection, self._search_keys, [one.job for one in made.values()])
        for registration in new:
            if registration.group is not None:
                self._join(connection, registration, None, made[_key(registration)].job)
        return made

    def _one(
        self, connection: Connection, registration: Registration, known: dict[Key, Job], made: dict[Key, Registered]
    ) -> Registered | RequestError:
        key = _key(registration)
        first = made.pop(key, None)
        if first is not None:
            known[key] = first.job
            return first
        found = self._again(connection, registration, known[key])
        if isinstance(found, Registered):
            known[key] = found.job
        return found

    def _join(self, connection: Connection, registration: Registration, before: Job | None, job: Job) -> None:
        """Notes what the registration changes of the job's group: the job itself, and whether more jobs come."""
        was = None if before is None or before.group is None else place_of_job(before)
        self._groups.note_job(connection, job, registration.tracked_at, was, place_of_job(job))
        if registration.group_size is not None and job.group is not None and registration.group == job.group:
            closing = Closing(registration.tracked_at, registration.group_size)
            self._groups.note(connection, job.source, job.account, job.group, closing)

    def _captured(self, registration: Registration, uid: str) -> bytes | None:
        """What is captured of the recipient, encrypted for the job."""
        recipient = registration.recipient
        return None if recipient is None else self._cipher.encrypt(dumps(recipient.document()), context=uid)

    def _again(self, connection: Connection, registration: Registration, job: Job) -> Registered | RequestError:
        refused = conflict = None
        if registration.group is not None and job.group not in (None, registration.group):
            conflict = f"job {job.external_id} belongs to the group {job.group!r}: a job keeps its first group"
            if registration.intent is None and registration.resolves is None:
                return Conflict(conflict, code="group_conflict")
        if registration.callback_subscription_id is not None:
            subscription_id = registration.callback_subscription_id
            refused = self._add_callback(connection, job.uid, registration, subscription_id)
            if refused is not None and registration.intent is None and registration.resolves is None:
                return refused
        resumed = job.outcome in RESUMABLE
        changes: dict[str, Any] = {}
        if registration.metadata is not None:
            changes["metadata"] = dumps(registration.metadata)
        if registration.request is not None:
            changes["request"] = dumps(registration.request)
        if registration.connect_account_id is not None and (job.open or resumed):  # an ended one's incident has its own
            changes["connect_account_id"] = registration.connect_account_id
        if (captured := self._captured(registration, job.uid)) is not None:
            changes["captured"] = captured
        if registration.group is not None and job.group is None:
            changes |= {"group_name": registration.group, "group_round": 1}
        if registration.deadline_given or resumed:
            seconds = registration.deadline_seconds
            changes["deadline_at"] = deadline_of(registration.tracked_at, job.scheduled_at, seconds)
            changes["deadline_seconds"] = seconds
        if registration.weight is not None and registration.weight != job.weight:
            changes["weight"] = registration.weight
            notify(connection, f"weight {job.source}/{job.account} {job.uid} {registration.weight}")
        if resumed:
            changes |= {
                **dict.fromkeys(("closed_at", "outcome", "missing_since", "next_poll_at")),
                **dict.fromkeys(("overdue", "missing_count", "failure_count", "poll_step"), 0),
            }
        if resumed:
            notify(connection, f"look {job.source}/{job.account} {job.uid}")
        before = job
        if changes:
            connection.execute(update(JOBS).where(JOBS.c.uid == job.uid).values(**changes))
            job = job_from(connection.execute(BY_UID, {"uid": job.uid}).one())
        if self._search_keys and (job.metadata, job.request) != (before.metadata, before.request):
            delete_search(connection, job.uid)
            write_search(connection, self._search_keys, [job])
        self._join(connection, registration, before, job)
        missing = (("callback", None if refused is None else str(refused)), ("group", conflict))
        not_attached = tuple((part, why) for part, why in missing if why is not None)
        return Registered(job=job, created=False, resumed=resumed, not_attached=not_attached)

    def _add_callback(
        self, connection: Connection, job_uid: str, registration: Registration, subscription_id: str
    ) -> InvalidRequest | None:
        """A new callback receives the job's past events of its types, in order. An existing one only changes its
        types, if any are given. Returns the error for a callback too many, which changes nothing."""
        link = _callback_values(job_uid, registration)
        subscription = self._outbox.subscriptions.get(connection, subscription_id)
        most = UNLIMITED if registration.max_callbacks is None else registration.max_callbacks
        if run(connection, ADD_CALLBACK, **link, max_callbacks=most).rowcount == 0 or subscription is None:
            plain = {name: link[name] for name in ("job_uid", "subscription_id")}
            if run(connection, IS_LINKED, **plain).one_or_none() is None:
                return too_many_callbacks(most)
            if registration.callback_types is not None:
                run(connection, CHANGE_CALLBACK, **link)
            return None
        lock_jobs(connection, [job_uid])
        types, now = registration.callback_types, registration.tracked_at
        rows = connection.execute(EVENTS_OF_JOB, {"job_uid": job_uid}).all()
        events = [event_from(row) for row in rows if types is None or row.type in types]
        busy = open_pairs(connection, [job_uid])
        run_many(connection, INSERT_DELIVERY, [delivery_values(event, subscription, busy, now=now) for event in events])
        return None


def _matches(one: Registration) -> bool:
    """True if the registration reads subscriptions: for its callback, its events, or the end of its group."""
    return bool(one.callback_subscription_id is not None or one.events or one.group is not None)


def too_many_callbacks(most: int) -> InvalidRequest:
    """The error for one callback more than a job may have."""
    detail = f"the job has {most} callbacks already (delivery.max_callbacks_per_job)"
    errors = [FieldError(pointer="/callback_url", code="too_many_callbacks", detail=detail)]
    return InvalidRequest(f"/callback_url: {detail}", code="too_many_callbacks", errors=errors)


def job_of(registration: Registration) -> Job:
    """The job that a registration creates."""
    seen = registration.seen
    return Job(
        uid=registration.uid,
        external_id=registration.external_id,
        source=registration.source,
        account=registration.account,
        progress=registration.progress,
        metadata=registration.metadata or {},
        action=seen.action if seen else None,
        channel=seen.channel if seen else None,
        scheduled_at=seen.scheduled_at if seen else None,
        started_at=seen.started_at if seen else None,
        next_attempt_at=seen.next_attempt_at if seen else None,
        attempt_count=seen.attempt_count if seen else 0,
        tracked_at=registration.tracked_at,
        deadline_at=_deadline_at(registration),
        deadline_seconds=registration.deadline_seconds,
        weight=_weight(registration),
        spacing_seconds=registration.spacing_seconds,
        upstream=seen.upstream if seen else None,
        request=registration.request,
        connect_account_id=(seen.connect_account_id if seen else None) or registration.connect_account_id,
        group=registration.group,
        group_round=None if registration.group is None else 1,
        result_status=seen.result_status if seen else None,
        error_code=seen.error_code if seen else None,
    )


def _job_values(registration: Registration) -> dict[str, Any]:
    return {
        "uid": registration.uid,
        "external_id": registration.external_id,
        "source": registration.source,
        "account": registration.account,
        "tracked_at": registration.tracked_at,
        "deadline_at": _deadline_at(registration),
        "deadline_seconds": registration.deadline_seconds,
        "metadata": dumps(registration.metadata or {}),
        "weight": _weight(registration),
        "spacing_seconds": registration.spacing_seconds,
        "request": None if registration.request is None else dumps(registration.request),
        "group_name": registration.group,
        "group_round": None if registration.group is None else 1,
        **progress_values(registration.progress),
        **observation_values(registration.seen, registration.connect_account_id),
    }


def _deadline_at(registration: Registration) -> float:
    scheduled_at = None if registration.seen is None else registration.seen.scheduled_at
    return deadline_of(registration.tracked_at, scheduled_at, registration.deadline_seconds)


def _callback_values(job_uid: str, registration: Registration) -> dict[str, Any]:
    types = registration.callback_types
    return {
        "job_uid": job_uid,
        "subscription_id": registration.callback_subscription_id,
        "types": None if types is None else json_list(types),
    }


def _weight(registration: Registration) -> float:
    return NORMAL_WEIGHT if registration.weight is None else registration.weight


def _key(registration: Registration) -> Key:
    return (registration.external_id, registration.source, registration.account)


def _known(connection: Connection, registrations: Sequence[Registration]) -> dict[Key, Job]:
    external_ids = sorted({registration.external_id for registration in registrations})
    rows = connection.execute(BY_EXTERNAL_IDS[connection.dialect.name], {"external_ids": json_list(external_ids)})
    return {(row.external_id, row.source, row.account): job_from(row) for row in rows}
