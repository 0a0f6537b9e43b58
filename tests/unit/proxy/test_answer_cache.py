"""Answer cache: what it holds, and its size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.jobs.job import JobKey
from relay.proxy.reads import OVERHEAD_BYTES, AnswerCache, CachedAnswer

KEYS = [(f"job-{number}", "revor", "default", "") for number in range(6)]


def kept(uid: str = "job_1", body: bytes | None = b"x" * 100, **changes: object) -> CachedAnswer:
    values = {"polled_at": 1.0, "known_at": 1.0, "ended": False, **changes}
    return CachedAnswer(uid=uid, body=body, **values)  # type: ignore[arg-type]


def size_of(*answers: CachedAnswer) -> int:
    return sum(OVERHEAD_BYTES + len(answer.body or b"") for answer in answers)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_cache_key_is_job_source_account_and_resource(place: int) -> None:
    answers = AnswerCache()
    answers.put(("a", "b", "c", "d"), kept())
    other = tuple("z" if at == place else part for at, part in enumerate(("a", "b", "c", "d")))
    assert answers.get(other) is None  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["put", "drop", "get"]), st.sampled_from(KEYS), st.integers(0, 900))))
def test_byte_count_is_right_after_any_operations(steps: list[tuple[str, JobKey, int]]) -> None:
    answers = AnswerCache(max_bytes=2_500)
    for what, key, size in steps:
        if what == "put":
            answers.put(key, kept(body=b"x" * size))
        elif what == "drop":
            answers.drop(key)
        else:
            answers.get(key)
        there = [answer for each in KEYS if (answer := answers._answers.get(each)) is not None]
        assert answers.size_bytes == size_of(*there)
        assert answers.size_bytes <= 2_500
