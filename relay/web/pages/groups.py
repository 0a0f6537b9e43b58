"""The groups of jobs at /ui/groups: campaigns, imports. One at /ui/groups/{name}."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from relay.clock import from_rfc3339
from relay.errors import InvalidRequest, RequestError
from relay.web.page import PAGE_ITEMS, Content, Done, Export, Page, PageRequest, equivalent
from relay.web.rendering import query
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

ENDED = ("succeeded", "failed", "cancelled", "not_found", "untracked")
OPEN = ("running", "retrying", "scheduled", "queued")
RATE_SECONDS = 600.0
"""The rate of a group that is younger says little: it is not shown."""
COLUMNS = {
    "name": "name",
    "source": "source",
    "account": "account",
    "state": "state",
    "expected": "expected",
    **{state: f"counts.{state}" for state in (*ENDED, *OPEN)},
    "missing": "missing",
    "first at": "first_at",
    "finished at": "finished_at",
}


@page("GET /ui/groups", live=True)
async def groups(visit: PageRequest) -> Content:
    """The groups, newest first."""
    asked = visit.asked("state", "source", "account")
    found = await visit.api.get("/v1/groups", query={**asked, "limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")})
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    return Content(
        template="groups.html",
        title=english()("groups.title"),
        values={
            "groups": [(group, progress(group), path_of(group)) for group in found["items"]],
            "next_cursor": found["next_cursor"],
            "asked": asked,
        },
        equivalent=equivalent(["relay", "groups", "list", *options], "GET /v1/groups", query=asked),
        export=Export(path="/v1/groups", query=asked, columns=COLUMNS),
    )


@page("GET /ui/groups/{name}", live=True)
async def group(visit: PageRequest) -> Content:
    """One group: its progress, when it is expected to finish, and its failures."""
    which = visit.asked("source", "account")
    found = await visit.api.get("/v1/groups/{}", visit.id("name"), query=which)
    options = [part for name, value in which.items() for part in (f"--{name}", value)]
    return Content(
        template="group.html",
        title=found["name"],
        values={
            "group": found,
            "progress": progress(found),
            "path": path_of(found),
            "states": (*ENDED, *OPEN),
            "shows_rate": visit.now - from_rfc3339(found["first_at"]) >= RATE_SECONDS,
            "incidents": await _incidents(visit, found) if found["failures"] else {},
        },
        equivalent=equivalent(
            ["relay", "groups", "show", found["name"], *options], "GET /v1/groups/{}", found["name"], query=which
        ),
    )


async def _incidents(visit: PageRequest, group: Mapping[str, Any]) -> Mapping[str, str]:
    """The ids of the newest incidents in the group's account, by error code; empty if the caller may not read them."""
    query = {"source": group["source"], "account": group["account"], "limit": PAGE_ITEMS}
    try:
        found = await visit.api.get("/v1/incidents", query=query)
    except RequestError as error:
        if error.status == 403:
            return {}
        raise
    return {one["code"]: one["id"] for one in reversed(found["items"]) if one["kind"] == "jobs" and one["code"]}


@page("POST /ui/groups/{name}/close")
async def close(visit: PageRequest) -> Done:
    """States that no more jobs come."""
    which, expected = visit.asked("source", "account"), visit.form.get("expected")
    if expected and not (expected.isascii() and expected.isdigit() and len(expected) < 10):
        raise InvalidRequest("the number of jobs is not a number", code="invalid_form")
    body = {"expected": int(expected)} if expected else {}
    closed = await visit.api.post("/v1/groups/{}/close", visit.id("name"), query=which, body=body)
    return Done(key="group_closed", to=path_of(closed))


def progress(group: Mapping[str, Any]) -> dict[str, Any]:
    """How far a group is: ended and open jobs, and all of them, with those that are still expected."""
    counts = group["counts"]
    ended, still_open = sum(counts[state] for state in ENDED), sum(counts[state] for state in OPEN)
    return {"ended": ended, "open": still_open, "all": max(group["expected"] or 0, ended + still_open, 1)}


def path_of(group: Mapping[str, Any]) -> str:
    """The page of a group. Another account may have one of the same name. A name with a slash has no page, as it has no
    path in the API: its jobs are shown."""
    if "/" in group["name"]:
        return query("/ui/jobs", group=group["name"], source=group["source"], account=group["account"])
    return query(f"/ui/groups/{quote(group['name'], safe='')}", source=group["source"], account=group["account"])
