"""`/v1/connect-accounts`: the accounts that jobs are sent from, as the upstream lists them."""

from functools import partial
from typing import Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http import params
from relay.api.http.fields import SOURCE, TIME
from relay.api.http.operations import NEXT, Answer, Call, Operation, page_response
from relay.api.http.shown import Shown, Time, page_of
from relay.core.jobs.connect_accounts import SHOWN_STATES

ShownState = Literal["ok", "needs_reconnect", "cannot_send", "removed"]


class ConnectAccount(Shown):
    """An account that jobs are sent from."""

    id: str = Field(description="The upstream's id, as in `connect_account_id` of a job.", examples=["acc_1"])
    source: str = Field(examples=[SOURCE])
    account: str = Field(description="The account in the relay's settings that lists it.", examples=["default"])
    channel: str | None = Field(examples=["linkedin"])
    name: str | None = Field(description="The upstream's display name.", examples=["Ada Example"])
    status: str | None = Field(description="The upstream's own status.", examples=["credentials"])
    can_send: bool | None = Field(examples=[False])
    state: ShownState = Field(description="removed: no listing has it any more.", examples=["needs_reconnect"])
    since: Time = Field(description="When a listing first showed this state.")
    open_jobs: int = Field(description="The number of open jobs that name it.", examples=[12])
    failed_jobs: int = Field(
        description="The number of jobs that failed because of it, as its open incidents count them.", examples=[10]
    )
    listed_at: Time | None = Field(description="When the accounts were last listed.", examples=[TIME])
    trouble: str | None = Field(
        description="The open incident whose jobs failed because of it, perhaps since that listing.",
        examples=["inc_01jvpq3m8n0000000000000009"],
    )


ConnectAccountPage = page_of(ConnectAccount, "accounts that jobs are sent from")


operation = partial(Operation, tag="Connect accounts")


@operation(
    "GET /v1/connect-accounts",
    bound=True,
    query=(
        *params.PAGE,
        params.text("source", "Only accounts of this source."),
        params.text("account", "Only those that this account lists."),
        params.choice("state", "Only accounts in this state.", *SHOWN_STATES),
    ),
    answers={200: Answer("A page.", ConnectAccountPage, headers=NEXT)},
)
async def list_connect_accounts(call: Call) -> Response:
    """List the accounts that jobs are sent from.

    They are listed upstream now and then. A change is shown once another listing has confirmed it.
    """
    page = await call.dependencies.store.connect_accounts.page(**call.query)
    items = [
        ConnectAccount.of(
            one.account,
            open_jobs=one.open_jobs,
            failed_jobs=one.failed_jobs,
            listed_at=one.listed_at,
            trouble=one.trouble,
        )
        for one in page.items
    ]
    return page_response(call.request, items, page.next_cursor)
