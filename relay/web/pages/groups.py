"""The campaigns at /ui/groups: how far each is, when it finishes, what is wrong. One at /ui/groups/{name}."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from relay.clock import from_rfc3339
from relay.errors import InvalidRequest, RequestError
from relay.store.jobs.groups import COUNTED_ENDS
from relay.web import campaigns, senders
from relay.web.api_client import together
from relay.web.page import PAGE_ITEMS, Content, Done, PageRequest, columns, equivalent, list_page, options, page
from relay.web.pages.cards import cards_of, concerns_for
from relay.web.rendering import query

FORECASTS = 10
"""Open campaigns of a page, the newest, whose expected finish is shown: each is worth a read of hundreds of jobs."""
MAX_SENDERS = 20
MAX_PLACES = 50
"""Accounts in which campaigns of one name are looked for."""
COLUMNS = (
    columns("name source account state expected")
    | {state: f"counts.{state}" for state in (*campaigns.ENDED, *campaigns.OPEN)}
    | columns("missing first_at finished_at")
)


@page("GET /ui/groups", live=True)
async def groups(page_request: PageRequest) -> Content:
    """The campaigns, newest first."""
    made = await list_page(
        page_request, "groups", "/v1/groups", columns=COLUMNS, filters=("state", "source", "account")
    )
    items: Sequence[Mapping[str, Any]] = made.values["items"]
    first = [one for one in items if one["state"] == "open" and "/" not in one["name"]][:FORECASTS]
    forecasts = await together(*(forecast_of(page_request, one) for one in first))
    found = await concerns_for(page_request)
    known = {_key(one): one for one in forecasts}
    past = [one for one in first if campaigns.has_only_passed(one)]
    lately = dict(zip(map(_key, past), await together(*(_lately(page_request, one) for one in past)), strict=True))
    return made.plus(
        items=[known.get(_key(one), one) for one in items],
        c=campaigns.WORDS,
        path_of=path_of,
        has_places=len({(one["source"], one["account"]) for one in items}) > 1,
        concerns=found,
        lately_of=lambda one: lately.get(_key(one)),
    )


def _key(group: Mapping[str, Any]) -> tuple[str, str, str]:
    return group["source"], group["account"], group["name"]


async def _lately(page_request: PageRequest, group: Mapping[str, Any]) -> campaigns.Lately:
    """A summary of the newest failed jobs of a campaign."""
    query = {"group": group["name"], "source": group["source"], "account": group["account"], "status": "failed"}
    found = await page_request.api.allowed("/v1/jobs", query={**query, "limit": PAGE_ITEMS})
    return campaigns.lately_in(() if found is None else found["items"])


async def forecast_of(page_request: PageRequest, group: Mapping[str, Any]) -> Mapping[str, Any]:
    """A campaign with its forecast."""
    which = {"source": group["source"], "account": group["account"]}
    found: Mapping[str, Any] | None = await page_request.api.allowed("/v1/groups/{}", group["name"], query=which)
    return found or group


@page("GET /ui/groups/{name}", live=True)
async def group(page_request: PageRequest) -> Content:
    """One campaign: its progress, when it is expected to finish and why, its failures by cause, and its senders."""
    which = page_request.asked("source", "account")
    try:
        found = await page_request.api.get("/v1/groups/{}", page_request.id("name"), query=which)
    except RequestError as error:
        if error.status != 409:
            raise
        return await _choice(page_request, page_request.id("name"))
    is_open, has_passed = found["state"] == "open", any(map(campaigns.has_passed, found["failures"]))
    incidents, ends = await together(_incidents(page_request, found), _ends(page_request, found))
    concerns = await concerns_for(page_request) if is_open else ()
    here = campaigns.troubles(found, concerns)
    lately = await _lately(page_request, found) if has_passed else None
    upstream = page_request.upstream(found["source"])
    return Content(
        template="group.html",
        title=_title_of(page_request, found),
        values={
            "group": found,
            "progress": campaigns.progress(found),
            "parts": campaigns.parts(found),
            "causes": campaigns.causes(found, incidents, upstream, lately),
            "senders": found["connect_accounts"][:MAX_SENDERS],
            "cards": cards_of(page_request, here),
            "others": [one for one in concerns[:1] if one not in here],
            "finish": campaigns.finish_of(found, concerns, page_request.now),
            "finish_note": campaigns.finish_note(found, concerns, page_request.now),
            "path": path_of(found),
            "took": from_rfc3339(found["finished_at"] or found["last_at"]) - from_rfc3339(found["first_at"]),
            "pace": campaigns.pace_of(found, concerns, page_request.now),
            "ends": ends,
            "span": ends[1][0] - ends[0][0] if ends else 0.0,
            "cut": any(ended >= COUNTED_ENDS for _, ended in ends),
            "upstream": upstream,
            "c": campaigns.WORDS,
            "s": senders.WORDS,
        },
        equivalent=equivalent(
            ["relay", "groups", "show", found["name"], *options(which)], "GET /v1/groups/{}", found["name"], query=which
        ),
    )


async def _choice(page_request: PageRequest, name: str) -> Content:
    """The campaigns of this name, of which the visitor chooses one."""
    known = page_request.context.dependencies.settings.accounts
    places = [{"source": source, "account": account} for source, names in known.items() for account in sorted(names)]
    asked = await together(
        *(page_request.api.allowed("/v1/groups/{}", name, query=which) for which in places[:MAX_PLACES])
    )
    items = [one for one in asked if one is not None]
    return Content(
        template="group_choice.html",
        title=name,
        values={"items": items, "path_of": path_of, "progress": campaigns.progress},
    )


async def _incidents(page_request: PageRequest, group: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The newest incidents in the campaign's account since it began; none if the caller may not read them."""
    query = {"source": group["source"], "account": group["account"], "limit": PAGE_ITEMS}
    found = await page_request.api.allowed("/v1/incidents", query=query) if group["failures"] else None
    return [one for one in (found or {"items": ()})["items"] if one["last_failure_at"] >= group["first_at"]]


async def _ends(page_request: PageRequest, group: Mapping[str, Any]) -> Sequence[tuple[float, int]]:
    """How many of its jobs ended in each span of time; none if no job has ended."""
    which = {"source": group["source"], "account": group["account"]}
    found = await page_request.api.allowed("/v1/groups/{}/ends", group["name"], query=which) or {"points": ()}
    points = [(from_rfc3339(one["time"]), one["ended"]) for one in found["points"]]
    return points if any(ended for _, ended in points) else ()


@page("POST /ui/groups/{name}/close")
async def close(page_request: PageRequest) -> Done:
    """States that no more jobs come."""
    which, expected = page_request.asked("source", "account"), page_request.form.get("expected")
    if expected and not (expected.isascii() and expected.isdigit() and len(expected) < 10):
        raise InvalidRequest("the number of jobs is not a number", code="invalid_form")
    body = {"expected": int(expected)} if expected else {}
    closed = await page_request.api.post("/v1/groups/{}/close", page_request.id("name"), query=which, body=body)
    return Done(key="group_closed", to=path_of(closed))


def _title_of(page_request: PageRequest, group: Mapping[str, Any]) -> str:
    """Its name, with its account where the visitor sees several: another may have a campaign of this name."""
    return f"{group['name']} · {group['account']}" if page_request.sees_several else group["name"]


def path_of(group: Mapping[str, Any]) -> str:
    """The page of a campaign. Another account may have one of the same name. A name with a slash has no page, as it has
    no path in the API: its jobs are shown."""
    if "/" in group["name"]:
        return campaigns.jobs_path(group)
    return query(f"/ui/groups/{quote(group['name'], safe='')}", source=group["source"], account=group["account"])
