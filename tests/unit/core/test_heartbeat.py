"""Whether loops move, in simulated time."""

from relay.core.values import TURN_SECONDS, WORK_SECONDS, Movement, Progress


def of(turns: int = 0, ended: int = 0, in_flight: int = 0) -> dict[str, Progress]:
    return {"dispatcher": Progress(turns=turns, ended=ended, in_flight=in_flight)}


def test_loop_that_no_longer_turns_is_stuck() -> None:
    movement = Movement()
    assert movement.stuck(of(turns=5), 0.0) is None
    assert movement.stuck(of(turns=6), 60.0) is None
    assert movement.stuck(of(turns=6), 60.0 + TURN_SECONDS) is None
    assert movement.stuck(of(turns=6), 180.0) == "dispatcher has not turned for 120 s"
    assert movement.stuck(of(turns=7), 240.0) is None, "it turns again"


def test_loop_that_never_turned_is_stuck() -> None:
    movement = Movement()
    assert movement.stuck(of(), 0.0) is None, "it has just started"
    assert movement.stuck(of(), 120.0) is not None


def test_work_that_never_ends_is_stuck_although_the_loop_turns() -> None:
    movement = Movement()
    assert movement.stuck(of(turns=1, ended=9, in_flight=64), 0.0) is None
    assert movement.stuck(of(turns=3, ended=9, in_flight=64), WORK_SECONDS) is None
    problem = movement.stuck(of(turns=5, ended=9, in_flight=64), 180.0)
    assert problem == "dispatcher has 64 in flight, and none has ended for 180 s"
    assert movement.stuck(of(turns=7, ended=10, in_flight=63), 240.0) is None, "one has ended"


def test_work_that_began_after_an_idle_time_is_not_stuck() -> None:
    movement = Movement()
    assert movement.stuck(of(turns=1, ended=9), 0.0) is None
    assert movement.stuck(of(turns=2, ended=9), 80.0) is None
    assert movement.stuck(of(turns=3, ended=9, in_flight=1), 160.0) is None
    assert movement.stuck(of(turns=4, ended=9, in_flight=1), 240.0) is None
    assert movement.stuck(of(turns=5, ended=9, in_flight=1), 311.0) is not None
