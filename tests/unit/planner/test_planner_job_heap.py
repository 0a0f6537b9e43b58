"""The heap: a heap that knows each job's place."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.planner.poll_queues import JobHeap, PlannedJob

operations = st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 9))), max_size=120)


@given(operations)
def test_heap_returns_jobs_in_due_order(ops: list[tuple[int, int | None]]) -> None:
    heap, jobs = JobHeap(), [PlannedJob(f"j{number:02}", 60.0, 0.0) for number in range(13)]
    expected: dict[str, float] = {}
    for number, due in ops:
        if due is None:
            heap.remove(jobs[number])
            expected.pop(jobs[number].id, None)
        else:
            heap.put(jobs[number], float(due))
            expected[jobs[number].id] = float(due)
        assert len(heap) == len(expected)
        assert heap.due(4.0, 100) == sum(due <= 4 for due in expected.values())
        assert all(job.in_flight == (job.id not in expected) for job in jobs)
    given_out = []
    while (job := heap.first()) is not None:
        given_out.append(job.id)
        heap.remove(job)
    assert given_out == sorted(expected, key=lambda job_id: (expected[job_id], job_id))


def test_counting_stops_at_its_limit() -> None:
    heap = JobHeap()
    for number in range(50):
        heap.put(PlannedJob(str(number), 60.0, 0.0), float(number))
    assert heap.due(100.0, 7) == 7
    assert heap.due(10.0, 100) == 11
