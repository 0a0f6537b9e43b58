"""Registration: a job is tracked, found tracked already, or reopened."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.engine import Connection

from relay.core.jobs.groups import Closing, place_of_job
from relay.core.jobs.job import Job, JobKey, deadline_of
from relay.core.jsontext import dumps
from relay.core.polling.tracking import Registration
from relay.core.records import Registered
from relay.errors import Conflict, FieldError, InvalidRequest, RequestError
from relay.store.databases.database import Cipher
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify
from relay.store.databases.statements import SQLITE, insert_into, insert_lists, json_list, run, run_many, sql, table_of
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
from relay.store.rows import (
    JOB_COLUMNS,
    NEW_JOB_COLUMNS,
    PLAIN_JOB_COLUMNS,
    event_from,
    job_from,
    new_job_rows,
    told_values,
)
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
_NOT_POLLED = {"poll_count": "0", "failure_count": "0", "missing_count": "0"}
_NOTHING_SEEN = dict.fromkeys(("sequence", "retry_count", "running_sent", "overdue", "attempt_count"), "0")
# Writes new jobs that are plain.
INSERT_PLAIN = insert_lists(JobRow, *PLAIN_JOB_COLUMNS, constants={**_NOT_POLLED, **_NOTHING_SEEN})
# Writes any new jobs.
INSERT_JOB = insert_lists(JobRow, *NEW_JOB_COLUMNS, constants=_NOT_POLLED)
# Notes the captured recipient of a new job.
SET_CAPTURED = "UPDATE jobs SET captured = :captured WHERE uid = :uid"
# Notes the address at which a job is read.
SET_STATUS_URL = "UPDATE jobs SET status_url = :status_url WHERE uid = :uid"
# Keeps what the last event about a job's progress said.
SET_TOLD = "UPDATE jobs SET told = :told WHERE uid = :uid"
# Links another callback subscription to a job, up to :max_callbacks of them. The job's row is locked.
ADD_CALLBACK = """
INSERT INTO job_callbacks (job_uid, subscription_id, types) SELECT :job_uid, :subscription_id, :types
WHERE (SELECT COUNT(*) FROM job_callbacks WHERE job_uid = :job_uid) < :max_callbacks
ON CONFLICT DO NOTHING
"""
# True if a callback subscription is linked to a job.
IS_LINKED = "SELECT 1 FROM job_callbacks WHERE job_uid = :job_uid AND subscription_id = :subscription_id"
# Links a callback subscription to a new job.
INSERT_CALLBACK = f"{insert_into(JobCallbackRow, 'job_uid', 'subscription_id', 'types')} ON CONFLICT DO NOTHING"
# Changes the event types of a job's callback.
CHANGE_CALLBACK = """
UPDATE job_callbacks SET types = :types WHERE job_uid = :job_uid AND subscription_id = :subscription_id
"""
CALLBACK_REMOVED = "callback_removed"
RESUMABLE = ("untracked", "not_found")


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
        new: dict[JobKey, Registration] = {}
        self._check_callbacks(connection, registrations)
        for registration in registrations:
            if registration.key not in known:
                new.setdefault(registration.key, registration)
        self._insert(connection, new)
        end_registered(connection, [one.request.intent for one in registrations if one.request.intent is not None])
        for one in registrations:
            sent = one.request.resolves
            if sent is not None and not resolve_sent(connection, sent, one.request.external_id, one.job.tracked_at):
                raise Conflict(f"{sent.id} was resolved meanwhile", code="intent_resolved")
        return [[self._one(connection, registration, known, new) for registration in item] for item in items]

    def _check_callbacks(self, connection: Connection, registrations: Sequence[Registration]) -> None:
        with_one = [one for one in registrations if one.callback_subscription_id is not None]
        if not with_one:
            return
        known = self._outbox.subscriptions.several(connection, {one.callback_subscription_id or "" for one in with_one})
        for registration in with_one:
            if registration.callback_subscription_id not in known:
                raise Conflict(
                    f"the callback of job {registration.job.external_id} was removed meanwhile: register it again",
                    code=CALLBACK_REMOVED,
                )

    def _insert(self, connection: Connection, new: Mapping[JobKey, Registration]) -> None:
        # In key order, or two nodes that register the same jobs would deadlock.
        jobs = [new[key].job for key in sorted(new)]
        are_plain, rows = new_job_rows(jobs)
        run_many(connection, INSERT_PLAIN if are_plain else INSERT_JOB, rows)
        with_recipient = [one for one in new.values() if one.request.recipient is not None]
        captured = [{"uid": one.job.uid, "captured": self._captured(one, one.job.uid)} for one in with_recipient]
        run_many(connection, SET_CAPTURED, captured)
        with_address = [one for one in new.values() if one.request.status_url is not None]
        addresses = [{"uid": one.job.uid, "status_url": self._address(one, one.job.uid)} for one in with_address]
        run_many(connection, SET_STATUS_URL, addresses)
        told = [told_values(job.uid, told) for job in jobs if (told := job.progress.told) is not None]
        run_many(connection, SET_TOLD, told)
        for source, account in {(job.source, job.account) for job in jobs}:
            notify(connection, f"jobs {source}/{account}")
        with_one = [one for one in new.values() if one.callback_subscription_id is not None]
        run_many(connection, INSERT_CALLBACK, [_callback_values(one.job.uid, one) for one in with_one])
        self._outbox.insert(connection, [(event, None) for one in new.values() for event in one.events])
        if self._search_keys:
            write_search(connection, self._search_keys, jobs)
        for one in new.values():
            if one.job.group is not None:
                self._join(connection, one, None, one.job)

    def _one(
        self,
        connection: Connection,
        registration: Registration,
        known: dict[JobKey, Job],
        new: dict[JobKey, Registration],
    ) -> Registered | RequestError:
        """`new`: those whose result is not made yet."""
        key = registration.key
        first = new.pop(key, None)
        if first is not None:
            known[key] = first.job
            return Registered(job=first.job, created=True)
        found = self._again(connection, registration, known[key])
        if isinstance(found, Registered):
            known[key] = found.job
        return found

    def _join(self, connection: Connection, registration: Registration, before: Job | None, job: Job) -> None:
        """Notes the change of the job's group by the registration: the job itself, and whether more jobs come."""
        request, at = registration.request, registration.job.tracked_at
        was = None if before is None or before.group is None else place_of_job(before)
        self._groups.note_job(connection, job, at, was, place_of_job(job))
        if request.group_size is not None and job.group is not None and request.group == job.group:
            self._groups.note(connection, (job.source, job.account, job.group), Closing(at, request.group_size))

    def _captured(self, registration: Registration, uid: str) -> bytes | None:
        """The captured recipient, encrypted for the job."""
        recipient = registration.request.recipient
        return None if recipient is None else self._cipher.encrypt(dumps(recipient.document()), context=uid)

    def _address(self, registration: Registration, uid: str) -> bytes | None:
        """The job's address, encrypted for it."""
        url = registration.request.status_url
        return None if url is None else self._cipher.encrypt(url.encode(), context=uid)

    def _again(self, connection: Connection, registration: Registration, job: Job) -> Registered | RequestError:
        request, new = registration.request, registration.job
        refused = conflict = None
        if request.group is not None and job.group not in (None, request.group):
            conflict = f"job {job.external_id} belongs to the group {job.group!r}: a job keeps its first group"
            if not request.follows_create:
                return Conflict(conflict, code="group_conflict")
        if registration.callback_subscription_id is not None:
            refused = self._add_callback(connection, job.uid, registration, registration.callback_subscription_id)
            if refused is not None and not request.follows_create:
                return refused
        resumed = job.outcome in RESUMABLE
        changes: dict[str, Any] = {}
        if request.metadata is not None:
            changes["metadata"] = dumps(request.metadata)
        if request.request is not None:
            changes["request"] = dumps(request.request)
        if request.connect_account_id is not None and (job.open or resumed):  # an ended one's incident has its own
            changes["connect_account_id"] = request.connect_account_id
        if (captured := self._captured(registration, job.uid)) is not None:
            changes["captured"] = captured
        if (address := self._address(registration, job.uid)) is not None:
            changes["status_url"] = address
        if request.group is not None and job.group is None:
            changes |= {"group_name": request.group, "group_round": 1}
        if request.deadline_seconds is not None or resumed:
            assert new.deadline_seconds is not None, "a new job has a deadline"
            changes["deadline_at"] = deadline_of(new.tracked_at, job.scheduled_at, new.deadline_seconds)
            changes["deadline_seconds"] = new.deadline_seconds
        if request.priority is not None and new.weight != job.weight:
            changes["weight"] = new.weight
            notify(connection, f"weight {job.source}/{job.account} {job.uid} {new.weight}")
        if resumed:
            changes |= {
                **dict.fromkeys(("closed_at", "outcome", "missing_since", "next_poll_at")),
                **dict.fromkeys(("overdue", "missing_count", "failure_count", "poll_step"), 0),
            }
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
        types, most = registration.request.callback_types, registration.max_callbacks
        subscription = self._outbox.subscriptions.get(connection, subscription_id)
        if run(connection, ADD_CALLBACK, **link, max_callbacks=most).rowcount == 0 or subscription is None:
            plain = {name: link[name] for name in ("job_uid", "subscription_id")}
            if run(connection, IS_LINKED, **plain).one_or_none() is None:
                return too_many_callbacks(most)
            if types is not None:
                run(connection, CHANGE_CALLBACK, **link)
            return None
        lock_jobs(connection, [job_uid])
        now = registration.job.tracked_at
        rows = connection.execute(EVENTS_OF_JOB, {"job_uid": job_uid}).all()
        events = [event_from(row) for row in rows if types is None or row.type in types]
        busy = open_pairs(connection, [job_uid])
        run_many(connection, INSERT_DELIVERY, [delivery_values(event, subscription, busy, now=now) for event in events])
        return None


def _matches(one: Registration) -> bool:
    """True if the registration reads subscriptions: for its callback, its events, or the end of its group."""
    return bool(one.callback_subscription_id is not None or one.events or one.request.group is not None)


def too_many_callbacks(most: int) -> InvalidRequest:
    """The error for one callback more than a job may have."""
    detail = f"the job has {most} callbacks already (delivery.max_callbacks_per_job)"
    errors = [FieldError(pointer="/callback_url", code="too_many_callbacks", detail=detail)]
    return InvalidRequest(f"/callback_url: {detail}", code="too_many_callbacks", errors=errors)


def _callback_values(job_uid: str, registration: Registration) -> dict[str, Any]:
    types = registration.request.callback_types
    return {
        "job_uid": job_uid,
        "subscription_id": registration.callback_subscription_id,
        "types": None if types is None else json_list(types),
    }


def _known(connection: Connection, registrations: Sequence[Registration]) -> dict[JobKey, Job]:
    external_ids = sorted({one.job.external_id for one in registrations})
    rows = connection.execute(BY_EXTERNAL_IDS[connection.dialect.name], {"external_ids": json_list(external_ids)})
    return {(row.external_id, row.source, row.account, row.resource): job_from(row) for row in rows}
