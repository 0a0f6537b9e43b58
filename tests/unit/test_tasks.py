"""Background tasks and how they end."""

import asyncio

from relay.tasks import Tasks


async def test_task_started_by_an_ending_task_gets_the_remaining_time() -> None:
    tasks, ended = Tasks(), []

    async def second() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        ended.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second())
        ended.append("first")

    tasks.start(first())
    await tasks.finish(60.0)
    assert ended == ["first", "second"]
    assert len(tasks) == 0


async def test_unfinished_tasks_are_cancelled() -> None:
    tasks, cancelled = Tasks(), []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    tasks.start(never())
    await asyncio.sleep(0)
    await tasks.finish(0.0)
    assert cancelled == [True]
    assert len(tasks) == 0
