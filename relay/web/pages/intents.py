"""Unknown sends at /ui/intents: creates that may or may not have been carried out, and what a person found out."""

from collections.abc import Mapping
from typing import Any

from relay.core.events.sentences import titled
from relay.core.turns import turn_of
from relay.web.page import Content, Done, PageRequest, action, columns, list_page, page
from relay.web.pages.accounts import websites
from relay.web.pages.groups import path_of
from relay.web.senders import anchor_of
from relay.web.texts import english
from subscribers.wording.jobs import whom

PAGE_SENDS = 20
"""Unknown sends on one page: each has its buttons, and a phone shows two of them at once."""
COLUMNS = columns(
    "id source account path channel sending_account=connect_account_name group sent_at reason idempotency_key metadata"
)


@page("GET /ui/intents", live=True)
async def intents(page_request: PageRequest) -> Content:
    """The unknown sends, newest first."""
    made = await list_page(page_request, "intents", "/v1/intents", columns=COLUMNS, limit=PAGE_SENDS)
    return await _with_words(page_request, made)


@page("POST /ui/intents/{id}/recipient")
async def recipient(page_request: PageRequest) -> Content:
    """One unknown send, with whom it was for. Each look is in the audit."""
    found = await page_request.api.post("/v1/intents/{}/recipient", page_request.id())
    values = {"items": [found], "next_cursor": None}
    made = Content(template="intents.html", title=english()("intents.one"), values=values)
    return await _with_words(page_request, made)


async def _with_words(page_request: PageRequest, made: Content) -> Content:
    """Adds, by id, what each is and whom its metadata name, such as `LinkedIn message to Alex`, and where its campaign
    and its sending account are shown."""
    settings, sends = page_request.context.settings, made.values["items"]
    return made.plus(
        what={one["id"]: _kind(one) + whom({"data": one}, settings.search_keys) for one in sends},
        campaigns={one["id"]: path_of({**one, "name": one["group"]}) for one in sends if one["group"]},
        anchors={one["id"]: anchor_of({**one, "id": one["connect_account_id"]}) for one in sends},
        websites=await websites(page_request) if sends else {},
        turn=turn_of("creates"),
        shows_recipients=settings.recipients_shown and page_request.may("jobs:write"),
    )


def _kind(send: Mapping[str, Any]) -> str:
    texts, channel = english(), send["channel"]
    return texts("intents.channel", channel=titled(channel)) if channel else texts("intents.message")


@page("POST /ui/intents/{id}/resolve")
async def resolve(page_request: PageRequest) -> Done:
    """Records whether it was carried out."""
    job_id = page_request.form.get("job_id")
    body = {"fate": page_request.form.get("fate"), **({"job_id": job_id} if job_id else {})}
    await page_request.api.post("/v1/intents/{}/resolve", page_request.id(), body=body)
    return Done(key=f"intent_{body['fate']}", to="/ui/intents")


action("POST /ui/intents/{id}/dismiss", "DELETE /v1/intents/{}", done="intent_dismissed", to="/ui/intents")
