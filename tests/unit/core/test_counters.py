"""Counts in memory: per key and window, with a bound on both."""

from relay.core.access.audit import MAX_ENDED, Counters, Window


def test_counts_are_per_key_and_window():
    tally = Counters[str](60, 10)
    for key, now in (("a", 0.0), ("b", 59.9), ("a", 30.0), ("a", 60.0), ("b", 125.0)):
        tally.add(key, now)
    assert tally.take_ended(130.0) == [
        Window(began_at=0.0, counts={"a": 2, "b": 1}),
        Window(began_at=60.0, counts={"a": 1}),
    ]
    assert tally.take_ended(130.0) == []
    assert tally.take_ended(180.0) == [Window(began_at=120.0, counts={"b": 1})]


def test_the_present_window_can_be_taken_too():
    tally = Counters[str](60, 10)
    tally.add("a", 10.0, 3)
    assert tally.take_all(11.0) == [Window(began_at=0.0, counts={"a": 3})]
    assert tally.take_all(11.0) == []
    tally.add("a", 12.0)
    assert tally.take_all(11.0) == [Window(began_at=0.0, counts={"a": 1})]


def test_keys_beyond_the_limit_are_counted_together():
    tally = Counters[int](60, 2)
    for key in range(5):
        tally.add(key, 0.0)
    tally.add(0, 0.0)
    assert tally.take_all(0.0) == [Window(began_at=0.0, counts={0: 2, 1: 1}, other_count=3)]


def test_windows_that_cannot_be_written_are_kept_and_joined():
    tally = Counters[str](60, 1)
    for minute in range(MAX_ENDED + 2):
        tally.add("a" if minute else "b", minute * 60.0)
    windows = tally.take_ended(10**6)
    assert len(windows) == MAX_ENDED
    assert windows[0] == Window(began_at=0.0, counts={"b": 1}, other_count=2)
    tally.give_back(windows)
    assert tally.take_all(10**6) == windows


def test_windows_are_joined_by_key():
    first = Window(began_at=0.0, counts={"a": 1}, other_count=1)
    assert first.joined(Window(began_at=60.0, counts={"a": 2, "b": 1}, other_count=2), 2) == Window(
        began_at=0.0, counts={"a": 3, "b": 1}, other_count=3
    )


def test_only_the_largest_are_told_apart():
    window = Window(began_at=0.0, counts={"a": 1, "b": 5, "c": 3}, other_count=2)
    assert window.largest(3) is window
    assert window.largest(1) == Window(began_at=0.0, counts={"b": 5}, other_count=6)
    assert window.largest(0) == Window(began_at=0.0, counts={}, other_count=11)
