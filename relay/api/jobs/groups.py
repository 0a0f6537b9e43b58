"""`/v1/groups`: groups of jobs. Read, wait for the end, close."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import READS_JOBS, WRITES_JOBS
from relay.api.http.fields import SOURCE, TIME, Body
from relay.api.http.idempotency import Repeats, members
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE, choice, text
from relay.api.http.shown import Shown, Time, example_of, page_of
from relay.api.http.validation import validate
from relay.api.jobs import waiting
from relay.api.jobs.group_finish import GroupForecast
from relay.core.events.event import Hint, Repeat
from relay.core.jobs.connect_accounts import NEW
from relay.core.jobs.groups import MAX_EXPECTED, OTHER, SPANS, JobGroup, spans_until
from relay.errors import Conflict, NotFound
from relay.store.jobs.groups import COUNTED_ENDS


class GroupClose(Body):
    """No more jobs come."""

    expected: int | None = Field(
        default=None,
        ge=0,
        le=MAX_EXPECTED,
        description="How many jobs the group has in all. Those that have not come when it settles are `missing`. "
        "Default: those that are there.",
        examples=[500],
    )


class GroupCounts(Shown):
    """Jobs of the round by state. A job that is closed counts as its outcome."""

    queued: int = Field(description="Also those that were not polled yet, or have an unknown status.", examples=[40])
    scheduled: int = Field(examples=[120])
    running: int = Field(examples=[3])
    retrying: int = Field(examples=[1])
    succeeded: int = Field(examples=[331])
    failed: int = Field(examples=[5])
    cancelled: int
    not_found: int
    untracked: int


class FailureCount(Shown):
    """Failed jobs with one error code, and how to fix it. The words are null if the code has none."""

    code: str = Field(examples=["account_disconnected"])
    count: int = Field(examples=[4])
    meaning: str | None = Field(description="What the error means.", examples=["The account needs reconnecting"])
    fix: str | None = Field(description="What to do about the cause.", examples=["Reconnect the account"])
    who: str | None = Field(description="Who can do it.", examples=["account owner"])
    repeat: Repeat | None = Field(
        description="The effect of sending such a create again, for all that the code tells.", examples=["safe"]
    )


class Group(Shown):
    """A group of jobs in its current round."""

    name: str = Field(examples=["Q4 campaign"])
    source: str = Field(examples=[SOURCE])
    account: str = Field(examples=["default"])
    state: Literal["open", "finished"]
    round: int = Field(description="A job that joins after a round has finished opens the next one.", examples=[1])
    closed: bool = Field(description="True if no more jobs come.", examples=[True])
    counts: GroupCounts
    skipped: int = Field(description="Succeeded jobs that the upstream skipped.", examples=[2])
    missing: int = Field(description="Expected jobs that had not come when the round finished.")
    failures: list[FailureCount] = Field(
        description="The most frequent first. Beyond 100 codes the rest is counted as `other`.",
        examples=[[example_of(FailureCount)]],
    )
    first_at: Time
    last_at: Time = Field(description="When its latest job was registered.", examples=["2026-05-20T10:00:41.000Z"])
    finished_at: Time | None
    expected: int | None = Field(description="How many jobs it has in all, if that was stated.", examples=[500])


class ExpectedFinish(Shown):
    """The expected finish of a group: in one of ten cases before `p10`, in one of ten after `p90`."""

    p10: Time = Field(examples=["2026-05-20T13:52:00.000Z"])
    p50: Time = Field(examples=["2026-05-20T14:10:30.000Z"])
    p90: Time = Field(examples=["2026-05-20T14:41:12.000Z"])


class UsedAccount(Shown):
    """An account that a group's jobs are sent from."""

    id: str = Field(description="The upstream's id.", examples=["acc_1"])
    channel: str | None = Field(examples=["linkedin"])
    name: str | None = Field(examples=["Ada Example"])
    state: Literal["ok", "needs_reconnect", "cannot_send", "removed"] | None = Field(
        description="As in `GET /v1/connect-accounts`; null: no listing has shown it.", examples=["needs_reconnect"]
    )
    since: Time | None = Field(examples=[TIME])
    trouble: str | None = Field(
        description="The open incident whose jobs failed because of it.", examples=["inc_01jvpq3m8n0000000000000009"]
    )
    waiting: int = Field(description="Open jobs of the group that name it, among those that were read.", examples=[32])
    is_least: bool = Field(description="True if the group has more open jobs than were read.")


class GroupWithForecast(Group):
    """A group of jobs in its current round, and when it is expected to finish."""

    rate_per_hour: float | None = Field(
        description="How many of its jobs end per hour, judged by the last hour. Null at its end.", examples=[41.0]
    )
    expected_finish: ExpectedFinish | None = Field(
        description="When the last of its jobs ends. Null if that is unknown.", examples=[example_of(ExpectedFinish)]
    )
    expected_finish_note: str | None = Field(description="Why there is no expected finish, or what it leaves out.")
    last_ended_at: Time | None = Field(description="When its last job ended.", examples=[TIME])
    connect_accounts: list[UsedAccount] = Field(
        description="The accounts that its open jobs, and the 200 that ended last, are sent from. Those that cannot "
        "send come first."
    )


class GroupEnd(Shown):
    """The jobs that ended in one span of time."""

    time: Time = Field(description="The beginning of the span.", examples=[TIME])
    ended: int = Field(description=f"At most {COUNTED_ENDS:,} are counted.", examples=[41])


class GroupEnds(Shown):
    """A round's ends over time."""

    points: list[GroupEnd] = Field(
        description=f"{SPANS} equal spans, the oldest first, up to now or to the round's finish."
    )


GroupPage = page_of(Group, "groups")


def group_view(call: Call, group: JobGroup, model: type[Group] = Group, **more: object) -> dict[str, Any]:
    """A group."""
    explained = call.dependencies.tracking.explained
    return model.of(
        group,
        state="open" if group.finished_at is None else "finished",
        closed=group.closed_at is not None,
        counts=group.all_counts,
        failures=[_failure(code, count, explained(group.source, code)) for code, count in group.most_failures],
        **more,
    )


def _failure(code: str, count: int, hint: Hint | None) -> dict[str, Any]:
    if code == OTHER or hint is None:
        return {"code": code, "count": count, "meaning": None, "fix": None, "who": None, "repeat": None}
    return {"code": code, "count": count, **hint.document()}


def forecast_view(call: Call, group: JobGroup, forecast: GroupForecast) -> dict[str, Any]:
    """A group and its forecast."""
    return group_view(
        call,
        group,
        GroupWithForecast,
        rate_per_hour=None if forecast.rate_per_hour is None else round(forecast.rate_per_hour, 1),
        expected_finish=forecast.finish,
        expected_finish_note=forecast.note,
        last_ended_at=forecast.last_ended_at,
        connect_accounts=[
            UsedAccount.of(one, state=None if one.state == NEW else one.state) for one in forecast.accounts
        ],
    )


operation = partial(Operation, tag="Groups", bound=True, scopes=READS_JOBS)

_WHICH = (
    text("source", "Selects one of several groups of this name."),
    text("account", "Selects one of several groups of this name."),
)
_AMBIGUOUS = {409: "Several accounts have a group of this name: use `source` and `account`."}


@operation(
    "GET /v1/groups",
    query=(
        choice("state", "Whether the round has finished.", "open", "finished"),
        text("source", "Only groups of this source."),
        text("account", "Only groups of this account."),
        *PAGE,
    ),
    answers={200: Answer("A page.", GroupPage, headers=NEXT)},
)
async def list_groups(call: Call) -> Response:
    """List groups, newest first."""
    page = await call.dependencies.store.groups.page(**call.query)
    return page_response(call.request, [group_view(call, one) for one in page.items], page.next_cursor)


@operation(
    "GET /v1/groups/{name}",
    query=_WHICH,
    request_headers=waiting.PREFER,
    answers={200: Answer("The group.", GroupWithForecast, headers=waiting.APPLIED)},
    problems={**_AMBIGUOUS, 429: "Too many requests are waiting."},
)
async def get_group(call: Call) -> Response:
    """Read a group, or wait for its end.

    With `Prefer: wait=N` the response is sent when the round finishes, and after N seconds at the latest.
    """
    group = await _find_group(call, call.query)
    seconds = waiting.preferred_seconds(call.request.headers)
    if seconds is not None:
        group = await waiting.wait_for_group(call, group, seconds)
    view = forecast_view(call, group, await call.dependencies.forecasts.of(group))
    return json_response(view, headers=waiting.applied(seconds))


@operation(
    "GET /v1/groups/{name}/ends",
    query=_WHICH,
    answers={200: Answer("The ends.", GroupEnds)},
    problems=_AMBIGUOUS,
)
async def get_group_ends(call: Call) -> Response:
    """Read how many jobs of a group ended over time, for a chart of its round."""
    group = await _find_group(call, call.query)
    until = call.dependencies.clock() if group.finished_at is None else group.finished_at
    spans = spans_until(until, group.first_at)
    # what ended before the round is not part of it
    counted = [(max(began_at, group.first_at), ended_at) for began_at, ended_at in spans]
    ends = await call.dependencies.store.groups.ends(group, counted)
    points = [GroupEnd.of(None, time=began_at, ended=ended) for (began_at, _), ended in zip(spans, ends, strict=True)]
    return json_response(GroupEnds.of(None, points=points))


async def _group_again(call: Call, kept: Mapping[str, Any]) -> dict[str, Any]:
    return group_view(call, await _find_group(call, kept))


@operation(
    "POST /v1/groups/{name}/close",
    repeats=Repeats(members("source", "account"), _group_again),
    audited="groups.close",
    scopes=WRITES_JOBS,
    query=_WHICH,
    body=GroupClose,
    body_optional=True,
    answers={200: Answer("The group.", Group)},
    problems=_AMBIGUOUS,
)
async def close_group(call: Call) -> Response:
    """State that no more jobs come.

    The round then finishes with its last job. With `expected` it waits for that many first. A round that has finished
    is unchanged. A job that comes nevertheless is counted: in this round, or in the next one.
    """
    body = validate(GroupClose, call.document)
    group = await _find_group(call, call.query)
    call.note(expected=body.expected)
    closed = await call.dependencies.store.groups.close(group, body.expected, call.dependencies.clock())
    if closed is None:
        raise _not_found(group.name)
    return json_response(group_view(call, closed))


async def _find_group(call: Call, place: Mapping[str, Any]) -> JobGroup:
    """The group of the path. `place`: its `source` and `account`, or None. Raises NotFound, or Conflict if several
    accounts have one of this name."""
    name: str = call.request.path_params["name"]
    found = await call.dependencies.store.groups.find(name, place["source"], place["account"])
    if not found:
        raise _not_found(name)
    if len(found) > 1:
        where = ", ".join(f"?source={group.source}&account={group.account}" for group in found[:5])
        detail = f"{len(found)} accounts have a group {name!r}: choose one with {where}"
        raise Conflict(detail, code="ambiguous_group")
    return found[0]


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no group {name[:200]!r}", code="group_not_found")
