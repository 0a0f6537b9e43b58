"""Events: the newest ones at /ui/events, with filters and live, and one whole at /ui/events/{id}."""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.events.event import RELAY_SOURCE, account_event_kind, job_kind_in
from relay.core.jobs.job import kind_of_type
from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.core.values import moment
from relay.errors import FieldError, InvalidRequest
from relay.ids import made_at
from relay.web.delivery_words import reason_words, subscription_name
from relay.web.job_history import event_sentence
from relay.web.page import PAGE_ITEMS, Content, Export, PageRequest, columns, equivalent, options, page
from relay.web.pages.deliveries import names_of, short_type, subscriptions
from relay.web.rendering import inert
from relay.web.texts import english
from subscribers.base import RenderContext
from subscribers.wording.jobs import about_of
from subscribers.wording.relay import relay_sentence
from subscribers.wording.summaries import is_summary, summary_sentence

FILTERS = ("type", "subject", "filter", "since", "until")
PAGES_READ, ITEMS_READ = 3, 100
"""Pages of the API, and events of each, read to find those that pass a filter."""
MAX_DELIVERIES = 100
MAX_WORDS = 300
COLUMNS = columns("id time type subject source account group status data")

Answer = Mapping[str, Any]


@page("GET /ui/events", live=True)
async def events(page_request: PageRequest) -> Content:
    """The events that pass the filters, newest first."""
    asked = page_request.asked(*FILTERS)
    known = page_request.context.known_types
    query = _query(asked, known, page_request.now)
    errors: Mapping[str, str] = {}
    items: list[Answer] = []
    cursor, scanned = page_request.query.get("cursor") or None, 0
    sinks = names_of(await subscriptions(page_request))
    try:
        for _ in range(PAGES_READ):
            limit = ITEMS_READ if "filters" in query else PAGE_ITEMS
            found = await page_request.api.get("/v1/events", query={**query, "limit": limit, "cursor": cursor})
            cursor, scanned = found["next_cursor"], scanned + limit
            items += [
                _row(event, id, page_request, sinks) for event, id in zip(found["items"], found["ids"], strict=True)
            ]
            # With filters, or with a type and others, a page may be short although there is a next one.
            if cursor is None or not {"filters", "type"} & query.keys() or len(items) >= PAGE_ITEMS:
                break
    except InvalidRequest as error:
        errors = _by_field(error)
    is_filtered = "filters" in query
    command = ["listen", "--filters", query["filters"]] if is_filtered else ["events", "list", *options(query)]
    return Content(
        template="events.html",
        title=english()("base.events"),
        status=422 if errors else 200,
        values={
            "events": items,
            "next_cursor": cursor,
            "asked": asked,
            "types": known,
            "errors": errors,
            "scanned": scanned if "filters" in query else None,
        },
        equivalent=equivalent(["relay", *command], "GET /v1/events", query=query),
        export=Export(path="/v1/events", query=query, columns=COLUMNS),
    )


def _query(asked: Mapping[str, str], known: Sequence[str], now: float) -> dict[str, str]:
    """The query for the API. A type that ends with `*` is a prefix; a filter is one of subscriptions as JSON, or a list
    of them."""
    query = {name: asked[name] for name in ("type", "subject") if name in asked}
    query |= {name: moment(asked[name], now) for name in ("since", "until") if name in asked}
    filters = _filters(asked["filter"]) if "filter" in asked else []
    if query.get("type", "").endswith("*"):
        prefix = query.pop("type")[:-1]
        short = {one: short_type(one, known) for one in known}
        begins = {one.removesuffix(name) + prefix for one, name in short.items() if name.startswith(prefix)}
        meant = {prefix, *begins}
        starts = [{"prefix": {"type": one}} for one in sorted(meant)]
        filters = [*([{"any": starts}] if prefix else []), *filters]
    return query | ({"filters": dumps(filters).decode()} if filters else {})


def _filters(text: str) -> list[Any]:
    try:
        found = loads(text.encode())
    except (JSONDecodeError, UnicodeEncodeError):
        found = text  # which the answer refuses
    return found if isinstance(found, list) else [found]


def _by_field(error: InvalidRequest) -> Mapping[str, str]:
    """The mistakes, by the field of the form."""
    found: dict[str, str] = {}
    for one in error.errors or [FieldError(pointer="", code=error.code, detail=str(error))]:
        name = one.pointer.strip("/").partition("/")[0]
        name = "filter" if name == "filters" else name
        found.setdefault(name if name in FILTERS else "", one.detail)
    return found


def _row(event: Answer, id: str, page_request: PageRequest, sinks: Mapping[str, str]) -> Mapping[str, Any]:
    kind = short_type(event["type"], page_request.context.known_types)
    subject = event.get("subject")
    return {
        "id": id,
        "at": made_at(id),
        "type": event["type"],
        "kind": kind,
        "subject": subject,
        "about": about_of_event(event, page_request.context.dependencies.settings.search_keys)
        or (sinks.get(subject) if isinstance(subject, str) else None),
        "words": words_of(event, page_request)[:MAX_WORDS] or kind,
        "tone": tone_of(event["type"]),
    }


def about_of_event(event: Answer, search_keys: Sequence[str]) -> str:
    """The person or thing that an event is about, by the metadata of its job, or the name of a sending account; "" if
    there is none."""
    data = event.get("data")
    if not isinstance(data, dict):
        return ""
    if str(event["type"]).startswith("relay.incident."):
        return english()("events.incident")
    name = data.get("name") if account_event_kind(event["type"]) is not None else None
    return name if isinstance(name, str) else about_of(event, search_keys)


def tone_of(type: str) -> str:
    """The class that an event's type is coloured by."""
    last = kind_of_type(type)
    if last in ("failed", "not_found", "needs_reconnect", "cannot_send", "down", "unauthorized", "disabled", "expired"):
        return "bad"
    if last in ("overdue", "retrying", "opened", "grew", "uncertain", "unknown", "status_unknown"):
        return "warn"
    return "good" if last in ("succeeded", "recovered", "finished", "closed") else "quiet"


def words_of(event: Answer, page_request: PageRequest) -> str:
    """An event as a sentence, in the words of messages; "" if its type is unknown."""
    kind, data = job_kind_in(event), event.get("data")
    if not isinstance(data, dict):
        return ""
    keys = page_request.context.dependencies.settings.search_keys
    if kind is not None and event.get("subject"):
        return event_sentence(event, keys)
    titles = {source: origin.title for (source, _), origin in page_request.context.settings.origins.items()}
    context = RenderContext(titles=titles, search_keys=keys)
    of_relay = event["source"] == RELAY_SOURCE
    if is_summary(event["type"]) and (of_relay or account_event_kind(event["type"]) is not None):
        return summary_sentence(event["type"], data, context)
    text = (relay_sentence(event["type"], data, context) if of_relay else None) or data.get("summary")
    return text if isinstance(text, str) else ""


@page("GET /ui/events/{id}", live=True)
async def event(page_request: PageRequest) -> Content:
    """One event: what it tells, where it went, and the whole of it."""
    texts, id = english(), page_request.id()
    found = await page_request.api.get("/v1/events/{}", id)
    answer = await page_request.api.allowed("/v1/deliveries", query={"event": id, "limit": MAX_DELIVERIES})
    sent = None if answer is None else answer["items"]
    known = await subscriptions(page_request) if sent else {}
    kind = short_type(found["type"], page_request.context.known_types)
    job = None
    if job_kind_in(found) is not None and isinstance(found.get("subject"), str):
        uid = next((one["job_uid"] for one in sent or () if one["job_uid"]), found["subject"])
        job = await page_request.api.allowed("/v1/jobs/{}", uid) if uid and "/" not in uid else None
    return Content(
        template="event.html",
        title=inert(words_of(found, page_request)[:MAX_WORDS] or texts("events.one_title", type=kind)),
        values={
            "event": found,
            "id": id,
            "at": made_at(id),
            "about": about_of_event(found, page_request.context.dependencies.settings.search_keys),
            "tone": tone_of(found["type"]),
            "kind": kind,
            "job": job,
            "deliveries": None
            if sent is None
            else [
                {
                    **one,
                    "name": subscription_name(known.get(one["subscription_id"]), one),
                    "reason_words": reason_words(one["reason"]) if one["reason"] else "",
                }
                for one in sent
            ],
        },
        equivalent=equivalent(["relay", "events", "show", id], "GET /v1/events/{}", id),
    )
