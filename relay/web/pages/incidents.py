"""The incidents at /ui/incidents: failures with one cause, and the jobs of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.core.turns import turn_of_incident
from relay.web.api_client import together
from relay.web.concerns import Concern, concerns, reads, seen_in
from relay.web.delivery_words import subscription_name, trouble_words
from relay.web.job_history import document_of
from relay.web.job_words import with_names
from relay.web.page import PAGE_ITEMS, Content, Done, Export, PageRequest, columns, equivalent, list_page, page
from relay.web.pages.cards import buttons_of, cards_of, concerns_for
from relay.web.pages.deliveries import subscriptions
from relay.web.pages.groups import path_of
from relay.web.pages.jobs import MAX_BULK
from relay.web.senders import anchor_of
from relay.web.texts import english
from subscribers.wording.jobs import about_of

COLUMNS = columns("id what state source account code failed fix opened_at closed_at")
JOB_COLUMNS = columns("id status channel group repeat meaning=problem.meaning metadata closed_at")
MAX_REFRESHED = 500
"""Maximum open jobs that are polled again at once."""
LISTS = {"sink": ("dead", "uncertain", "pending"), "creates": ("sources", "intents"), "jobs": ("sources",)}
"""The lists that say of an incident of each kind what is to be done, see `concerns.reads`."""

Answer = Mapping[str, Any]


@page("GET /ui/incidents", live=True)
async def incidents(page_request: PageRequest) -> Content:
    """The incidents, newest first, and what needs someone without being one."""
    made = await list_page(
        page_request, "incidents", "/v1/incidents", columns=COLUMNS, filters=("state", "source", "account")
    )
    known = await subscriptions(page_request) if any(one["subscription"] for one in made.values["items"]) else {}
    rows = [
        {"incident": one, "what": _sentence(one, known.get(one["subscription"])), "turn": turn_of_incident(one)}
        for one in made.values["items"]
    ]
    others: Sequence[Concern] = ()
    if not page_request.asked("source", "account", "cursor") and page_request.query.get("state") != "closed":
        others = [one for one in await concerns_for(page_request) if one.incident is None]
    any_open = any(one["incident"]["state"] == "open" for one in rows)
    return made.plus(rows=rows, any_open=any_open, others=cards_of(page_request, others))


def _sentence(incident: Answer, subscription: Answer | None) -> str:
    """What happened."""
    if incident["kind"] != "sink":
        return str(incident["what"])
    shown = {"sink": incident["sink"], "subscription_id": incident["subscription"]}
    called = subscription_name(subscription, shown)
    return english()("overview.do_failing", sink=called, trouble=trouble_words(incident["code"]))


async def _concern(page_request: PageRequest, incident: Answer, subscription: Answer | None) -> Concern | None:
    """What is to be done about an open incident."""
    wanted, kind = reads(page_request.now), incident["kind"]
    only = {"subscription": incident["subscription"]} if kind == "sink" else {}
    names = LISTS.get(kind, ())
    answers = await together(
        *(page_request.api.allowed(wanted[name].path, query={**wanted[name].query, **only}) for name in names)
    )
    seen = seen_in(
        {},
        {
            **dict(zip(names, answers, strict=True)),
            "incidents": {"items": [incident]},
            "subscriptions": {"items": [] if subscription is None else [subscription]},
        },
    )
    found = concerns(seen, page_request.now, page_request.context.settings.search_keys)
    one = next((one for one in found if one.incident == incident["id"]), None)
    if one is None:
        return None
    here = f"/ui/incidents/{incident['id']}"
    why = None if kind == "jobs" else one.why  # the title says it
    return replace(one, why=why, acts=[act for act in one.acts if act.path != here])


@page("GET /ui/incidents/{id}", live=True)
async def incident(page_request: PageRequest) -> Content:
    """One incident: what happened, whose turn it is, what to do, and which jobs failed."""
    asked, settings = page_request.asked("repeat"), page_request.context.settings
    found = await page_request.api.get("/v1/incidents/{}", page_request.id())
    id = found["subscription"]
    subscription = None if id is None else await page_request.api.allowed("/v1/subscriptions/{}", id)
    jobs, next_cursor, export = None, None, None
    if found["kind"] == "jobs":
        query = {**asked, "limit": PAGE_ITEMS, "cursor": page_request.query.get("cursor")}
        failed = await page_request.api.get("/v1/incidents/{}/jobs", page_request.id(), query=query)
        jobs, next_cursor = failed["items"], failed["next_cursor"]
        export = Export(
            path="/v1/incidents/{}/jobs",
            segments=(page_request.id(),),
            query=asked,
            columns=with_names(JOB_COLUMNS, settings.search_keys),
        )
    one = await _concern(page_request, found, subscription) if found["state"] == "open" else None
    return Content(
        template="incident.html",
        title=english()("incidents.one"),
        values={
            "incident": found,
            "what": _sentence(found, subscription),
            "card": one,
            "buttons": [] if one is None else buttons_of(page_request, one),
            "anchor": anchor_of({**found, "id": found["connect_account_id"]}),
            "subscription": subscription,
            "effects_differ": bool(asked) or any(job["repeat"] != found["repeat"] for job in jobs or ()),
            "rows": None if jobs is None else [_row(job, settings.search_keys) for job in jobs],
            "next_cursor": next_cursor,
            "most": MAX_REFRESHED,
        },
        equivalent=equivalent(
            ["relay", "incidents", "show", page_request.id()], "GET /v1/incidents/{}", page_request.id()
        ),
        export=export,
    )


def _row(job: Answer, search_keys: Sequence[str]) -> Mapping[str, Any]:
    group = None if job["group"] is None else path_of({**job, "name": job["group"]})
    return {"job": job, "person": about_of(document_of(job), search_keys), "campaign": group}


@page("POST /ui/incidents/{id}/refresh")
async def refresh(page_request: PageRequest) -> Done:
    """Polls the open jobs of the incident's sending account again, the newest MAX_REFRESHED."""
    found = await page_request.api.get("/v1/incidents/{}", page_request.id())
    sender = {"source": found["source"], "account": found["account"], "connect_account": found["connect_account_id"]}
    uids: list[str] = []
    if all(sender.values()):
        query = {**sender, "open": "true"}
        async for some in page_request.api.pages("/v1/jobs", query=query, at_most=MAX_REFRESHED):
            uids += [job["uid"] for job in some["items"]]
    polled = 0
    for first in range(0, len(uids), MAX_BULK):
        body = {"action": "refresh", "ids": uids[first : first + MAX_BULK]}
        answer = await page_request.api.post("/v1/jobs/bulk", body=body)
        polled += sum(one["status"] < 400 for one in answer["items"])
    return Done(key="jobs_refresh", to=f"/ui/incidents/{found['id']}", n=polled)
