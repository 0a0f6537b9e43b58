"""A failure of one piece of upkeep does not stop the others."""

from collections.abc import Callable
from typing import Any

import pytest

from relay.config.settings import RetentionSettings
from relay.core.jobs.job import Job
from relay.errors import StoreError
from relay.metrics import Metrics
from relay.node import upkeep

NOW = 1_800_000_000.0
LIVE, OTHER = ("revor", "default"), ("revor", "other")
ERRORS: tuple[Callable[[], Exception], ...] = (lambda: StoreError("no"), lambda: ValueError("bug"))


class Jobs:
    """Jobs whose deadline has passed, by account."""

    def __init__(self, late: dict[tuple[str, str], list[str]], *, unreadable: str = "") -> None:
        self.late = late
        self.unreadable = unreadable

    async def accounts_past_deadline(self, accounts: Any, now: float) -> list[tuple[str, str]]:
        return [account for account in accounts if self.late.get(account)]

    async def past_deadline(
        self, source: str, account: str, now: float, *, after: tuple[float, str], count: int
    ) -> list[tuple[float, str]]:
        return [(NOW, uid) for uid in self.late[source, account] if (NOW, uid) > after][:count]

    async def get(self, uid: str) -> Job | None:
        if uid == self.unreadable:
            raise ValueError("an unreadable row")
        closed_at = NOW if "closed" in uid else None
        deadline_at = NOW + 1.0 if "moved" in uid else NOW
        job = Job(
            uid=uid,
            external_id=uid,
            source="revor",
            account="default",
            closed_at=closed_at,
            deadline_at=deadline_at,
        )
        return None if "purged" in uid else job


class Account:
    """An account's polling, in which some things fail."""

    def __init__(self, fails: str = "", error: Callable[[], Exception] = ERRORS[0]) -> None:
        self.fails, self.error, self.poll_handler = fails, error, self
        self.called: list[str] = []
        self.probed = 0

    async def overdue(self, job: Job) -> None:
        if self.fails and self.fails in job.uid:
            raise self.error()
        self.called.append(job.uid)

    async def probe(self) -> bool:
        self.probed += 1
        if self.fails == "probe":
            raise self.error()
        return True

    async def save_plan(self) -> None: ...

    def stalled(self, now: float) -> bool:
        return False


@pytest.mark.parametrize("error", ERRORS)
async def test_failure_for_one_overdue_job_does_not_stop_the_others(error: Callable[[], Exception]) -> None:
    bad = [f"a bad {n:03}" for n in range(upkeep.DEADLINE_COUNT + 50)]
    jobs = Jobs({LIVE: [*bad, "b closed", "b moved", "b purged", "c", "d"], OTHER: ["x"]}, unreadable="a bad 000")
    accounts = {LIVE: Account("bad", error), OTHER: Account()}
    count = await upkeep.deadlines(jobs, accounts, lambda: NOW)
    assert (accounts[LIVE].called, accounts[OTHER].called) == (["c", "d"], ["x"])
    assert count == len(bad) + 6


KINDS = [
    *("attempts", "events", "jobs", "groups", "callbacks", "callback_hosts", "connect_accounts", "intents"),
    *("incidents", "figures", "memories", "shared_memories", "replays", "streams", "idempotency_keys", "secrets"),
    "sessions",
]


SWEPT = ("events", "jobs", "groups", "callbacks")


@pytest.mark.parametrize("failing", KINDS)
async def test_failure_to_delete_one_kind_of_row_does_not_stop_the_others(failing: str) -> None:
    deleted: dict[str, int] = {}

    class Rows:
        def __getattr__(self, name: str) -> Any:
            async def delete(*given: Any) -> Any:
                kind = given[0] if name == "delete_old" else name.removeprefix("delete_")
                if kind == failing:
                    raise StoreError("no")
                deleted[kind] = deleted.get(kind, 0) + 1
                count = int(deleted[kind] == 1)
                return (count, None) if kind in SWEPT else count

            return delete

    retention = upkeep.Retention(Rows(), Metrics(), lambda: NOW, RetentionSettings())
    assert await retention.run_once() == len(KINDS) - 1
    assert deleted.keys() == {*KINDS, "give_back"} - {failing}
