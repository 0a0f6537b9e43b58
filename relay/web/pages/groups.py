"""The groups of jobs at /ui/groups: campaigns, imports. One at /ui/groups/{name}."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from relay.clock import from_rfc3339
from relay.errors import InvalidRequest
from relay.web.page import PAGE_ITEMS, Content, Done, PageRequest, columns, equivalent, list_page, options, page
from relay.web.rendering import query
from relay.web.texts import english

ENDED = ("succeeded", "failed", "cancelled", "not_found", "untracked")
OPEN = ("running", "retrying", "scheduled", "queued")
RATE_SECONDS = 600.0
"""The rate of a group that is younger says little: it is not shown."""
COLUMNS = (
    columns("name source account state expected")
    | {state: f"counts.{state}" for state in (*ENDED, *OPEN)}
    | columns("missing first_at finished_at")
)


@page("GET /ui/groups", live=True)
async def groups(page_request: PageRequest) -> Content:
    """The groups, newest first."""
    return await list_page(
        page_request,
        "/v1/groups",
        template="groups.html",
        title=english()("groups.title"),
        command=["relay", "groups", "list"],
        columns=COLUMNS,
        filters=("state", "source", "account"),
        values={"progress_of": progress, "path_of": path_of},
    )


@page("GET /ui/groups/{name}", live=True)
async def group(page_request: PageRequest) -> Content:
    """One group: its progress, when it is expected to finish, and its failures."""
    which = page_request.asked("source", "account")
    found = await page_request.api.get("/v1/groups/{}", page_request.id("name"), query=which)
    return Content(
        template="group.html",
        title=found["name"],
        values={
            "group": found,
            "progress": progress(found),
            "path": path_of(found),
            "states": (*ENDED, *OPEN),
            "shows_rate": page_request.now - from_rfc3339(found["first_at"]) >= RATE_SECONDS,
            "incidents": await _incidents(page_request, found) if found["failures"] else {},
        },
        equivalent=equivalent(
            ["relay", "groups", "show", found["name"], *options(which)], "GET /v1/groups/{}", found["name"], query=which
        ),
    )


async def _incidents(page_request: PageRequest, group: Mapping[str, Any]) -> Mapping[str, str]:
    """The ids of the newest incidents in the group's account, by error code; empty if the caller may not read them."""
    query = {"source": group["source"], "account": group["account"], "limit": PAGE_ITEMS}
    found = await page_request.api.allowed("/v1/incidents", query=query) or {"items": ()}
    return {one["code"]: one["id"] for one in reversed(found["items"]) if one["kind"] == "jobs" and one["code"]}


@page("POST /ui/groups/{name}/close")
async def close(page_request: PageRequest) -> Done:
    """States that no more jobs come."""
    which, expected = page_request.asked("source", "account"), page_request.form.get("expected")
    if expected and not (expected.isascii() and expected.isdigit() and len(expected) < 10):
        raise InvalidRequest("the number of jobs is not a number", code="invalid_form")
    body = {"expected": int(expected)} if expected else {}
    closed = await page_request.api.post("/v1/groups/{}/close", page_request.id("name"), query=which, body=body)
    return Done(key="group_closed", to=path_of(closed))


def progress(group: Mapping[str, Any]) -> dict[str, Any]:
    """The progress of a group: ended and open jobs, and all of them, with those that are still expected."""
    counts = group["counts"]
    ended, still_open = sum(counts[state] for state in ENDED), sum(counts[state] for state in OPEN)
    return {"ended": ended, "open": still_open, "all": max(group["expected"] or 0, ended + still_open, 1)}


def path_of(group: Mapping[str, Any]) -> str:
    """The page of a group. Another account may have one of the same name. A name with a slash has no page, as it has no
    path in the API: its jobs are shown."""
    if "/" in group["name"]:
        return query("/ui/jobs", group=group["name"], source=group["source"], account=group["account"])
    return query(f"/ui/groups/{quote(group['name'], safe='')}", source=group["source"], account=group["account"])
