"""`relay settings`: the settings that a relay runs with, and where each was written."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay.cli.client import api
from relay.cli.options import Json
from relay.cli.output import print_list
from relay.core.jsontext import dumps
from relay.core.values import DEFAULT

COLUMNS = ("key", "value", "place", "change")


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not the default.")] = False,
    json: Json = False,
) -> None:
    """Show the settings that the relay runs with. Includes where each was written, and what SIGHUP applies."""
    items = api().get("/v1/settings")["items"]
    found = [one for one in items if not changed or one["place"] != DEFAULT]
    print_list(found, COLUMNS, _row, empty="every setting has its default", json=json)


def _row(setting: Mapping[str, Any]) -> list[str]:
    return [setting["key"], shown(setting), setting["place"], "SIGHUP" if setting["reloaded"] else "restart"]


def shown(setting: Mapping[str, Any]) -> str:
    """The value for a person; of a secret only whether it is set."""
    if not setting["set"]:
        return "not set"
    if setting["secret"] and setting["value"] is None:
        return "set"
    value = setting["value"]
    return value if isinstance(value, str) else str(dumps(value).decode())
