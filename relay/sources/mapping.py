"""Maps an upstream's answers to the relay's own values, by its definition. Pure; no JSON makes it raise.

Undocumented values are dropped (an invalid time, an absurd count) or make the answer Malformed. The original item stays
in `Observation.upstream`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.clock import MAX_EPOCH_SECONDS, from_rfc3339
from relay.core.jobs.connect_accounts import CANNOT_SEND, MAX_ACCOUNTS, OK, ListedAccount, Listing
from relay.core.jobs.job import KNOWN_STATUSES, NO_CODE, TERMINAL, Advance, Observation, Problem, Recipient, part_of
from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.sources.definition import SourceDefinition
from relay.sources.pointers import at, written
from relay.sources.sections import (
    ConnectAccounts,
    Create,
    ProblemFields,
    ProgressFields,
    RecipientPlaces,
    RequestFields,
    Rule,
    TimePlace,
    is_exactly,
)

MAX_ATTEMPT_COUNT = 1_000_000
MAX_UNITS = 1e15
MAX_ITEMS = 2 * MAX_ACCOUNTS
"""Items read of a listing. An answer has room for a hundred thousand, and reading one takes microseconds."""
MAX_STATUS_CHARACTERS = 64
MAX_REQUEST_ID_CHARACTERS = 200
MAX_EXTERNAL_ID_CHARACTERS = 200
MAX_KEPT_METADATA_BYTES = 16 * 1024
MAX_RESULT_BYTES = 64 * 1024

_MAX_WORD_CHARACTERS = 128
_MAX_CODE_CHARACTERS = 200
_MAX_MESSAGE_CHARACTERS = 1000
_LATEST = 1000 * MAX_EPOCH_SECONDS
_LEVELS_ABOVE_AN_ITEM = 8
"""More levels than any of our documents adds around an item, so an item that serialises here does so everywhere."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,15}")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """An answer that says nothing about the requested job.

    `reason`: not_json, not_an_object, refused (it says that it is an error), no_item, no_status, other_job, no_items,
    too_large, too_deep; of credits a sentence.
    """

    reason: str
    detail: str = field(default="", compare=False)
    """What is missing or wrong, with its pointer. Empty if the reason says it all."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamError:
    """Code, message and request id of an error answer; empty or None if the body lacks them."""

    code: str = ""
    message: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The job in the answer to a create. `observation` is None if the answer has no status."""

    external_id: str
    observation: Observation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """The kept parts of a create's body: never its text, and of its recipient what is captured.

    metadata         the caller's own; None if absent or too large to keep (`is_truncated`)
    spacing_seconds  the requested minimum time to its predecessor in the channel
    recipient        None if nothing is captured
    """

    metadata: Mapping[str, Any] | None = None
    is_truncated: bool = False
    channel: str | None = None
    connect_account_id: str | None = None
    spacing_seconds: float | None = None
    recipient: Recipient | None = field(default=None, repr=False)

    def document(self) -> dict[str, Any] | None:
        """The part that the job stores in clear; None if there is none."""
        kept = {} if self.metadata is None else {"metadata": dict(self.metadata)}
        return {"metadata": {}, **kept, "truncated": True} if self.is_truncated else kept or None


def read_object(body: bytes) -> dict[str, Any] | Malformed:
    """The JSON object in a body. Malformed: not_json, not_an_object."""
    try:
        document = loads(body, repair=True)
    except JSONDecodeError:
        return Malformed(reason="not_json")
    return document if isinstance(document, dict) else Malformed(reason="not_an_object")


def read_answer(definition: SourceDefinition, body: bytes) -> Any:
    """The document in a 2xx answer. Malformed: not_json, refused."""
    try:
        answer = loads(body, repair=True)
    except JSONDecodeError:
        return Malformed(reason="not_json")
    return _refusal(definition, answer) or answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The JSON of a job's result, or an account's credits."""

    value: Any


def read_result(body: bytes) -> Document | Malformed:
    """The JSON in the answer to a read of a job's result. Malformed: not_json, too_large, too_deep."""
    if len(body) > MAX_RESULT_BYTES:
        return Malformed(reason="too_large", detail=f"it has more than {MAX_RESULT_BYTES} bytes")
    try:
        value = loads(body, repair=True)
    except JSONDecodeError:
        return Malformed(reason="not_json")
    return Document(value=value) if _serialises(value) else Malformed(reason="too_deep")


def _refusal(definition: SourceDefinition, answer: Any) -> Malformed | None:
    """What makes the document an error by `answer.ok`; None if it is none."""
    expected = definition.answer.ok
    if expected is None or is_exactly(at(answer, expected.at, expected.is_), expected.is_):
        return None
    return Malformed(reason="refused", detail=f"{written(expected.at)} is not {dumps(expected.is_).decode()}")


def _request_id_in(definition: SourceDefinition, answer: Any) -> object:
    place = definition.answer.request_id
    return None if place is None else at(answer, place)


def read_create(names: RequestFields, body: bytes | None, capture: Collection[str] = ()) -> CreateRequest:
    """Reads a create's body as far as it is JSON. `body` is None if it is too large to parse. `capture`: the PARTS of
    its recipient to read."""
    document = read_object(body or b"")
    if isinstance(document, Malformed):
        return CreateRequest()
    metadata = _value(document, names.metadata)
    kept = _storable(metadata) if isinstance(metadata, dict) else None
    too_large = kept is not None and len(dumps(kept)) > MAX_KEPT_METADATA_BYTES
    spacing = _value(document, names.spacing_seconds)
    return CreateRequest(
        metadata=None if too_large else kept,
        is_truncated=too_large or (kept is not None and kept != metadata),
        channel=_word(_value(document, names.channel)),
        connect_account_id=_account_id(_value(document, names.connect_account_id)),
        spacing_seconds=float(spacing) if isinstance(spacing, int | float) and not isinstance(spacing, bool) else None,
        recipient=_recipient(names.recipient, document, capture) if capture else None,
    )


def _recipient(places: RecipientPlaces, document: Mapping[str, Any], capture: Collection[str]) -> Recipient | None:
    found = {name: [part_of(at(document, place)) for place in getattr(places, name)] for name in capture}
    return Recipient.of({name: next(filter(None, parts), None) for name, parts in found.items()})


def _value(document: Any, place: Sequence[str] | None) -> Any:
    """The value at a place; None if there is none, or no place."""
    return None if place is None else at(document, place)


def observe(
    definition: SourceDefinition,
    body: bytes,
    *,
    now: float,
    resource: str = "",
    request_id_header: str | None = None,
    external_id: str | None = None,
    status_code: int = 200,
) -> Observation | Malformed:
    """Reads the answer to a job read: a 2xx, or another that a rule knows by its status. `now` in epoch seconds.

    `resource`: whose job it is. `request_id_header` is the fallback for the body's request id. With `external_id`, the
    item has to be that job's.
    """
    of_job = definition.resource_of(resource)
    answer = read_answer(definition, body)
    is_proof = status_code in of_job.statuses
    is_error = is_proof and status_code >= 300  # its body is that of an error, and has the id of one
    if isinstance(answer, Malformed) and (is_error or (is_proof and answer.reason == "not_json")):
        answer = {}
    if isinstance(answer, Malformed):
        return answer
    item = at(answer, of_job.item)
    if not isinstance(item, dict):
        if not is_proof:
            where = f"at {written(of_job.item)}" if of_job.item else "as the whole answer"
            return Malformed(reason="no_item", detail=f"there is no object {where}")
        item = {}
    request_id = _request_id(_request_id_in(definition, answer) or request_id_header)
    return observe_item(
        definition,
        item,
        now=now,
        resource=resource,
        request_id=request_id,
        external_id=None if is_error else external_id,
        status_code=status_code,
    )


def observe_item(
    definition: SourceDefinition,
    item: Mapping[str, Any],
    *,
    now: float,
    resource: str = "",
    request_id: str | None = None,
    external_id: str | None = None,
    status_code: int = 200,
) -> Observation | Malformed:
    """Reads an item. `now` in epoch seconds; `status_code` of the answer that has it. With `external_id`, it has to be
    that job's item."""
    of_job = definition.resource_of(resource)
    fields, problem, result = of_job.fields, of_job.problem, of_job.result
    shown_id = external_id if fields.id is None else at(item, fields.id, external_id)
    if external_id is not None and _id_text(shown_id) != external_id:
        place = written((*of_job.item, *(fields.id or ())))
        return Malformed(reason="other_job", detail=f"another id, or none, is at {place}")
    rule = of_job.rule_of(item, status_code)
    status = _unknown_status(definition, at(item, of_job.status)) if rule is None else rule.state
    if status is None:
        place = written((*of_job.item, *of_job.status))
        return Malformed(reason="no_status", detail=f"there is no text at {place}, and no rule matches")
    found = None if result is None else at(item, result.at)
    return Observation(
        resource=resource,
        status=status,
        observed_at=now,
        action=_word(_value(item, fields.action)),
        channel=_word(_value(item, fields.channel)),
        scheduled_at=_time(item, fields.scheduled_at),
        started_at=_time(item, fields.started_at),
        finished_at=_time(item, fields.finished_at),
        next_attempt_at=_time(item, fields.next_attempt_at),
        attempt_count=_count(_value(item, fields.attempt_count)),
        problem=_problem(problem, item, rule),
        result_status=_result_status(None if result is None else _value(found, result.status), rule),
        connect_account_id=None if result is None else _account_id(_value(found, result.connect_account_id)),
        advance=None if of_job.progress is None else _advance(of_job.progress, item),
        upstream=_storable(item),
        read_fields=of_job.read_fields,
        request_id=_request_id(request_id),
    )


def read_listing(definition: SourceDefinition, body: bytes) -> Listing | Malformed:
    """Reads the 2xx answer to a listing of connect accounts: its first MAX_ITEMS items, and at most MAX_ACCOUNTS
    accounts. An account with several items has the state that they agree on."""
    names = definition.connect_accounts
    answer = read_answer(definition, body)
    if isinstance(answer, Malformed):
        return answer
    items = None if names is None else at(answer, names.items)
    if names is None or not isinstance(items, list):
        detail = "" if names is None else f"there is no list at {written(names.items)}"
        return Malformed(reason="no_items", detail=detail)
    accounts: dict[str, ListedAccount] = {}
    is_complete = len(items) <= MAX_ITEMS
    for item in items[:MAX_ITEMS]:
        listed = _listed_account(names, item) if isinstance(item, dict) else None
        if listed is None:
            is_complete = False
            continue
        known = accounts.get(listed.id)
        if known is None and len(accounts) == MAX_ACCOUNTS:
            return Listing(accounts=accounts, is_complete=False)
        agreed = listed.state if known is None or known.state == listed.state else None
        accounts[listed.id] = replace(known or listed, state=agreed)
    return Listing(accounts=accounts, is_complete=is_complete)


def _listed_account(names: ConnectAccounts, item: Mapping[str, Any]) -> ListedAccount | None:
    """None if the item has no id that can be kept."""
    id = _account_id(at(item, names.id))
    if id is None or id != _id_text(at(item, names.id)):
        return None
    can_send = at(item, names.can_send)
    status = _text(at(item, names.status), MAX_STATUS_CHARACTERS) or None
    state = names.states.get(status or "")
    if state is None and isinstance(can_send, bool):  # a status never seen before: the flag decides
        state = OK
    if state == OK and can_send is False:
        state = CANNOT_SEND
    return ListedAccount(
        id=id,
        channel=_word(at(item, names.channel)),
        name=_word(at(item, names.name)),
        status=status,
        can_send=can_send if isinstance(can_send, bool) else None,
        state=state,
    )


def read_credits(definition: SourceDefinition, body: bytes) -> Document | Malformed:
    """Reads the 2xx answer to a read of an account's credits: a number from 0 to MAX_UNITS."""
    names = definition.credits
    answer = read_answer(definition, body)
    if isinstance(answer, Malformed):
        return answer
    places = () if names is None else names.available
    value = next((found for place in places if (found := at(answer, place)) is not None), None)
    available = _number(value)
    if available is None:
        places_shown = " or ".join(map(written, places))
        return Malformed(reason=f"no number of credits at {places_shown}")
    return Document(value=available)


def read_error(definition: SourceDefinition, body: bytes) -> UpstreamError:
    """Reads the code, message and request id of an error answer."""
    answer = read_object(body)
    if isinstance(answer, Malformed):
        return UpstreamError()
    names = definition.error
    outer_request_id = _request_id(_request_id_in(definition, answer))
    error = at(answer, names.at)
    if not isinstance(error, dict):
        text = _text(error, _MAX_MESSAGE_CHARACTERS)
        said = {"message": text} if " " in text else {"code": text[:_MAX_CODE_CHARACTERS]}
        return UpstreamError(**said, request_id=outer_request_id)
    return UpstreamError(
        code=_text(at(error, names.code), _MAX_CODE_CHARACTERS),
        message=_text(at(error, names.message), _MAX_MESSAGE_CHARACTERS),
        request_id=_request_id(_value(error, names.request_id)) or outer_request_id,
    )


def registered(
    definition: SourceDefinition,
    body: Mapping[str, Any],
    *,
    now: float,
    resource: str = "",
    create: Create | None = None,
    location: str | None = None,
) -> Registered | None:
    """Reads the job of a resource from a successful answer to a create; None if the body is not such an answer.

    Used for answers that the proxy forwards and for those sent as a registration's body. `create`: the call, which may
    say that the id is elsewhere than in a job, and then nothing else is read; `location`: the header that it names.
    """
    of_job = definition.resource_of(resource)
    if _refusal(definition, body) is not None:
        return None
    item = at(body, of_job.item)
    external_id = None if location is None else of_job.id_at(location)
    if external_id is None and create is not None:
        external_id = _id_text(_value(body, create.id))
    is_elsewhere = external_id is not None
    if not isinstance(item, dict) and not is_elsewhere:
        return None
    external_id = external_id or _id_text(_value(item, of_job.fields.id))
    if external_id is None or len(external_id) > MAX_EXTERNAL_ID_CHARACTERS or not external_id.isprintable():
        return None
    rule = None if is_elsewhere else of_job.rule_of(item)
    is_partial = rule is not None and rule.there is False  # such an answer may lack what a read has
    if is_elsewhere or is_partial or of_job.needs_status(item):  # the status of this answer is about the create
        return Registered(external_id=external_id, observation=None)
    request_id = _request_id(_request_id_in(definition, body))
    seen = observe_item(definition, item, now=now, resource=resource, request_id=request_id)
    return Registered(external_id=external_id, observation=seen if isinstance(seen, Observation) else None)


def _unknown_status(definition: SourceDefinition, value: object) -> str | None:
    """The upstream's word for a state that no rule knows; None if it has none."""
    word = _text(value, MAX_STATUS_CHARACTERS)
    if word in KNOWN_STATUSES:  # no rule maps it: it may mean something else there
        word = f"{definition.name}:{word}"[:MAX_STATUS_CHARACTERS]
    return word or None


def _problem(names: ProblemFields | None, item: Mapping[str, Any], rule: Rule | None) -> Problem | None:
    """Why a job failed, or why it is tried again. An open job has a problem only if the answer says so."""
    state = None if rule is None else rule.state
    value = None if names is None or state == "succeeded" else at(item, names.at)
    code = message = ""
    retryable: object = None
    if isinstance(value, str):
        message = _text(value, _MAX_MESSAGE_CHARACTERS)
    elif isinstance(value, dict) and names is not None:
        code = _text(at(value, names.code), _MAX_CODE_CHARACTERS)
        message = _text(at(value, names.message), _MAX_MESSAGE_CHARACTERS)
        retryable = _value(value, names.retryable)
        if not code and state not in TERMINAL:
            message = ""
    code = code or ((rule.code if rule is not None else None) or "")
    if not (code or message or (value and state == "failed")):
        return None
    return Problem(
        code=code or NO_CODE,
        message=message or code or NO_CODE,
        retryable=retryable if isinstance(retryable, bool) else None,
    )


def _result_status(status: object, rule: Rule | None) -> str | None:
    if isinstance(status, str) and _TOKEN.fullmatch(status):
        return status.lower()
    return None if rule is None else rule.result


def _account_id(value: object) -> str | None:
    return _word(_id_text(value))


def _text(value: object, max_characters: int) -> str:
    """One line of text without control characters, truncated; empty if `value` is not text."""
    return _CONTROL.sub("", value[: 2 * max_characters])[:max_characters].strip() if isinstance(value, str) else ""


def _word(value: object) -> str | None:
    return _text(value, _MAX_WORD_CHARACTERS) or None


_SECONDS = {"seconds": 1.0, "milliseconds": 0.001}


def _time(item: Any, place: TimePlace | None) -> float | None:
    value = None if place is None else at(item, place.at)
    if place is not None and place.as_ in _SECONDS:
        value = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LATEST:
            return None
        return min(value * _SECONDS[place.as_], MAX_EPOCH_SECONDS)
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return None
    try:
        return from_rfc3339(value.upper())
    except ValueError:
        return None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return 0
    return int(min(max(value, 0), MAX_ATTEMPT_COUNT))


def _advance(places: ProgressFields, item: Any) -> Advance | None:
    """How far the job is; None if the item does not say it."""
    percent, done, total = (_number(_value(item, place)) for place in (places.percent, places.done, places.total))
    fraction, position = _number(_value(item, places.fraction)), _number(_value(item, places.position))
    if percent is None and fraction is not None:
        percent = fraction * 100
    elif percent is None and done is not None and total:
        percent = done / total * 100
    found = Advance(
        percent=None if percent is None else round(min(percent, 100.0), 3),
        done=done,
        total=total,
        stage=_word(_value(item, places.stage)),
        position=None if position is None else int(position),
        is_told=places.events,
    )
    return None if found == Advance(is_told=places.events) else found


def _number(value: object) -> float | None:
    """A number from 0 to MAX_UNITS, a whole one as int; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_UNITS:
        return None
    return int(value) if value == int(value) else value


def _id_text(value: object) -> str | None:
    """An id as text; some APIs use numbers."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _request_id(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    value = value[:1000]
    if not value.isprintable():
        value = "".join(character for character in value if character.isprintable())
    return value[:MAX_REQUEST_ID_CHARACTERS].strip() or None


def _storable(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item without fields nested too deeply to be serialised again."""
    if _serialises(dict(item)):
        return dict(item)
    return {name: value for name, value in item.items() if _serialises({name: value})}


def _serialises(value: object) -> bool:
    for _ in range(_LEVELS_ABOVE_AN_ITEM):
        value = [value]
    try:
        dumps(value)
    except TypeError:
        return False
    return True
