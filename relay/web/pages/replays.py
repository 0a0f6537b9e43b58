"""Sending many events again: counted first, then started, then followed at /ui/replays/{id}."""

from collections.abc import Mapping
from typing import Any

from relay.core.jsontext import dumps
from relay.core.values import moment
from relay.errors import RequestError
from relay.web.delivery_words import reason_words, subscription_name
from relay.web.page import Content, Done, Equivalent, PageRequest, action, equivalent, options, page
from relay.web.pages.deliveries import choices_of, day_after, subscriptions
from relay.web.texts import english

FILTER = ("state", "subscription", "type", "reason")
FIELDS = ("subscription", "since", "until", "types", "only")
ANY = "SUBSCRIPTION"
"""Stands in a command where none is chosen."""
MAX_TYPES = 50

Answer = Mapping[str, Any]


# --- the deliveries of a group


@page("GET /ui/deliveries/retry")
async def count_group(page_request: PageRequest) -> Content:
    """The number of deliveries that would be sent again."""
    filter = _filter(page_request.query.get, page_request.query.get("day"))
    found = await page_request.api.post("/v1/deliveries/retry", query={"dry_run": "true"}, body={"filter": filter})
    id = filter.get("subscription")
    known = None if id is None else await page_request.api.allowed("/v1/subscriptions/{}", id)
    return Content(
        template="retry.html",
        title=english()("replays.retry_title"),
        values={
            "found": found,
            "state": filter.get("state", "dead"),
            "reason_words": reason_words(filter["reason"]) if "reason" in filter else None,
            "name": None if id is None else subscription_name(known, {"subscription_id": id}),
            "subscription": known,
            "subscription_id": id,
            "kept": {name: page_request.query.get(name) for name in (*FILTER, "day")},
        },
        equivalent=equivalent(
            ["relay", "deliveries", "retry", *options(filter)],
            "POST /v1/deliveries/retry",
            body=_json({"filter": filter}),
        ),
    )


@page("POST /ui/deliveries/retry")
async def retry_group(page_request: PageRequest) -> Done:
    """Sends them again."""
    filter = _filter(page_request.form.get, page_request.form.get("day"))
    return _started(
        await page_request.api.post("/v1/deliveries/retry", body={"filter": filter}, key=page_request.form.key)
    )


def _filter(given: Any, day: str) -> dict[str, str]:
    """The filter of the API: those of its fields that have a value, and the day as a range."""
    found = {name: given(name) for name in FILTER if given(name)}
    return found | ({"since": f"{day}T00:00:00Z", "until": day_after(day)} if day else {})


# --- a range of events


@page("GET /ui/replays/new")
async def new_replay(page_request: PageRequest) -> Content:
    """The form: which events to which subscription."""
    given = {**dict.fromkeys(FIELDS, ""), "since": "1d", "only": "undelivered", **page_request.asked(*FIELDS)}
    return await _form(page_request, given)


@page("POST /ui/replays/new")
async def count_range(page_request: PageRequest) -> Content:
    """The number of events that would be sent again."""
    given = _given(page_request)
    body = _body(page_request, given)
    try:
        found = await page_request.api.post(
            "/v1/subscriptions/{}/replay", given["subscription"] or "-", query={"dry_run": "true"}, body=body
        )
    except RequestError as error:
        return await _form(page_request, given, error)
    subscription = await page_request.api.allowed("/v1/subscriptions/{}", given["subscription"])
    return Content(
        template="replay_count.html",
        title=english()("replays.count_title"),
        values={
            "found": found,
            "body": body,
            "kept": {**given, "since": body["since"], "until": body.get("until", "")},
            "subscription": subscription,
            "name": subscription_name(subscription, {"subscription_id": given["subscription"]}),
        },
        equivalent=_replay(given["subscription"], body),
    )


@page("POST /ui/replays")
async def start_replay(page_request: PageRequest) -> Content | Done:
    """Starts it."""
    given = _given(page_request)
    try:
        started = await page_request.api.post(
            "/v1/subscriptions/{}/replay",
            given["subscription"] or "-",
            body=_body(page_request, given),
            key=page_request.form.key,
        )
    except RequestError as error:
        return await _form(page_request, given, error)
    return _started(started)


def _given(page_request: PageRequest) -> dict[str, str]:
    return {name: page_request.form.get(name) for name in FIELDS}


def _body(page_request: PageRequest, given: Mapping[str, str]) -> dict[str, Any]:
    now, types = page_request.now, given["types"].replace(",", " ").split()
    body: dict[str, Any] = {"since": moment(given["since"], now), "only": given["only"] or "undelivered"}
    body |= {"until": moment(given["until"], now)} if given["until"] else {}
    return body | ({"types": types[:MAX_TYPES]} if types else {})


def _replay(id: str, body: Mapping[str, Any]) -> Equivalent:
    """The command that sends the range again from a terminal."""
    given = {"since": body["since"], "until": body.get("until"), "types": ",".join(body.get("types", ()))}
    command = ["relay", "subscriptions", "replay", id, *options({**given, "only": body["only"]})]
    return equivalent(command, "POST /v1/subscriptions/{}/replay", id, body=_json(body))


async def _form(page_request: PageRequest, given: Mapping[str, str], error: RequestError | None = None) -> Content:
    known = await subscriptions(page_request)
    chosen = given["subscription"]
    return Content(
        template="replay_form.html",
        title=english()("replays.new_title"),
        status=200 if error is None else error.status,
        values={
            "given": given,
            "choices": choices_of(known),
            "unknown": chosen if chosen and chosen not in known else None,
            "error": error,
            "errors": {} if error is None else _by_field(error),
        },
        equivalent=_replay(chosen if chosen.startswith("sub_") else ANY, _body(page_request, given)),
    )


def _by_field(error: RequestError) -> Mapping[str, str]:
    """The mistakes, by the field of the form."""
    if error.code == "subscription_not_found":
        return {"subscription": english()("replays.choose")}
    found: dict[str, str] = {}
    for one in error.errors:
        found.setdefault(one.pointer.strip("/").partition("/")[0], one.detail)
    return found


# --- progress


@page("GET /ui/replays/{id}", live=True, moves=True)
async def replay(page_request: PageRequest) -> Content:
    """The progress of a replay."""
    found = await page_request.api.get("/v1/replays/{}", page_request.id())
    id = found["subscription_id"]
    subscription = None if id is None else await page_request.api.allowed("/v1/subscriptions/{}", id)
    done = found["matched"] - found["left"]
    return Content(
        template="replay.html",
        title=english()("replays.title"),
        values={
            "replay": found,
            "done_count": done,
            "others": max(0, done - found["delivered"] - found["dead"]),
            "percent": 100 if not found["matched"] else int(100 * done / found["matched"]),
            "subscription": subscription,
            "name": None if id is None else subscription_name(subscription, {"subscription_id": id}),
            "reason_words": reason_words(found["reason"]) if found["reason"] else None,
        },
        equivalent=equivalent(["relay", "replays", "show", found["id"]], "GET /v1/replays/{}", found["id"]),
    )


def _started(answer: Answer) -> Done:
    return Done(key="replay_started", to=f"/ui/replays/{answer['replay_id']}", n=answer["matched"])


def _json(value: object) -> str:
    return dumps(value).decode()


action("POST /ui/replays/{id}/stop", "DELETE /v1/replays/{}", done="replay_stopped", to="/ui/replays/{}")
