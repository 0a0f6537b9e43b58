"""`relay status`: whether the relay is well, and the deliveries that a person may have to resolve.
`relay settings`: the settings that it runs with."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from relay.cli.client import api
from relay.cli.deliveries.report import SKIPPED
from relay.cli.options import Json
from relay.cli.output import print_json, print_list, print_table, say
from relay.clock import from_rfc3339, in_words, to_rfc3339
from relay.core.jsontext import dumps
from relay.core.values import DEFAULT

MAX_SUBSCRIPTIONS = 500
MAX_FAILING = 10
"""Maximum failing subscriptions that are named."""
COLUMNS = ("deliveries", "count", "oldest", "show them")
LISTS = {
    "uncertain": "relay deliveries list --state uncertain",
    "dead": "relay deliveries list --state dead --group-by reason,sink",
    "skipped": "relay deliveries list --state cancelled --group-by reason,sink",
}


def status(json: Json = False) -> None:
    """Show whether the relay is ready, and what fails. Lists subscriptions that fail, deliveries that are uncertain,
    dead or skipped, and what programs that pull have not acknowledged. Exit code 1: not ready."""
    client = api()
    ready = client.get("/readyz", accepted=503)
    groups = {
        state: client.get("/v1/deliveries", {"state": state, "group_by": "reason", "limit": 500})
        for state in ("uncertain", "dead", "cancelled")
    }
    found = [_counted(name, groups["cancelled" if name == "skipped" else name]) for name in LISTS]
    subscriptions = client.items("/v1/subscriptions", {}, MAX_SUBSCRIPTIONS)
    lags = [{"subscription": one["id"], **one["lag"]} for one in subscriptions if "lag" in one]
    failing = [_failing(one) for one in subscriptions if one.get("state") == "enabled" and one.get("failing_since")]
    if json:
        print_json({**ready, "deliveries": found, "lags": lags, "failing": failing})
    else:
        for line in (*_readiness(ready), *_failing_lines(failing, time.time())):
            say(line)
        rows = [[one["deliveries"], _count(one), one["oldest_at"], LISTS[one["deliveries"]]] for one in found]
        shown = [row for row, one in zip(rows, found, strict=True) if one["count"]]
        print_table(COLUMNS, [*shown, *(_lag_row(one) for one in lags if one["count"])], empty="")
    raise typer.Exit(0 if ready.get("status") == "ok" else 1)


def _readiness(ready: Mapping[str, Any]) -> Iterator[str]:
    yield "the relay is ready" if ready.get("status") == "ok" else "the relay is not ready"
    yield from (f"problem: {problem}" for problem in ready.get("problems") or ())
    yield from (f"note: {note}" for note in ready.get("notes") or ())


def _failing(subscription: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "subscription": subscription["id"],
        "sink": subscription["sink"],
        "since": subscription["failing_since"],
        "reason": subscription.get("failing_reason"),
    }


def _failing_lines(failing: Sequence[Mapping[str, Any]], now: float) -> Iterator[str]:
    for one in failing[:MAX_FAILING]:
        since = in_words(max(0.0, now - from_rfc3339(one["since"])))
        shown = f"relay deliveries list --state pending --subscription {one['subscription']}"
        yield f"failing: {one['sink']}, for {since} (first: {one['reason']}): {shown}"
    if len(failing) > MAX_FAILING:
        yield f"failing: {len(failing) - MAX_FAILING} more, see `relay subscriptions list`"


def _counted(name: str, groups: Mapping[str, Any]) -> dict[str, Any]:
    """The deliveries of one name: how many, and when the oldest was made."""
    items = [one for one in groups["items"] if name != "skipped" or one["reason"] in SKIPPED]
    return {
        "deliveries": name,
        "count": sum(one["count"] for one in items),
        "oldest_at": min((one["oldest_at"] for one in items), default=None),
        "truncated": groups["truncated"],
    }


def _lag_row(lag: Mapping[str, Any]) -> list[Any]:
    oldest = to_rfc3339(time.time() - lag["oldest_seconds"])
    return ["not acknowledged", f"{lag['count']:,}", oldest, f"relay subscriptions show {lag['subscription']}"]


def _count(found: Mapping[str, Any]) -> str:
    return f"{found['count']:,}{' or more' if found['truncated'] else ''}"


SETTING_COLUMNS = ("key", "value", "place", "change")


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not the default.")] = False,
    json: Json = False,
) -> None:
    """Show the settings that the relay runs with. Includes where each was written, and what SIGHUP applies."""
    items = api().get("/v1/settings")["items"]
    found = [one for one in items if not changed or one["place"] != DEFAULT]
    print_list(found, SETTING_COLUMNS, _setting_row, empty="every setting has its default", json=json, table="settings")


def _setting_row(setting: Mapping[str, Any]) -> list[str]:
    return [setting["key"], shown(setting), setting["place"], "SIGHUP" if setting["reloaded"] else "restart"]


def shown(setting: Mapping[str, Any]) -> str:
    """The value for a person; of a secret only whether it is set."""
    if not setting["set"]:
        return "not set"
    if setting["secret"] and setting["value"] is None:
        return "set"
    value = setting["value"]
    return value if isinstance(value, str) else str(dumps(value).decode())
