"""`/v1/connect-accounts`: the accounts that jobs are sent from, as the upstream lists them."""

from functools import partial
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.http import params
from relay.api.http.examples import TIME
from relay.api.http.fields import NextCursor, Time
from relay.api.http.operations import NEXT, Answer, Call, Operation
from relay.api.http.resource import page_response
from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.jobs.connect_accounts import SHOWN_STATES
from relay.core.records import ConnectAccountReport

ShownState = Literal["ok", "needs_reconnect", "cannot_send", "removed"]


class ConnectAccount(TypedDict):
    """An account that jobs are sent from."""

    id: Annotated[str, Field(description="The upstream's id, as in `connect_account_id` of a job.")]
    source: str
    account: Annotated[str, Field(description="The account in the relay's settings that lists it.")]
    channel: str | None
    name: Annotated[str | None, Field(description="The upstream's display name.")]
    status: Annotated[str | None, Field(description="The upstream's own status.")]
    can_send: bool | None
    state: Annotated[ShownState, Field(description="removed: no listing has it any more.")]
    since: Annotated[Time, Field(description="When a listing first showed this state.")]
    open_jobs: Annotated[int, Field(description="The number of open jobs that name it.")]
    listed_at: Annotated[Time | None, Field(description="When the accounts were last listed.")]
    trouble: Annotated[
        str | None, Field(description="The open incident whose jobs failed because of it, perhaps since that listing.")
    ]


class ConnectAccountPage(TypedDict):
    """One page of accounts that jobs are sent from."""

    items: list[ConnectAccount]
    next_cursor: NextCursor


def account_view(report: ConnectAccountReport) -> ConnectAccount:
    """An account that jobs are sent from."""
    account = report.account
    return {
        "id": account.id,
        "source": account.source,
        "account": account.account,
        "channel": account.channel,
        "name": account.name,
        "status": account.status,
        "can_send": account.can_send,
        "state": cast("ShownState", account.state),
        "since": to_rfc3339(account.since),
        "open_jobs": report.open_jobs,
        "listed_at": optional_rfc3339(report.listed_at),
        "trouble": report.trouble,
    }


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="Connect accounts")


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
    page = await call.ports.store.connect_accounts.page(**call.query)
    return page_response(call.request, page, account_view)


_CONNECT_ACCOUNT: ConnectAccount = {
    "id": "acc_1",
    "source": "revor",
    "account": "default",
    "channel": "linkedin",
    "name": "Ada Example",
    "status": "credentials",
    "can_send": False,
    "state": "needs_reconnect",
    "since": TIME,
    "open_jobs": 12,
    "listed_at": TIME,
    "trouble": "inc_01jvpq3m8n0000000000000009",
}
EXAMPLES: dict[str, Any] = {"ConnectAccountPage": {"items": [_CONNECT_ACCOUNT], "next_cursor": None}}
