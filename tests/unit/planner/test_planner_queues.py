"""The three queues of polls: which goes first, which has its turn, and that none starves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner.poll_queues import CHECK, EXPECTED, FIRST, LIKELY_QUEUES, URGENT, PlannedJob, PollQueues
from tests.support.scale import scaled

LATE = 60.0
HEAD_START = 2.0
NOW = 1_000.0
NAMES = {EXPECTED: "e", FIRST: "f", CHECK: "c", URGENT: "u"}


def queues_of(*polls: tuple[int, float]) -> PollQueues:
    """Polls by queue and time; a job's id is the letter of its queue and its number in it."""
    queues, made = PollQueues(LATE, HEAD_START), dict.fromkeys(NAMES, 0)
    for queue, due in polls:
        queues.put(PlannedJob(f"{NAMES[queue]}{made[queue]}", 60.0, 0.0), due, queue)
        made[queue] += 1
    return queues


def taken(queues: PollQueues, now: float, at_most: int = 100) -> list[str]:
    """The jobs that are due, in the order in which they go."""
    found: list[str] = []
    while len(found) < at_most and (job := queues.first(now)) is not None and job.due <= now:
        queues.take_off(job)
        queues.others_turn = job.queue in LIKELY_QUEUES
        found.append(job.id)
    return found


def test_expected_and_first_polls_take_turns_and_safety_polls_take_the_rest() -> None:
    queues = queues_of(*[(queue, NOW - 1) for queue in (EXPECTED, EXPECTED, EXPECTED, FIRST, FIRST, CHECK, CHECK)])
    assert taken(queues, NOW) == ["e0", "f0", "e1", "f1", "e2", "c0", "c1"]


def test_an_urgent_poll_goes_before_those_that_came_due_a_little_earlier() -> None:
    queues = queues_of(
        (EXPECTED, NOW - 1.9), (EXPECTED, NOW - 2.1), (EXPECTED, NOW - 5), (URGENT, NOW), (URGENT, NOW + 1)
    )
    assert taken(queues, NOW) == ["e2", "e1", "u0", "e0"]
    first = queues.next_expected()
    assert first is not None
    assert first.id == "u1"


def test_an_urgent_poll_is_not_made_before_its_time() -> None:
    queues = queues_of((EXPECTED, NOW + 1), (URGENT, NOW + 2))
    first = queues.first(NOW)
    assert first is not None
    assert first.id == "e0"
    assert taken(queues, NOW + 1) == ["e0"]


def test_an_overdue_check_has_each_second_turn() -> None:
    queues = queues_of(
        *[(EXPECTED, NOW - 1)] * 3, (CHECK, NOW - LATE), (CHECK, NOW - LATE - 1), (CHECK, NOW - LATE + 1)
    )
    assert taken(queues, NOW) == ["e0", "c1", "e1", "c0", "e2", "c2"]


def test_first_polls_and_overdue_checks_have_their_turn_in_the_order_of_their_times() -> None:
    queues = queues_of((EXPECTED, NOW), (EXPECTED, NOW), (FIRST, NOW), (CHECK, NOW - LATE))
    assert taken(queues, NOW) == ["e0", "c0", "e1", "f0"]


def test_an_overdue_check_has_its_turn_however_many_first_polls_come() -> None:
    queues = queues_of(*[(FIRST, NOW - 1)] * 5, (CHECK, NOW - LATE - 2))
    assert taken(queues, NOW)[0] == "c0"


def test_a_job_is_in_one_queue_only() -> None:
    queues, job = PollQueues(LATE, HEAD_START), PlannedJob("a", 60.0, 0.0)
    for queue in (FIRST, EXPECTED, CHECK, CHECK, URGENT, EXPECTED):
        queues.put(job, NOW, queue)
        assert job.queue == queue
        assert queues.due(NOW, 10) == 1
    queues.take_off(job)
    queues.take_off(job)
    assert job.in_flight
    assert queues.first(NOW) is None


@settings(max_examples=scaled(10, 30))
@given(
    st.sampled_from([EXPECTED, FIRST, CHECK, URGENT]),
    st.lists(st.sampled_from([EXPECTED, FIRST, URGENT]), min_size=400, max_size=400),
)
def test_every_poll_is_sent_eventually(queue: int, others: list[int]) -> None:
    """However many polls come in each second, each due from then on, one that waits has its turn."""
    queues, job = PollQueues(LATE, HEAD_START), PlannedJob("waits", 60.0, 0.0)
    queues.put(job, NOW, queue)
    for number, other in enumerate(others):
        now = NOW + number
        queues.put(PlannedJob(f"j{number}", 60.0, 0.0), now, other)
        # first polls have their turn before a late check: these must not be all there is of them
        found = queues.first(now)
        assert found is not None
        queues.take_off(found)
        queues.others_turn = found.queue in LIKELY_QUEUES
        if found is job:
            break
    assert job.in_flight
    assert now <= NOW + 2 * LATE + 2 * len(others) / 4
