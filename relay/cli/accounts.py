"""`relay accounts`: the accounts that jobs are sent from, and whether they can send."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.client import api
from relay.cli.options import Json, Limit, given, one_of
from relay.cli.output import print_list
from relay.core.jobs.connect_accounts import SHOWN_STATES

COLUMNS = ("id", "name", "channel", "account", "state", "since", "open jobs", "trouble")


def accounts(
    source: Annotated[str | None, typer.Option(help="Only those of this source.")] = None,
    account: Annotated[str | None, typer.Option(help="Only those that this account lists.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only accounts in this state: ok, needs_reconnect, cannot_send or removed.")
    ] = None,
    limit: Limit = 500,
    json: Json = False,
) -> None:
    """List the accounts that jobs are sent from. Says whether each can send, and how many open jobs name it.

    TROUBLE: an open incident whose jobs failed because of the account.
    """
    if state is not None:
        one_of(state, SHOWN_STATES, "state")
    found = api().items("/v1/connect-accounts", given({"source": source, "account": account, "state": state}), limit)
    empty = "no accounts. They are listed once polling has begun: see `relay sources`"
    print_list(found, COLUMNS, _row, empty=empty, json=json)


def _row(one: Mapping[str, Any]) -> list[str | None]:
    place = f"{one['source']}/{one['account']}"
    known = [one["id"], one["name"], one["channel"], place, one["state"], one["since"], str(one["open_jobs"])]
    return [*known, one.get("trouble")]
