"""Groups recounted from the jobs table, independently of the code that counts them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
Key = tuple[str, str, str]

JOBS = """
SELECT uid, source, account, group_name, group_round, phase, outcome, result_status, error_code FROM jobs
WHERE group_name IS NOT NULL
"""
GROUPS = """
SELECT id, source, account, name, round, expected, closed_at, CAST(counts AS text) AS counts, skipped,
  CAST(failures AS text) AS failures, first_at, last_at, max_gap_seconds, finished_at, due_at
FROM groups
"""
FINISHED = "SELECT id, owner, body FROM events WHERE type = 'relay.group.finished' ORDER BY recorded_at, id"


@dataclass
class Count:
    """What a round has."""

    states: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    skipped: int = 0

    def add(self, job: Row) -> None:
        if job["outcome"] is not None:
            state = job["outcome"]
        else:
            state = job["phase"] if job["phase"] in ("scheduled", "running", "retrying") else "queued"
        self.states[state] += 1
        self.skipped += state == "succeeded" and job["result_status"] == "skipped"
        if state == "failed" and job["error_code"] is not None:
            self.codes[job["error_code"]] += 1


def key_of(job: Row) -> tuple[Key, int]:
    """The group and the round that count a job."""
    return (job["source"], job["account"], job["group_name"]), job["group_round"]


def recounted(jobs: Sequence[Row]) -> dict[tuple[Key, int], Count]:
    """Every round of every group, counted from its jobs."""
    found: dict[tuple[Key, int], Count] = {}
    for job in jobs:
        found.setdefault(key_of(job), Count()).add(job)
    return found


def mismatches(
    jobs: Sequence[Row], groups: Sequence[Row], loads: Any, removed: Mapping[tuple[Key, int], Count] | None = None
) -> list[str]:
    """What is wrong with the counts of groups. `removed`: the jobs that retention has deleted since."""
    counted = recounted(jobs)
    wrong = []
    known = set()
    for group in groups:
        key = (group["source"], group["account"], group["name"])
        known.add(key)
        place = (key, group["round"])
        count, gone = counted.get(place, Count()), (removed or {}).get(place, Count())
        states, codes = count.states + gone.states, count.codes + gone.codes
        said = {state: number for state, number in loads(group["counts"]).items() if number}
        failures = {code: number for code, number in loads(group["failures"]).items() if number}
        if said != dict(states):
            wrong.append(f"{key} says {said} and has {dict(states)}")
        if failures != dict(codes):
            wrong.append(f"{key} says {failures} failed and has {dict(codes)}")
        if group["skipped"] != count.skipped + gone.skipped:
            wrong.append(f"{key} says {group['skipped']} skipped and has {count.skipped + gone.skipped}")
        later = [number for (other, number) in counted if other == key and number > group["round"]]
        if later:
            wrong.append(f"{key} is in round {group['round']} and has jobs of {later}")
        is_open = any(states[state] for state in ("queued", "scheduled", "running", "retrying"))
        if is_open and group["finished_at"] is not None:
            wrong.append(f"{key} has finished with open jobs: {dict(states)}")
        enough = group["expected"] is None or sum(states.values()) >= group["expected"]
        if not is_open and group["finished_at"] is None and group["closed_at"] is not None and enough:
            wrong.append(f"{key} is closed, all has ended, and it has not finished")
        if (group["due_at"] is None) is not (is_open or group["finished_at"] is not None):
            wrong.append(f"{key} is due at {group['due_at']}, finished at {group['finished_at']}: {dict(states)}")
    lost = {key for key, _ in counted} - known
    return wrong + [f"{key} has jobs and is not there" for key in sorted(lost)]


def api_mismatches(jobs: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of what the API shows, of groups in their first round whose jobs have all ended."""
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
