"""Creates whose fate is unknown, at /ui/intents, and what a person has found out about them."""

from functools import partial

from relay.web.page import PAGE_ITEMS, Content, Done, Export, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

COLUMNS = {
    "id": "id",
    "source": "source",
    "account": "account",
    "path": "path",
    "channel": "channel",
    "group": "group",
    "sent at": "sent_at",
    "reason": "reason",
    "idempotency key": "idempotency_key",
    "metadata": "metadata",
}


@page("GET /ui/intents", live=True)
async def intents(visit: PageRequest) -> Content:
    """The creates, newest first."""
    found = await visit.api.get("/v1/intents", query={"limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")})
    return Content(
        template="intents.html",
        title=english()("intents.title"),
        values={"intents": found["items"], "next_cursor": found["next_cursor"]},
        equivalent=equivalent(["relay", "intents", "list"], "GET /v1/intents"),
        export=Export(path="/v1/intents", columns=COLUMNS),
    )


@page("POST /ui/intents/{id}/resolve")
async def resolve(visit: PageRequest) -> Done:
    """Records whether the message was sent."""
    job_id = visit.form.get("job_id")
    body = {"fate": visit.form.get("fate"), **({"job_id": job_id} if job_id else {})}
    await visit.api.post("/v1/intents/{}/resolve", visit.id(), body=body)
    return Done(key="intent_resolved", to="/ui/intents")


@page("POST /ui/intents/{id}/dismiss")
async def dismiss(visit: PageRequest) -> Done:
    """Takes the create off the list, without saying what became of it."""
    await visit.api.delete("/v1/intents/{}", visit.id())
    return Done(key="intent_dismissed", to="/ui/intents")
