"""In which order several workers collect and run the tests."""

from pathlib import Path

from tests.support.order import SECONDS, folders_from, starts

TESTS = Path(__file__).resolve().parents[2]


def test_every_named_file_is_there() -> None:
    assert [file for file in SECONDS if not (TESTS / file).is_file()] == []


def test_the_longest_file_of_each_kind_begins_first() -> None:
    begun = starts(["store/test_a.py", "store/test_store_pages.py", "e2e/test_stalls.py", "bus/test_kafka.py"])
    assert sorted(begun, key=lambda file: (begun[file], file)) == [
        "bus/test_kafka.py",
        "store/test_store_pages.py",
        "e2e/test_stalls.py",
        "store/test_a.py",
    ]
    assert (begun["bus/test_kafka.py"], begun["store/test_store_pages.py"]) == (0.0, 0.0)


def test_each_worker_collects_all_folders_and_begins_elsewhere() -> None:
    orders = [folders_from(TESTS.iterdir(), worker, 4) for worker in range(4)]
    assert len({order[0] for order in orders}) == 4
    assert len({frozenset(order) for order in orders}) == 1
    assert TESTS / "e2e" in orders[0]
    assert TESTS / "benchmarks" not in orders[0]
