"""`relay sources`: the polling of each account, and what a larger budget would bring."""

from collections.abc import Mapping
from typing import Any

from relay.cli.client import api
from relay.cli.options import Json
from relay.cli.output import print_list, say, say_wrapped
from relay.clock import in_words

MAX_ACCOUNTS = 100_000
MIN_IMPROVEMENT = 0.1
"""A change of the delay below this share of it, or below this many seconds, is not worth a larger budget."""
LEAST_PER_MINUTE = 0.01
"""A lower rate is shown as none: an estimate that fades never becomes zero."""
COLUMNS = ("account", "state", "open", "ours/limit", "others", "delay", "half", "double")
KEY = (
    "OURS is what the relay may send of the upstream's LIMIT, and OTHERS what other clients seem to send, in requests "
    "per minute. DELAY is the time from a job's end until the relay knows it. HALF and DOUBLE are the delays with half "
    "and double the budget."
)
TROUBLES = {
    "no_key": "no API key, so nothing is polled. Set a key: polling then starts by itself.",
    "unauthorized": "the upstream refuses the API key. Nothing is polled until the key works again.",
    "down": "the upstream is failing. Polling continues, and missed changes are reported late.",
    "elsewhere": "another node polls this account. Ask that node.",
}


def sources(json: Json = False) -> None:
    """Show the polling of each account. Includes its budget, expected delay, and what a larger budget would bring."""
    found = api().items("/v1/sources", {}, MAX_ACCOUNTS)
    print_list(found, COLUMNS, _row, empty="no accounts. Add one to the settings", json=json)
    if json or not found:
        return
    say("")
    say_wrapped(KEY)
    say("")
    for account in found:
        say_wrapped(f"{account['source']}/{account['account']}: {judgement(account)}")


def _row(account: Mapping[str, Any]) -> list[str]:
    limit, window = account.get("limit"), account.get("window_seconds")
    limit_per_second = limit / window if limit is not None and window else None
    return [
        f"{account['source']}/{account['account']}",
        account["state"],
        str(account["open_jobs"]),
        f"{_per_minute(account.get('own_requests_per_second'))}/{_per_minute(limit_per_second)}",
        _per_minute(account.get("others_requests_per_second")),
        _delay(account.get("expected_detection_delay_seconds")),
        _delay(account.get("expected_detection_delay_at_half_budget_seconds")),
        _delay(account.get("expected_detection_delay_at_double_budget_seconds")),
    ]


def _per_minute(requests_per_second: float | None) -> str:
    if requests_per_second is None:
        return "-"
    per_minute = requests_per_second * 60
    if per_minute < LEAST_PER_MINUTE:
        return "0"
    return f"{per_minute:.0f}" if per_minute >= 9.95 else f"{per_minute:.2g}"


def _delay(seconds: float | None) -> str:
    return "-" if seconds is None else in_words(seconds)


def judgement(account: Mapping[str, Any]) -> str:
    """Advice on one account: the expected delay, and whether another budget would change it."""
    if account["state"] in TROUBLES:
        return TROUBLES[account["state"]]
    if not account["open_jobs"]:
        return "no open jobs, so nothing is polled."
    delay = account.get("expected_detection_delay_seconds")
    if delay is None:
        return "not enough data yet to estimate the delay."
    known = f"a job's end is known about {in_words(delay)} after it happens."
    double = account.get("expected_detection_delay_at_double_budget_seconds")
    half = account.get("expected_detection_delay_at_half_budget_seconds")
    if double is None or half is None:
        return known
    enough = max(MIN_IMPROVEMENT, MIN_IMPROVEMENT * delay)
    if delay - double >= enough:
        return f"{known} With double the budget: {in_words(double)}, with half of it: {in_words(half)}."
    if half - delay >= enough:
        return f"{known} A larger budget would hardly change that. With half of it: {in_words(half)}."
    return f"{known} Neither a larger nor a smaller budget would change much."
