"""The list of jobs at /ui/jobs with its search and bulk actions, and one job at /ui/jobs/{id}."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from relay.api.http.limits import parse_json
from relay.clock import from_rfc3339, to_rfc3339
from relay.core.jobs.job import KNOWN_STATUSES
from relay.core.turns import turn_of_failure
from relay.core.values import moment
from relay.errors import FieldError, RequestError
from relay.web import hazard, timeline
from relay.web.concerns import Concern
from relay.web.delivery_words import listed_reason, shown_state, subscription_name
from relay.web.job_history import event_kind, history, sentence_of, state_of, tone
from relay.web.job_words import Line, line_of, troubles, with_names
from relay.web.page import (
    PAGE_ITEMS,
    TIMES,
    Content,
    Done,
    Export,
    PageRequest,
    action,
    columns,
    equivalent,
    options,
    page,
)
from relay.web.pages.accounts import websites
from relay.web.pages.cards import cards_of, concerns_for
from relay.web.pages.deliveries import subscriptions
from relay.web.rendering import duration, inert, pretty
from relay.web.texts import english

FILTERS = ("search", "status", "open", "group", "source", "account", "channel", "connect_account", "since", "until")
FEW_FILTERS = frozenset({"search", "status", "open"})
"""Filters that are shown at once; a page with another one shows all."""
TABS: Mapping[str, Mapping[str, str]] = {
    "all": {},
    "open": {"open": "true"},
    **{status: {"status": status} for status in ("failed", "cancelled", "succeeded")},
}
"""Filters by state, which the API counts."""
AGES = {"1h": 3600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}
CHANNELS = ("linkedin", "email", "whatsapp")
MAX_EVENTS = 100
MAX_DELIVERIES = 100
MAX_EVENTS_ASKED = 25
"""Events whose deliveries are read, the last ones."""
MAX_BULK = 100
MAX_REQUEST_IDS = 20
COLUMNS = columns(
    "id uid status outcome source account group channel tracked_at closed_at problem=problem.code "
    "meaning=problem.meaning fix=problem.fix metadata"
)

Answer = Mapping[str, Any]


@page("GET /ui/jobs", live=True)
async def jobs(page_request: PageRequest) -> Content | Done:
    """The jobs, newest first; with `search` those that a text finds, and a job whose id it is at once."""
    texts = english()
    asked = _asked(page_request)
    errors: Sequence[FieldError] = ()
    found: Answer = {"items": [], "next_cursor": None}
    counts = {} if "search" in asked else {"counts": "true"}
    try:
        query = {**asked, **counts, "limit": PAGE_ITEMS, "cursor": page_request.query.get("cursor")}
        found = await page_request.api.get("/v1/jobs", query=query)
    except RequestError as error:
        if error.status not in (400, 422):
            raise
        errors = error.errors or [FieldError(pointer="", code=error.code, detail=str(error))]
    if len(found["items"]) == 1 and asked.get("search") in (found["items"][0]["id"], found["items"][0]["uid"]):
        return Done(key="", to=f"/ui/jobs/{found['items'][0]['uid']}")
    settings = page_request.context.dependencies.settings
    concerns = await concerns_for(page_request)
    key, _, value = asked.get("metadata", "").partition(":")
    return Content(
        template="jobs.html",
        title=texts("base.jobs"),
        status=422 if errors else 200,
        values={
            "items": _lines(page_request, found["items"], concerns),
            "concerns": concerns,
            "next_cursor": found["next_cursor"],
            "asked": asked,
            "chosen": {name: asked.get(name, "") for name in FILTERS},
            "tabs": _tabs(page_request, asked, found.get("counts")),
            "search": found.get("search"),
            "errors": errors,
            "more": bool(asked.keys() - FEW_FILTERS - {"source"}),
            "statuses": sorted(KNOWN_STATUSES),
            "sources": sorted(settings.accounts),
            "accounts": sorted({name for names in settings.accounts.values() for name in names}),
            "search_keys": settings.search_keys,
            "channels": CHANNELS,
            "ages": AGES,
            "chosen_key": key,
            "chosen_value": value,
        },
        equivalent=equivalent(["relay", "jobs", "list", *_options(asked)], "GET /v1/jobs", query=asked),
        export=None
        if errors
        else Export(path="/v1/jobs", query=asked, columns=with_names(COLUMNS, settings.search_keys)),
    )


def _asked(page_request: PageRequest) -> dict[str, str]:
    """The filters, as the API takes them."""
    asked = page_request.asked(*FILTERS, "metadata")
    key, value = page_request.query.get("key"), page_request.query.get("value")
    if key and value:
        asked["metadata"] = f"{key}:{value}"
    asked |= {name: moment(asked[name], page_request.now) for name in TIMES if name in asked}
    age = AGES.get(page_request.query.get("age"))
    if age is not None:
        asked.setdefault("since", to_rfc3339(page_request.now - age))
    return asked


def _options(asked: Mapping[str, str]) -> list[str]:
    flags = [f"--{'closed' if asked['open'] == 'false' else 'open'}"] if "open" in asked else []
    return [*flags, *options({**asked, "open": None})]


def _tabs(page_request: PageRequest, asked: Mapping[str, str], counts: Answer | None) -> Sequence[Mapping[str, Any]]:
    """The filters by state, each with its path and, without a search, its number of jobs."""
    now = {"status": asked.get("status"), "open": asked.get("open")}
    found = []
    for name, filters in TABS.items():
        wanted = {"status": None, "open": None, **filters}
        count = None if counts is None else counts[name]
        found.append(
            {
                "name": name,
                "path": page_request.path(**wanted, cursor=None),
                "chosen": wanted == now,
                "count": None if count is None else f"{count['count']:,}{'+' if count['more'] else ''}",
            }
        )
    return found


def _lines(page_request: PageRequest, jobs: Sequence[Answer], found: Sequence[Concern]) -> Sequence[Line]:
    now, keys = page_request.now, page_request.context.dependencies.settings.search_keys
    return [
        line_of(job, now, search_keys=keys, upstream=page_request.upstream(job["source"]), concerns=found)
        for job in jobs
    ]


@page("POST /ui/jobs/bulk")
async def bulk(page_request: PageRequest) -> Content | Done:
    """Polls the chosen jobs again, or stops tracking them."""
    action, ids = page_request.form.get("action"), page_request.form.all("id")
    back = page_request.form.get("back")
    back = back if back.startswith("/ui/jobs?") else "/ui/jobs"
    if not ids:
        return Done(key="jobs_none_chosen", to=back)
    answer = await page_request.api.post("/v1/jobs/bulk", body={"action": action, "ids": ids[:MAX_BULK]})
    failed = [one for one in answer["items"] if one["status"] >= 400]
    if not failed:
        return Done(key=f"jobs_{action}", to=back, n=len(answer["items"]))
    texts = english()
    return Content(
        template="jobs_bulk.html",
        title=texts("jobs.bulk_title"),
        values={"failed": failed, "fine": len(answer["items"]) - len(failed), "back": back},
    )


@page("POST /ui/jobs/register")
async def register(page_request: PageRequest) -> Content | Done:
    """Tracks a job, from the body of a registration. It sends no message: registering only tracks."""
    given = page_request.form.get("body")
    try:
        job = await page_request.api.post("/v1/jobs", body=parse_json(given.encode()), key=page_request.form.key)
    except RequestError as error:
        if error.status == 403:
            raise
        return Content(
            template="job_register.html",
            title=english()("jobs.register_title"),
            status=error.status,
            values={"body": given, "error": error},
        )
    return Done(key="job_registered", to=f"/ui/jobs/{job['uid']}")


@page("GET /ui/jobs/{id}", live=True)
async def job(page_request: PageRequest) -> Content:
    """One job: what happened to it, what is next and why, and what can be done."""
    texts, now = english(), page_request.now
    job = await page_request.api.get("/v1/jobs/{}", page_request.id(), query=page_request.asked("source", "account"))
    uid = job["uid"]
    explanation = await page_request.api.get("/v1/jobs/{}/explain", uid)
    events = await page_request.api.get("/v1/jobs/{}/events", uid, query={"limit": MAX_EVENTS})
    deliveries = await _deliveries(page_request, events["ids"])
    keys, upstream = page_request.context.dependencies.settings.search_keys, page_request.upstream(job["source"])
    line = line_of(job, now, search_keys=keys, upstream=upstream)
    held = troubles(job, await concerns_for(page_request)) if job["open"] else ()
    known = await subscriptions(page_request) if deliveries else {}
    names = {one["id"]: subscription_name(known.get(one["subscription_id"]), one) for one in deliveries or ()}
    past = history(job, events["items"], deliveries or (), explanation, now, names=names, search_keys=keys)
    kinds = {id: event_kind(document) for id, document in zip(events["ids"], events["items"], strict=True)}
    state = state_of(job, now)
    body = pretty(_registration(job))
    return Content(
        template="job.html",
        title=texts("jobs.job_title", about=inert(line.about[:60])),
        values={
            "job": job,
            "state": state,
            "tone": tone(state),
            "sentence": sentence_of(job, now, keys),
            "line": line,
            "cards": cards_of(page_request, held),
            "upstream": upstream,
            "turn": (turn := _turn(job, explanation)),
            "website": (await websites(page_request)).get(job["source"]) if turn is not None else None,
            "explanation": explanation,
            "story": past.entries,
            "quiet_polls": past.quiet_polls,
            "deadline_later": past.deadline_later,
            "request_ids": past.request_ids[:MAX_REQUEST_IDS],
            "timeline": timeline.draw(past.timeline),
            "legend": timeline.legend(past.timeline),
            "cut": past.timeline.cut,
            "lanes": timeline.LANES,
            "hazard": _hazard(explanation, now),
            "more_events": events["next_cursor"] is not None,
            "deliveries": deliveries,
            "more_deliveries": _is_cut(events["ids"], deliveries),
            "kinds": kinds,
            "names": names,
            "tones": tone,
            "shown_state": shown_state,
            "listed_reason": listed_reason,
            "body": body,
            "register": equivalent([], "POST /v1/jobs", body=orjson.dumps(_registration(job)).decode()),
        },
        equivalent=equivalent(["relay", "jobs", "explain", uid], "GET /v1/jobs/{}", uid),
    )


async def _deliveries(page_request: PageRequest, event_ids: Sequence[str]) -> list[Answer] | None:
    """The deliveries of a job's last events; None if the caller may not see them."""
    found: list[Answer] = []
    for id in event_ids[-MAX_EVENTS_ASKED:][::-1]:
        if len(found) >= MAX_DELIVERIES:
            break
        some = await page_request.api.allowed(
            "/v1/deliveries", query={"event": id, "limit": MAX_DELIVERIES - len(found)}
        )
        if some is None:
            return None
        found += some["items"]
    return found


def _is_cut(event_ids: Sequence[str], deliveries: Sequence[Answer] | None) -> bool:
    return len(event_ids) > MAX_EVENTS_ASKED or len(deliveries or ()) >= MAX_DELIVERIES


def _turn(job: Answer, explanation: Answer) -> str | None:
    """Whose turn the job's error is, or that of its account; None without one."""
    what = job["problem"] or explanation["last_error"]
    return None if what is None else turn_of_failure(what["who"])


def _hazard(explanation: Answer, now: float) -> Mapping[str, Any] | None:
    """The chart of the next poll and its figures; None if the price does not decide that poll."""
    outlook, planned = explanation["outlook"], explanation["next_poll_at"]
    if outlook is None or planned is None or len(outlook["points"]) < 2:
        return None
    at = from_rfc3339(planned)
    texts = english()
    return {
        "drawing": hazard.draw(outlook, at, now),
        "price": duration(outlook["price_seconds"]),
        "saved": duration(hazard.at(outlook, at, "expected_delay_seconds")),
        "hazard": hazard.at(outlook, at, "hazard_per_second") * 60,
        "change": texts.get(f"jobs.change_{outlook['change']}", ""),
    }


def _registration(job: Answer) -> dict[str, Any]:
    """The body that registers a job again."""
    body = {"id": job["id"], "source": job["source"], "account": job["account"]}
    more = {"group": job["group"], "metadata": job["metadata"] or None}
    priority = None if job["priority"] == "normal" else job["priority"]
    return body | {name: value for name, value in {**more, "priority": priority}.items() if value is not None}


action("POST /ui/jobs/{id}/refresh", "POST /v1/jobs/{}/refresh", done="job_refreshed", to="/ui/jobs/{}")
action("POST /ui/jobs/{id}/untrack", "DELETE /v1/jobs/{}", done="job_untracked", to="/ui/jobs/{}")
action("POST /ui/jobs/{id}/purge", "DELETE /v1/jobs/{}", done="job_purged", to="/ui/jobs", query={"purge": "true"})
