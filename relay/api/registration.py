"""The body of a registration, read: quickly where all is well, with every mistake named where it is not."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from relay.api.models import (
    MAX_DEADLINE_SECONDS,
    MAX_ID_CHARACTERS,
    MAX_METADATA_BYTES,
    JobRegistration,
    is_printable_id,
)
from relay.api.problems import did_you_mean
from relay.api.validation import invalid, pointer_of, validate
from relay.core.events import Origin, job_event_types
from relay.core.filters import full_type, nearest_type
from relay.core.job import PRIORITY_WEIGHTS, Observation, Priority
from relay.core.jsontext import dumps
from relay.core.netguard import GuardPolicy, refusal_of_url
from relay.core.tracking import TrackRequest
from relay.errors import FieldError, InvalidRequest, SinkRefused

_FIELDS = frozenset(JobRegistration.model_fields)
_BESIDE_ANSWER = _FIELDS - {"priority"}  # an upstream may well have one of its own
_SOURCE: str = JobRegistration.model_fields["source"].default
_ACCOUNT: str = JobRegistration.model_fields["account"].default

url_refusal = lru_cache(maxsize=4096)(refusal_of_url)
"""`refusal_of_url`, remembered: the jobs of one caller mostly share a callback."""


class Rules(Protocol):
    """What of the settings concerns a registration: the account names of each source, and where callbacks may go."""

    @property
    def accounts(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def guard(self) -> GuardPolicy: ...

    @property
    def origins(self) -> Mapping[str, Origin]: ...


class Answers(Protocol):
    """What reads an upstream's own answer to a create; see `Tracking`."""

    def read_answer(self, source: str, body: Mapping[str, Any]) -> tuple[str, Observation | None] | None: ...


def read_registration(document: Any, settings: Rules, tracking: Answers) -> TrackRequest:
    """The job to track that a body asks for. Raises InvalidRequest, or SinkRefused for its callback."""
    if type(document) is dict:
        quick = _quick(document, settings)
        if quick is not None:
            return quick
        if "id" not in document:
            answer = _from_upstream(document, settings, tracking)
            if answer is not None:
                return answer
    return _thorough(document, settings, None)


def _quick(document: dict[str, Any], settings: Rules) -> TrackRequest | None:
    """The request where everything is right, None where anything is not: the path of nearly all registrations."""
    if not document.keys() <= _FIELDS or "callback_types" in document:
        return None
    get = document.get
    external_id, source, account = get("id"), get("source", _SOURCE), get("account", _ACCOUNT)
    if type(external_id) is not str or is_printable_id(external_id) is None:
        return None
    if type(source) is not str or type(account) is not str or account not in settings.accounts.get(source, ()):
        return None
    metadata, deadline, callback = get("metadata"), get("deadline_seconds"), get("callback_url")
    priority: Priority | None = get("priority")
    if metadata is not None and (type(metadata) is not dict or len(dumps(metadata)) > MAX_METADATA_BYTES):
        return None
    if deadline is not None and (
        (type(deadline) is not float and type(deadline) is not int) or not 0 < deadline <= MAX_DEADLINE_SECONDS
    ):
        return None
    if priority is not None and (type(priority) is not str or priority not in PRIORITY_WEIGHTS):
        return None
    if callback is not None and (type(callback) is not str or url_refusal(callback, settings.guard) is not None):
        return None
    return TrackRequest(
        external_id=external_id,
        source=source,
        account=account,
        callback_url=callback,
        metadata=metadata,
        deadline_seconds=deadline,
        priority=priority,
    )


def _from_upstream(document: dict[str, Any], settings: Rules, tracking: Answers) -> TrackRequest | None:
    """The request where the body is the upstream's own answer to a create; our fields may stand beside it."""
    source = document.get("source", _SOURCE)
    if type(source) is not str or source not in settings.accounts:
        return None
    found = tracking.read_answer(source, document)
    if found is None:
        if "item" not in document:
            return None
        detail = 'no job can be read from this: send the upstream\'s answer as it came, or {"id": …}'
        raise invalid([FieldError(pointer="/item", code="invalid_answer", detail=detail)])
    external_id, seen = found
    if is_printable_id(external_id) is None:
        detail = f"the job's id must be 1 to {MAX_ID_CHARACTERS} printable characters"
        raise invalid([FieldError(pointer="", code="invalid_text", detail=detail)])
    ours = {name: value for name, value in document.items() if name in _BESIDE_ANSWER}
    return _thorough({**ours, "id": external_id}, settings, seen)


def _thorough(document: Any, settings: Rules, seen: Observation | None) -> TrackRequest:
    job = validate(JobRegistration, document)
    errors = account_errors(job.source, job.account, settings.accounts)
    if job.metadata is not None and len(dumps(job.metadata)) > MAX_METADATA_BYTES:
        detail = f"it is larger than {MAX_METADATA_BYTES:,} bytes of JSON: keep it in your own system, by the job's id"
        errors.append(FieldError(pointer="/metadata", code="too_large", detail=detail))
    types = None
    if job.callback_types is not None and not errors:
        types, errors = callback_types(job.callback_types, job.source, settings)
        if job.callback_url is None:
            detail = "there is no callback_url that these events could go to: send that too"
            errors.append(FieldError(pointer="/callback_types", code="missing_callback", detail=detail))
    if errors:
        raise invalid(errors)
    if job.callback_url is not None:
        check_sink(job.callback_url, settings, "/callback_url")
    return TrackRequest(
        external_id=job.id,
        source=job.source,
        account=job.account,
        callback_url=job.callback_url,
        callback_types=types,
        metadata=job.metadata,
        deadline_seconds=job.deadline_seconds,
        priority=job.priority,
        seen=seen,
    )


def callback_types(
    names: Sequence[str], source: str, settings: Rules
) -> tuple[tuple[str, ...] | None, list[FieldError]]:
    """The full types of a source's job events that these names are of, and what is wrong with the others."""
    known = job_event_types(settings.origins[source].type_prefix)
    found = [full_type(name, known) for name in names]
    errors = [
        FieldError(
            pointer=pointer_of("callback_types", index), code="unknown_type", detail=refusal_of_type(name, known)
        )
        for index, name in enumerate(names)
        if found[index] is None
    ]
    return tuple(dict.fromkeys(one for one in found if one is not None)), errors


def refusal_of_type(name: str, known: Sequence[str]) -> str:
    """That there are no events of this type, with the nearest that there are."""
    near = nearest_type(name, known)
    hint = f": did you mean {near}?" if near else f": known are {', '.join(known)}"
    return f"{name[:200]!r} is no event type{hint}"


def account_errors(source: str, account: str, accounts: Mapping[str, tuple[str, ...]]) -> list[FieldError]:
    """What is wrong with the names of a source and its account."""
    if source not in accounts:
        detail = f"no source {source[:100]!r} is configured{did_you_mean(source, accounts)}"
        return [FieldError(pointer="/source", code="unknown_source", detail=detail)]
    if account not in accounts[source]:
        near = did_you_mean(account, accounts[source])
        detail = f"source {source} has no account {account[:100]!r}{near}"
        return [FieldError(pointer="/account", code="unknown_account", detail=detail)]
    return []


def check_sink(url: str, settings: Rules, pointer: str) -> None:
    """Raises SinkRefused where the egress guard forbids this URL."""
    why = url_refusal(url, settings.guard)
    if why is not None:
        raise SinkRefused(why, errors=[FieldError(pointer=pointer, code="sink_refused", detail=why)])


def rejection(index: int, error: InvalidRequest | Any) -> dict[str, Any]:
    """An entry of a batch that was not tracked, and why."""
    code = error.errors[0].code if error.errors else error.code
    return {"index": index, "code": code, "detail": str(error)}
