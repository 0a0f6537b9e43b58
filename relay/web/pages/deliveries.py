"""Deliveries: counted by sink, reason and day at /ui/deliveries, listed, and one as a story at /ui/deliveries/{id}."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relay.core.deliveries.causes import likely_cause
from relay.core.subscriptions.filters import RELAY_PREFIX
from relay.errors import InvalidRequest
from relay.web import attempts as drawing
from relay.web.api_client import together
from relay.web.delivery_words import (
    INCIDENT,
    STATES,
    actions_of,
    advice,
    listed_reason,
    next_of,
    reason_words,
    shown_state,
    state_of,
    subscription_name,
    trouble_of,
    turn_of_delivery,
    waits_for_a_person,
    why,
)
from relay.web.event_choices import event_words
from relay.web.job_history import document_of
from relay.web.page import PAGE_ITEMS, Content, Done, Export, PageRequest, action, columns, equivalent, options, page
from relay.web.rendering import duration, inert
from relay.web.texts import english
from subscribers.registry import kind_named
from subscribers.wording.jobs import about_of

NEED_A_PERSON = STATES[:3]
GROUPINGS = ("sink,reason,day", "sink,reason", "reason", "day")
FEW_COUNTED, MANY_COUNTED = 1_000, 5_000
"""Deliveries of a state that are counted, the newest: on the page of several states, and on that of one. What the page
costs is bounded, and a person sees enough."""
FEW_GROUPS, MANY_GROUPS = 10, 100
MAX_NAMED = 15
"""Jobs that are read for the names of people: as many as a subscription's page has deliveries."""
SUBSCRIPTIONS = 200
"""Subscriptions that are named in a filter."""
FIRST_ATTEMPTS, LAST_ATTEMPTS = 3, 20
"""Maximum attempts shown of a delivery."""
LAST_EXCERPT, EARLIER_EXCERPT = 4_000, 500
"""Characters of an answer that are shown."""
MAX_HEADERS, EARLIER_HEADERS = 40, 8
MAX_NAME, MAX_HEADER = 100, 300
OFF_PLAN_SECONDS = 0.1
"""Difference from its plan above which an attempt shows both times."""
COLUMNS = columns(
    "id state reason event_type about=subject event=event_id subscription=subscription_id sink "
    "attempts=attempt_count next_attempt_at created_at ended_at"
)

Answer = Mapping[str, Any]
Timed = tuple[Answer, float | None, float | None]
"""An attempt, the seconds that it waited for, and those that were planned."""


@page("GET /ui/deliveries", live=True)
async def deliveries(page_request: PageRequest) -> Content:
    """The groups of deliveries; with `view=list`, of an event, or on a later page: the list."""
    query = page_request.query
    if query.get("view") == "list" or query.get("event") or query.get("cursor"):
        return await _list(page_request)
    state, by = query.get("state"), query.get("by") or GROUPINGS[0]
    subscription = query.get("subscription")
    known = await subscriptions(page_request)
    shown = (state,) if state else NEED_A_PERSON
    asked = {"state": state, "subscription": subscription}
    sections = await together(
        *(_section(page_request, one, by, subscription, known, alone=bool(state)) for one in shown)
    )
    return Content(
        template="deliveries.html",
        title=english()("base.deliveries"),
        values={
            "sections": sections,
            "calm": not state and not any(one["groups"] or one["truncated"] for one in sections),
            "states": STATES,
            "groupings": GROUPINGS,
            "by": by,
            "state": state,
            "subscription": subscription,
            "subscriptions": choices_of(known, subscription),
        },
        equivalent=equivalent(
            ["relay", "deliveries", "list", *options(asked), "--group-by", by],
            "GET /v1/deliveries",
            query={**asked, "group_by": by},
        ),
        export=Export(path="/v1/deliveries", query=asked, columns=COLUMNS),
    )


async def _section(
    page_request: PageRequest, state: str, by: str, subscription: str, known: Mapping[str, Answer], *, alone: bool
) -> Mapping[str, Any]:
    """The groups of a state. `alone`: it is the only one of the page. Else it shows only what needs a person:
    pending deliveries of subscriptions that fail or are held."""
    limit, newest = (MANY_GROUPS, MANY_COUNTED) if alone else (FEW_GROUPS, FEW_COUNTED)
    held = state == "pending" and not alone
    if held and "sink" not in by:
        by = f"sink,{by}" if by == "reason" else GROUPINGS[0]
    query = {"state": state, "subscription": subscription, "group_by": by, "limit": limit, "newest": newest}
    found = await page_request.api.get("/v1/deliveries", query=query)
    items = found["items"]
    if held:
        items = [one for one in items if waits_for_a_person(known.get(one["subscription_id"] or ""))]
    groups = [_group(one, state, by, known, page_request.now) for one in items]
    advised = {group["advice"] for group in groups}
    return {
        "state": state,
        "key": "held" if held else state,
        "by": by,
        "groups": groups,
        "advice": advised.pop() if len(advised) == 1 and state != "delivered" else None,
        "count": sum(one["count"] for one in items),
        "oldest_at": min((one["oldest_at"] for one in items), default=None),
        "truncated": found["truncated"],
        "newest": newest,
    }


def _group(group: Answer, state: str, by: str, known: Mapping[str, Answer], now: float) -> Mapping[str, Any]:
    subscription = known.get(group["subscription_id"] or "")
    reason = group["reason"] or ""
    untried = "reason" in by and group["reason"] is None
    found = {"state": state, "subscription": group["subscription_id"], "reason": reason, "day": group["day"]}
    return {
        **group,
        "name": subscription_name(subscription, group),
        "held": subscription,
        "reason_words": reason_words(group["reason"]),
        "why": why(group["reason"]),
        "advice": advice(state, reason, subscription, group["oldest_at"], now),
        "turn": turn_of_delivery(state, reason, subscription, group["oldest_at"], now),
        "incident": reason.removeprefix(INCIDENT) if reason.startswith(INCIDENT) else None,
        "found": found,
        # the API has no filter for those without a reason
        "again": None if untried else found,
    }


async def _list(page_request: PageRequest) -> Content:
    asked, day = page_request.asked("state", "subscription", "event", "reason"), page_request.query.get("day")
    known = await subscriptions(page_request)
    names = names_of(known)
    query = {**asked, **({"since": f"{day}T00:00:00Z", "until": day_after(day)} if day else {})}
    cursor = page_request.query.get("cursor")
    found = await page_request.api.get("/v1/deliveries", query={**query, "limit": PAGE_ITEMS, "cursor": cursor})
    named = await people_of(page_request, found["items"]) if asked.get("state") == "uncertain" else {}
    return Content(
        template="delivery_list.html",
        title=english()("base.deliveries"),
        values={
            "deliveries": [
                {
                    **one,
                    "kind": event_words(one["event_type"], page_request.context.settings.origins.values()),
                    "shown_state": shown_state(one),
                    "about": named.get(one["job_uid"]) or names.get(one["subject"]),
                    "name": subscription_name(known.get(one["subscription_id"]), one),
                    "why": why(one["reason"]) if listed_reason(one) else "",
                }
                for one in found["items"]
            ],
            "next_cursor": found["next_cursor"],
            "asked": {**asked, "day": day},
            "filtered": bool(query or cursor),
            "reason_words": reason_words(asked.get("reason")),
            "states": STATES,
            "subscriptions": choices_of(known, asked.get("subscription", "")),
        },
        equivalent=equivalent(["relay", "deliveries", "list", *options(query)], "GET /v1/deliveries", query=query),
        export=Export(path="/v1/deliveries", query=query, columns=COLUMNS),
    )


async def people_of(page_request: PageRequest, deliveries: Sequence[Answer]) -> Mapping[str, str]:
    """Whom the jobs of these deliveries are about, by the ids of the first MAX_NAMED jobs."""
    uids = list(dict.fromkeys(one["job_uid"] for one in deliveries if one["job_uid"]))[:MAX_NAMED]
    jobs = await together(*(page_request.api.allowed("/v1/jobs/{}", uid) for uid in uids))
    keys = page_request.context.settings.search_keys
    return {job["uid"]: about_of(document_of(job), keys) for job in jobs if job is not None}


def day_after(day: str) -> str:
    try:
        return f"{datetime.strptime(day, '%Y-%m-%d').replace(tzinfo=UTC) + timedelta(days=1):%Y-%m-%d}T00:00:00Z"
    except (ValueError, OverflowError):
        raise InvalidRequest(english()("deliveries.bad_day"), code="invalid_parameter") from None


async def subscriptions(page_request: PageRequest) -> Mapping[str, Answer]:
    """The subscriptions by id, as far as the caller may list them."""
    found = await page_request.api.allowed("/v1/subscriptions", query={"limit": SUBSCRIPTIONS})
    return {one["id"]: one for one in (found or {"items": ()})["items"]}


def names_of(known: Mapping[str, Answer]) -> Mapping[str, str]:
    """The names of subscriptions by id."""
    return {id: subscription_name(one) for id, one in known.items()}


def choices_of(known: Mapping[str, Answer], chosen: str = "") -> Sequence[tuple[str, str]]:
    """The subscriptions for a choice, by name, with the chosen one."""
    named = sorted((name, id) for id, name in names_of(known).items())
    choices = [(id, f"{name} ({id[-6:]})") for name, id in named]
    return choices if not chosen or chosen in known else [*choices, (chosen, chosen)]


# --- one delivery


@page("GET /ui/deliveries/{id}", live=True)
async def delivery(page_request: PageRequest) -> Content:
    """One delivery: what was sent where, what came back, and what is next."""
    texts, found = english(), await page_request.api.get("/v1/deliveries/{}", page_request.id())
    event = await page_request.api.allowed("/v1/events/{}", found["event_id"])
    subscription = await page_request.api.allowed("/v1/subscriptions/{}", found["subscription_id"])
    job = None if found["job_uid"] is None else await page_request.api.allowed("/v1/jobs/{}", found["job_uid"])
    waits = drawing.waits(found["attempts"])
    plans = drawing.planned_waits(found["attempts"])
    attempts, left_out = _shown_attempts(list(zip(found["attempts"], waits, plans, strict=True)))
    scale = drawing.longest([one for one, _, _ in attempts])
    state = state_of(found, subscription)
    settings = page_request.context.settings
    kind = event_words(found["event_type"], settings.origins.values())
    cause = likely_cause(attempts[-1][0]) if attempts and found["state"] in ("dead", "pending") else None
    actions = actions_of(found, subscription) if page_request.may("subscriptions:write") else ()
    return Content(
        template="delivery.html",
        title=inert(texts("deliveries.one_title", type=kind, name=subscription_name(subscription, found))),
        values={
            "delivery": found,
            "event": event,
            "job": job,
            "about": "" if job is None else about_of(document_of(job), settings.search_keys),
            "kind": kind,
            "subscription": subscription,
            "name": subscription_name(subscription, found),
            "became": state,
            "ahead": next_of(found, subscription, page_request.now),
            "cause": cause,
            "turn": turn_of_delivery(
                found["state"], found["reason"], subscription, found["created_at"], page_request.now
            ),
            "plain": _sends_events(subscription),
            "reason_words": listed_reason(found),
            "actions": actions,
            "trouble": trouble_of(subscription),
            "shown_state": shown_state(found),
            "attempts": [
                _attempt(one, after, plan, scale, last=number == len(attempts) - 1)
                for number, (one, after, plan) in enumerate(attempts)
            ],
            "gap_at": FIRST_ATTEMPTS if left_out else None,
            "left_out": left_out,
            "line": drawing.line(found, page_request.now, _line_words(found, [waited for _, waited, _ in attempts])),
        },
        equivalent=equivalent(["relay", "deliveries", "show", found["id"]], "GET /v1/deliveries/{}", found["id"]),
    )


def _sends_events(subscription: Answer | None) -> bool:
    """True if the bodies of its requests are the events themselves."""
    return subscription is not None and kind_named(subscription["config"]["kind"]).sends_events(subscription["config"])


def short_type(type: str, known: Sequence[str]) -> str:
    """The last words of a known type, as people say it: without the upstream's name (`ai.revor`) or `relay`."""
    words = type.split(".")
    if type not in known or type.startswith(RELAY_PREFIX):
        return type.removeprefix(RELAY_PREFIX)
    return ".".join(words[2 if len(words) > 3 else 1 :])


def _shown_attempts(attempts: Sequence[Timed]) -> tuple[Sequence[Timed], int]:
    left_out = len(attempts) - FIRST_ATTEMPTS - LAST_ATTEMPTS
    if left_out <= 0:
        return attempts, 0
    return [*attempts[:FIRST_ATTEMPTS], *attempts[-LAST_ATTEMPTS:]], left_out


def _line_words(delivery: Answer, waits: Sequence[float | None]) -> str:
    texts = english()
    waited = ", ".join(duration(one) for one in waits if one is not None)
    count = len(delivery["attempts"])
    line = texts("deliveries.line", n=count)
    return f"{line} {texts('deliveries.line_waits', waits=waited)}" if waited else line


def _attempt(
    attempt: Answer, waited: float | None, planned: float | None, scale_ms: float, *, last: bool
) -> Mapping[str, Any]:
    texts = english()
    excerpt, most = attempt.get("response_excerpt") or "", LAST_EXCERPT if last else EARLIER_EXCERPT
    parts = drawing.phases(attempt)
    words = ", ".join(f"{texts(f'deliveries.phase_{name}')} {duration(took / 1000)}" for name, took in parts)
    status, error = attempt.get("status_code"), attempt.get("error")
    answered = f"HTTP {status}" if status is not None else error
    return {
        **attempt,
        "waited": waited,
        "planned": None if waited is None or planned is None or abs(waited - planned) < OFF_PLAN_SECONDS else planned,
        "parts": dict(parts),
        "bar": drawing.bar(attempt, scale_ms, words or texts("deliveries.not_measured")),
        "answered": answered or texts(f"deliveries.answered_{_unanswered(attempt)}"),
        "bad": bool(error) or (status is not None and status >= 300),
        "hidden": attempt["request_headers"] is None,
        "request_headers": _headers(attempt["request_headers"] or {})[: MAX_HEADERS if last else EARLIER_HEADERS],
        "response_headers": _headers(attempt["response_headers"] or {})[: MAX_HEADERS if last else EARLIER_HEADERS],
        "excerpt": excerpt[:most],
        "excerpt_left": max(0, len(excerpt) - most),
    }


def _unanswered(attempt: Answer) -> str:
    if attempt.get("requests") is not None:
        return "dry_run"
    if attempt["request_headers"] is None:
        return "not_shown"
    return "acknowledged" if "destination" in attempt["request_headers"] else "nothing"


def _headers(headers: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return [(name[:MAX_NAME], value[:MAX_HEADER]) for name, value in headers.items()][:MAX_HEADERS]


@page("GET /ui/deliveries/{id}/request")
async def request(page_request: PageRequest) -> Content:
    """The request as it would be sent now, signed. Only for an admin."""
    found = await page_request.api.get("/v1/deliveries/{}", page_request.id())
    signed = await page_request.api.get("/v1/deliveries/{}/request", page_request.id())
    return Content(
        template="delivery_request.html",
        title=english()("deliveries.request_title"),
        values={"delivery": found, "signed": signed, "headers": _headers(signed["headers"])},
        equivalent=equivalent(
            ["relay", "deliveries", "show", found["id"], "--raw"], "GET /v1/deliveries/{}/request", found["id"]
        ),
    )


@page("POST /ui/deliveries/{id}/settle")
async def settle(page_request: PageRequest) -> Done:
    """Records what a person has found out."""
    fate = page_request.form.get("fate")
    await page_request.api.post("/v1/deliveries/{}/settle", page_request.id(), body={"fate": fate})
    return Done(key=f"delivery_settled_{fate}", to=f"/ui/deliveries/{page_request.id()}")


action(
    "POST /ui/deliveries/{id}/retry", "POST /v1/deliveries/{}/retry", done="delivery_retried", to="/ui/deliveries/{}"
)
