"""`relay sources`: how the polling of each account goes, and what a bigger budget would bring."""

from collections.abc import Mapping
from typing import Any

from relay.cli.client import api
from relay.cli.output import Json, print_json, print_table, say, say_at_length
from relay.clock import in_words

MAX_ACCOUNTS = 100_000
HARDLY = 0.1
"""A change of the delay by less than this share of it, or than so many seconds, is none that anybody would pay for."""
COLUMNS = ("account", "state", "open", "ours/limit", "others", "delay", "half", "double")
KEY = (
    "OURS is what we may send of the upstream's LIMIT, OTHERS what others seem to send, in requests a minute. "
    "DELAY is the time from a job's end until it is known; HALF and DOUBLE say what it would be with such a budget."
)
TROUBLES = {
    "no_key": "it has no API key, so nothing is looked at: set one, and polling begins by itself.",
    "unauthorized": "the upstream refuses the API key, so nothing is looked at until it works again.",
    "down": "the upstream fails; looks go on, and what happened meanwhile is told late.",
    "elsewhere": "another node polls it: ask that one.",
}


def sources(json: Json = False) -> None:
    """Say how the polling of each account goes: budget, expected delay, and what a bigger budget would bring."""
    found = api().items("/v1/sources", {}, MAX_ACCOUNTS)
    if json:
        print_json(found)
        return
    print_table(COLUMNS, [_row(account) for account in found], empty="no accounts: add one to the settings")
    if not found:
        return
    say("")
    say_at_length(KEY)
    say("")
    for account in found:
        say_at_length(f"{account['source']}/{account['account']}: {judgement(account)}")


def _row(account: Mapping[str, Any]) -> list[str]:
    limit, window = account.get("limit"), account.get("window_seconds")
    each_second = limit / window if limit is not None and window else None
    return [
        f"{account['source']}/{account['account']}",
        account["state"],
        str(account["open_jobs"]),
        f"{_each_minute(account.get('own_requests_per_second'))}/{_each_minute(each_second)}",
        _each_minute(account.get("others_requests_per_second")),
        _delay(account.get("expected_detection_delay_seconds")),
        _delay(account.get("expected_detection_delay_at_half_budget_seconds")),
        _delay(account.get("expected_detection_delay_at_double_budget_seconds")),
    ]


def _each_minute(requests_per_second: float | None) -> str:
    if requests_per_second is None:
        return "-"
    each_minute = requests_per_second * 60
    return f"{each_minute:.0f}" if each_minute >= 9.95 else f"{each_minute:.2g}"


def _delay(seconds: float | None) -> str:
    return "-" if seconds is None else in_words(seconds)


def judgement(account: Mapping[str, Any]) -> str:
    """What to make of an account's row: how late an end is known, and what another budget would change."""
    if account["state"] in TROUBLES:
        return TROUBLES[account["state"]]
    if not account["open_jobs"]:
        return "no job is open, so there is nothing to look at."
    delay = account.get("expected_detection_delay_seconds")
    if delay is None:
        return "there is too little to judge by yet: how late a job's end is known can not be said."
    known = f"a job's end is known about {in_words(delay)} after it happens."
    double = account.get("expected_detection_delay_at_double_budget_seconds")
    half = account.get("expected_detection_delay_at_half_budget_seconds")
    if double is None or half is None:
        return known
    enough = max(HARDLY, HARDLY * delay)
    if delay - double >= enough:
        return f"{known} Double the budget would make that {in_words(double)}, half of it {in_words(half)}."
    if half - delay >= enough:
        return f"{known} A bigger budget would hardly change that; half of it would make it {in_words(half)}."
    return f"{known} A bigger budget would hardly change that, and neither would half of it."
