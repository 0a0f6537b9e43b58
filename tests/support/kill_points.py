"""Where the kill tests stop the relay: between two steps of a poll, a delivery, a create, a replay or a recovery.

`tests/support/kill_stops.py` installs the stops; `tests/e2e/test_kill_*points.py` stop at each.
"""

from collections.abc import Mapping

POINTS: Mapping[str, str] = {
    "poll.answered": "the upstream's answer is read; nothing is recorded",
    "record.called": "the transition is detected and slots are reserved; its transaction has not begun",
    "record.written": "state, events and deliveries are written; the transaction is not committed",
    "record.committed": "the transaction is committed; the deliveries that it leased are not started",
    "note.called": "the deliveries are started; the time of the next poll is not written",
    "claim.called": "something is due; its claim has not begun",
    "claim.written": "the leases are written; the claim is not committed",
    "claim.committed": "the claim is committed; nothing is started",
    "send.called": "the request is rendered and signed; nothing is sent",
    "send.sent": "the request is out; the answer is not read",
    "send.answered": "the answer is read; what it means is not decided",
    "mark.called": "it is decided; the mark's transaction has not begun",
    "mark.written": "attempt, state and the follower's promotion are written; the transaction is not committed",
    "mark.committed": "the mark is committed; what it took over is not started",
    "register.called": "a registration is read; its transaction has not begun",
    "register.written": "the job is written; the transaction is not committed",
    "register.committed": "the job is committed; the caller has no answer",
    "start.migrated": "the database is open; the leases of the crash before are still there",
    "start.freed": "the leases are freed; nothing is planned",
    "drain.begun": "it ends, with deliveries in flight; nothing is waited for",
    "drain.answered": "while it ends, an answer came; it is not marked",
    "drain.marked": "while it ends, a delivery was marked; the node is not closed",
    "stop.closing": "nothing is in flight any more; the database is still open",
}

DRAIN = frozenset(point for point in POINTS if point.startswith(("drain.", "stop.")))
"""Only a relay that is ended passes these."""

SQLITE = frozenset(point for point in POINTS if point.startswith("start."))
"""Passed with SQLite only: where nodes share a database, leases of a crash expire by themselves."""

ONCE = frozenset(point for point in POINTS if point.startswith(("start.", "drain.begun", "stop.")))
"""These are passed once in a relay's life."""

CREATE_POINTS: Mapping[str, str] = {
    "create.called": "the create is read; its intent's transaction has not begun",
    "intent.written": "the intent is written; the transaction is not committed",
    "intent.committed": "the intent is committed; nothing is sent",
    "create.sent": "the create is out; the answer is not read",
    "create.answered": "the answer is read; nothing is recorded",
    "register.called": "what it means is decided; the registration's transaction has not begun",
    "register.written": "the job and the end of the intent are written; the transaction is not committed",
    "register.committed": "the transaction is committed; the job is not planned",
    "create.recorded": "the job is planned; the caller has no answer",
}
"""A create passes all of these, in this order."""

REPLAY_POINTS: Mapping[str, str] = {
    "replay.called": "there is something to send again; the step's transaction has not begun",
    "replay.written": "deliveries are on their way and counted; the transaction is not committed",
    "replay.committed": "the step is committed; no loop was woken",
}
"""Each step of a replay passes all of these, in this order."""

ROTATION_POINTS: Mapping[str, str] = {
    "rotation.filed": "the key file has the new key; no transaction has begun (SQLite)",
    "again.called": "some secrets are encrypted again; their transaction has not begun",
    "again.written": "they are written; the transaction is not committed",
    "again.committed": "that is committed; the rest is encrypted with the old key",
}
"""A rotation of the encryption keys passes all of these, in this order."""

PROBE_POINTS: Mapping[str, str] = {
    "probe.called": "it is time to try the disabled subscription; the turn's transaction has not begun",
    "probe.written": "the turn and the lease are written; the transaction is not committed",
    "probe.committed": "the turn is committed; nothing is sent",
    "send.called": "the request is rendered and signed; nothing is sent",
    "send.sent": "the request is out; the answer is not read",
    "send.answered": "the sink took it; nothing is decided",
    "mark.called": "it has recovered; the transaction that says so has not begun",
    "mark.written": "the attempt, the subscription's new state and its event are written, and not committed",
    "mark.committed": "the recovery is committed; what waits is not brought forward",
    "forward.written": "what waits for a later attempt is due; the transaction is not committed",
    "forward.committed": "that is committed; no loop was woken",
}
"""The recovery of a subscription passes all of these, in this order."""

RECOVERED = frozenset({"mark.committed", "forward.written", "forward.committed"})
"""At these it has recovered: it does so no second time."""

LEDGER_POINTS: Mapping[str, str] = {
    "turn.called": "a note is due; the turn's transaction has not begun",
    "turn.written": "the turn is written; the transaction is not committed",
    "turn.committed": "the turn is committed; nothing is sent",
    "keep.called": "the CRM has said whom it is about; the intention's transaction has not begun",
    "keep.written": "the intention is written; the transaction is not committed",
    "keep.committed": "the intention is committed; the note is not sent",
    "note.sent": "the note is out; the answer is not read",
    "note.answered": "the answer is read; nothing is decided",
    "mark.called": "it is decided; the mark's transaction has not begun",
    "mark.written": "attempt and ledger are written; the transaction is not committed",
    "mark.committed": "the attempt is committed",
}
"""The delivery of a note passes all of these, in this order."""

PUBLISH_POINTS: Mapping[str, str] = {
    "publish.called": "events are read; the transaction of the next of them has not begun",
    "publish.written": "they and their deliveries are written; the transaction is not committed",
    "publish.committed": "the transaction is committed; the publisher has no answer",
}
"""Each part of a batch that is published passes all of these, in this order."""

CREDITS_POINTS: Mapping[str, str] = {
    "credits.answered": "the credits are read; nothing is compared",
    "credits.called": "they are below the threshold, or are again at or above it; the transaction has not begun",
    "credits.written": "the state and its event are written; the transaction is not committed",
    "credits.committed": "the transaction is committed; nothing else is told",
}
"""A reading of credits that changes their state passes all of these, in this order."""

PULL_POINTS: Mapping[str, str] = {
    "pull.called": "a program asks; the transaction of the claim has not begun",
    "pull.written": "the lease is written; the transaction is not committed",
    "pull.committed": "the lease is committed; the program has no answer",
    "ack.called": "the acknowledgement is read; its transaction has not begun",
    "ack.written": "attempts, states and followers' promotions are written; the transaction is not committed",
    "ack.committed": "the acknowledgement is committed; the program has no answer",
    "ended.called": "a lease has ended; the transaction that records it has not begun",
    "ended.written": "its attempts are written; the transaction is not committed",
    "ended.committed": "its end is committed; nothing is claimed again",
}
"""A program that pulls, acknowledges and lets a lease end passes all of these, in this order."""

BROKER_POINTS: Mapping[str, str] = {
    "broker.called": "the messages are rendered; nothing is published",
    "broker.acknowledged": "the broker has stored them; nothing is decided",
    "mark.written": "attempts, states and followers' promotions are written; the transaction is not committed",
    "mark.committed": "the mark is committed",
}
"""The delivery of a bundle to a broker passes all of these, in this order."""

AUDIT_POINTS: Mapping[str, str] = {
    "audit.called": "an administrative request is read; the transaction of its entry has not begun",
    "audit.written": "the entry is written; the transaction is not committed",
    "audit.committed": "the entry is committed; the work has not begun",
    "subscription.committed": "the work is committed; its result is not written",
    "audit.ended": "the result is committed; the caller has no answer",
}
"""An administrative request passes all of these, in this order."""
