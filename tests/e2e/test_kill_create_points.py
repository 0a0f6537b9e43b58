"""The relay is stopped between any two steps of a create, from reading it until the caller has an answer.

A first create goes through; the second is stopped at the point. After a restart the records must be true: whether the
upstream created a job, and whether the relay tracks it, lists it as unknown, or knows that there is none. Then the
caller repeats with its Idempotency-Key, and there is exactly one job.
"""

from pathlib import Path

import pytest

from tests.support.create_world import check_the_ledgers, open_create_world, settled_books
from tests.support.kill_points import CREATE_POINTS
from tests.support.kill_world import SEED, in_turns

STOP_SECONDS = 120.0
NOT_MADE = {"create.called", "intent.written", "intent.committed"}
"""So far nothing has been sent."""
UNWRITTEN = {"create.called", "intent.written"}
"""Up to here no record of the create exists."""
RECORDED = {"register.committed", "create.recorded"}
"""The job and the end of the intent are one transaction, and here it is committed."""


@pytest.mark.parametrize(("database", "point"), in_turns(CREATE_POINTS))
async def test_stop_at_any_point_of_a_create_leaves_a_true_record(tmp_path: Path, database: str, point: str) -> None:
    async with open_create_world(tmp_path, f"{SEED}:{point}", database) as callers:
        world = callers.world
        await world.relay.serve(stop=(point, 2))
        await world.relay.ready(world.session)
        first, order = callers.new_order(keyed=False), callers.new_order(keyed=True)
        assert await callers.send(first) == "answer"
        assert await callers.send(order) == "nothing"
        await world.relay.killed_itself(STOP_SECONDS)

        await world.relay.serve()
        await world.relay.ready(world.session)
        is_made, is_unknown = point not in NOT_MADE, point not in UNWRITTEN | RECORDED
        books = await settled_books(callers, made=1 + is_made, unknown=int(is_unknown))
        made = {job_id for job_id, digest in books.made.items() if digest == order.digest}
        assert len(made) == is_made
        assert set(books.tracked) - {first.job_id} == (made if point in RECORDED else set())
        assert books.unknown == ({order.digest} if is_unknown else set())
        for intent in books.intents:
            assert (intent["idempotency_key"], intent["reason"]) == (order.key, "cut_off")

        await callers.place(order)
        assert made in (set(), {order.job_id})
        report = await check_the_ledgers(callers)
        assert (report.jobs, report.reported, report.unknown) == (2, 2, 0)
