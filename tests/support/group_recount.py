"""Groups that the API shows, recounted from the jobs that it shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def api_mismatches(jobs: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """What does not agree, of groups in their first round whose jobs have all ended."""
    wrong = []
    for group in groups:
        members = [job for job in jobs if (job["group"], job["account"]) == (group["name"], group["account"])]
        states = Counter(job["outcome"] for job in members)
        said = Counter({state: count for state, count in group["counts"].items() if count})
        if said != states:
            wrong.append(f"{group['name']} says {said} and has {states}")
        codes = Counter(
            (job["upstream"].get("error") or {}).get("code") for job in members if job["outcome"] == "failed"
        )
        failures = Counter({one["code"]: one["count"] for one in group["failures"]})
        if failures != codes:
            wrong.append(f"{group['name']} says {failures} failed and has {codes}")
    known = {group["name"] for group in groups}
    return wrong + [f"{name} is not there" for name in {job["group"] for job in jobs} - {None, *known}]
