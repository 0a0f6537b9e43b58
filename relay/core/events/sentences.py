"""Sentences about accounts, groups and incidents. Plain text, without the full stop.

Events carry them, the API shows them, and chat messages are made of them. Names and codes are the caller's to clean.
"""

import re
from collections.abc import Sequence

from relay.core.jobs.groups import OTHER
from relay.core.jobs.job import NO_CODE
from relay.core.turns import ADMINISTRATOR, turn_of_sink

_BRANDS = {"hubspot": "HubSpot", "linkedin": "LinkedIn", "whatsapp": "WhatsApp"}
_CAUSES = {
    "no_answer": "{upstream} gave no answer",
    "server_error": "{upstream} answered with an error of its own",
    "unreadable": "{upstream} took it, and its answer names no job",
    "cut_off": "the relay ended before an answer came",
}
"""Causes of an unknown outcome of a create, by the intent's reason."""

_INCIDENT_FIXES = {
    "jobs": "Open one of its jobs in {upstream} to see why it failed",
    "creates": "Check in {upstream} which of them went out, and mark each as sent or not sent",
}
"""The fix of an incident, by its kind."""
_AFTER_SINK = "resume the subscription if it is disabled, and send again what was given up"
"""It holds in every state: an enabled subscription retries by itself, and neither that nor a resume sends again what
was given up."""

PERSON = "person"
"""A record that is made first, so that the event's own can be attached to it."""
_BETWEEN_WORDS = re.compile(r"[\s_./:-]+")

_STATUS = re.compile(r"(?:http_)?([1-5]\d\d)(?![\w.])", re.ASCII)
_STATUSES = {
    "3": "has moved",
    "4": "refused it",
    "401": "refused the credentials",
    "403": "refused the credentials",
    "404": "was not found at this URL",
    "410": "says that it is gone",
    "413": "takes no event of this size",
    "429": "takes no more for now",
    "5": "had an error of its own",
}
"""Answers of receivers, by status or its first digit."""
_FAILURES = {
    "dns": "the receiver's host name is not known",
    "connect": "the receiver takes no connections",
    "timeout": "the receiver did not answer in time",
    "tls": "the receiver's certificate is not valid",
    "read": "the connection to the receiver was lost",
    "protocol": "the receiver did not answer in HTTP",
    "refused": "the relay may not send there",
    "proxy": "the relay's egress proxy made no connection",
    "credential": "the receiver's credential is not valid",
    "too_large": "the event is too large for the receiver",
    "unmatched": "the receiver knows no such person",
    "extra_missing": "the relay's node lacks an extra",
}
"""Errors and reasons of deliveries, in words."""

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def titled(word: str) -> str:
    """A channel, source or kind of sink with a capital letter, as its owner writes it."""
    return _BRANDS.get(word.lower(), word[:1].upper() + word[1:])


def with_article(noun: str) -> str:
    """`a note`, `an activity`."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def counted(count: int, noun: str) -> str:
    """`1 job`, `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def enumerated(words: Sequence[str]) -> str:
    """`a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def duration(seconds: float) -> str:
    """A duration in the largest unit that it has two of: `90 minutes`, `3 hours`."""
    whole = max(round(seconds), 1)
    size, unit = next(((size, unit) for size, unit in _UNITS if whole >= 2 * size), _UNITS[-1])
    return counted(whole // size, unit)


def continued(text: str, source: str) -> str:
    """A sentence as the second half of another one: in lower case unless it begins with a name."""
    first = text.split()[0]
    proper = any(letter.isupper() for letter in first[1:]) or first.lower() in source.lower()
    return text if proper or first == "I" else text[0].lower() + text[1:]


def cause_of_unknown(cause: str, upstream: str) -> str:
    """The cause of an unknown outcome of a create; empty for an unknown cause."""
    return _CAUSES.get(cause, "").format(upstream=upstream)


def incident_fix(kind: str, upstream: str, code: str | None) -> str:
    """The fix of an incident whose failures have no hint; empty for an unknown kind. `code`: of its error."""
    return sink_fix(code, _AFTER_SINK) if kind == "sink" else _INCIDENT_FIXES.get(kind, "").format(upstream=upstream)


def sink_fix(reason: str | None, then: str) -> str:
    """What to do about a subscription whose deliveries fail. `then`: the step after that."""
    ours = turn_of_sink(reason) == ADMINISTRATOR
    return f"{'Correct the settings' if ours else 'Fix the receiver'}, then {then}"


def create_fix(upstream: str, *, has_key: bool) -> str:
    """What to do about a create of unknown outcome. `has_key`: its caller gave an Idempotency-Key."""
    if has_key:
        return "Send the same request again with the same Idempotency-Key: that is safe"
    check = f"Check in {upstream} whether it went out, and send it again only if it did not"
    return f"{check}. Then mark it as sent or not sent"


def uncertain_fix(where: str, record: str, target: Sequence[tuple[str, str]], *, job: str, event: str) -> str:
    """What to do about a record that may have been written. `target`: fields with ids of what it is attached to;
    `event`: the id that the record names."""
    if record == PERSON:  # for whom nothing is written yet
        return (
            f"Look in {where} for the person whom job {job} is about. If they are there, send the event again, which "
            "writes the rest. If not, mark it as not sent, which creates them first"
        )
    of = " and ".join(f"{field.removesuffix('_id')} {id}" for field, id in target)
    named = f"{with_article(record or 'record')}{of and f' of {of}'} that names {event}"
    return f"Look in {where} for {named}. Mark it as sent if it is there, else as not sent, which writes it again"


def why_failed(code: str, meaning: str, upstream: str) -> str:
    """Why jobs failed, as the end of `4 failed`. `code`: as a group counts it; `meaning`: of its hint, if there is
    one; `upstream`: the names of the source."""
    if code == OTHER:
        return "for other reasons"
    if code in ("", NO_CODE):
        return "without a reason"
    if meaning.strip(".! "):
        return f"because {continued(meaning.rstrip('.! '), upstream)}"
    return f"because of “{words_of(code)}”"


def words_of(code: str) -> str:
    """An error code as words: `mailbox full` for `mailbox_full`."""
    return _BETWEEN_WORDS.sub(" ", code).strip() or code


def account_sentence(kind: str, *, channel: str, name: str, open_jobs: int) -> str:
    """A sentence about a change of a connect account. `kind` is a member of ACCOUNT_EVENTS; `name` shows which
    account."""
    who = f"{titled(channel)} account {name}".strip()
    text = {
        "needs_reconnect": f"{who} needs reconnecting",
        "cannot_send": f"{who} cannot send",
        "recovered": f"{who} is connected and can send again",
        "added": f"{who} was added",
    }.get(kind, f"{who} was removed")
    return f"{text}: {counted(open_jobs, 'open job')} {'uses' if open_jobs == 1 else 'use'} it" if open_jobs else text


def group_finish(name: str, round: int) -> str:
    """`Campaign q4 has finished`."""
    return f"Campaign {name} has finished{f' round {round}' if round > 1 else ''}"


def group_sentence(
    name: str,
    *,
    round: int,
    succeeded: int,
    failed: int,
    cancelled: int,
    not_found: int,
    untracked: int,
    skipped: int,
    missing: int,
    failures: Sequence[tuple[str, int]],
) -> str:
    """Sentences about the finish of a group. `succeeded` includes the `skipped` ones; `failures`: the cause, such as
    `because the account needs reconnecting`, and count, the largest first."""
    total = succeeded + failed + cancelled + not_found + untracked + missing
    accepted = succeeded - skipped
    of_all = f"all {counted(total, 'job')}" if accepted == total > 1 else f"{accepted:,} of {counted(total, 'job')}"
    sentences = [f"{group_finish(name, round)}: {of_all} {_were(accepted)} accepted"]
    if failed:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in failures)
        only = len(failures) == 1 and failures[0][1] == failed
        because = f" {failures[0][0]}" if only else f": {causes}" if causes else ""
        sentences.append(f"{failed:,} failed{because}")
    others = [
        f"{count:,} {_were(count) if verb == 'were' else verb} {what}".replace("  ", " ")
        for count, verb, what in (
            (skipped, "had", "nothing to do"),
            (cancelled, "were", "cancelled"),
            (not_found, "were", "not found"),
            (untracked, "were", "given up by the relay"),
            (missing, "were", "never created"),
        )
        if count
    ]
    return ". ".join([*sentences, *([enumerated(others)] if others else [])])


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def subscription_to(sink: str, id: str) -> str:
    """`The subscription to crm.example`. `sink`: its URL without what is secret; empty: its id shows which one."""
    host = sink.partition("://")[2].partition("/")[0]
    return f"The subscription to {host}" if host else f"Subscription {id}"


def failure(reason: str) -> str:
    """The failure of a delivery, such as `the receiver answered 503` for `http_503`. An unknown one stays as it is."""
    status = _STATUS.match(reason)
    if status is not None:
        what = _STATUSES.get(status[1]) or _STATUSES.get(status[1][0]) or "answered"
        return f"the receiver {what} ({status[1]})"
    return _FAILURES.get(reason.partition(":")[0], reason)


def jobs_of(channel: str, account: str, noun: str = "job") -> str:
    """`LinkedIn jobs of Ada Lovelace`. Both may be empty."""
    return f"{titled(channel)} {noun}s{f' of {account}' if account else ''}".strip()


def incident_sentence(
    kind: str, *, failed: int, source: str, channel: str, account: str, sink: str, code: str, meaning: str
) -> str:
    """A sentence about the failure behind an incident. `account` shows which connect account, `sink` which
    subscription, as `subscription_to` does; any text may be empty.

    meaning  of the error, from its hint
    code     of the error; of creates: the intent's reason
    """
    if kind == "sink":
        return f"{sink} does not take its events{f': {failure(code)}' if code else ''}"
    if kind == "creates":
        what = counted(failed, f"{titled(channel)} message" if channel else "create")
        why = cause_of_unknown(code, titled(source) or "the upstream")
        whose = f" of {account}" if account else ""
        return f"It is unknown whether {what}{whose} {'was' if failed == 1 else 'were'} sent{f': {why}' if why else ''}"
    if channel:
        meaning = meaning.replace(f"The {titled(channel)} ", "The ", 1)  # the sentence already begins with it
    reason = continued(meaning.rstrip(".! "), source) if meaning.strip(".! ") else code
    whose = f" of {account}" if account else ""
    jobs = f"{failed:,} {f'{titled(channel)} job'.strip()}{'' if failed == 1 else 's'}{whose}"
    return f"{jobs} failed{f': {reason}' if reason else ''}"


def incident_end(kind: str, *, because: str, failed: int, seconds: float, channel: str, account: str, sink: str) -> str:
    """A sentence about the end of an incident. `because` is a member of CLOSED_BECAUSE; `seconds`: from its first
    failure to its last."""
    if kind == "sink":
        ended = {"subscription_removed": "was removed", "quiet": "has had no failure for a day"}
        return f"{sink} {ended.get(because, 'takes events again')}"
    within = f" in {duration(seconds)}" if failed > 1 else ""
    if kind == "creates":
        ended_creates = {"quiet": "have had a known outcome for a day"}.get(because, "have a known outcome again")
        return f"{jobs_of(channel, account, 'create')} {ended_creates}: that of {failed:,} is unknown{within}"
    ended_jobs = {"quiet": "have not failed for a day"}.get(because, "work again")
    return f"{jobs_of(channel, account)} {ended_jobs}: {failed:,} failed{within}"
