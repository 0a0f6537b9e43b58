"""The limits that a serving process sets for itself."""

import resource

import pytest

from relay.node import interpreter

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1_024, 4_096), (4_096, 4_096)),
        ((1_024, NO_LIMIT), (interpreter.OPEN_FILES, NO_LIMIT)),
        ((1_024, 1_000_000), (interpreter.OPEN_FILES, 1_000_000)),
        ((100_000, 1_000_000), None),
        ((NO_LIMIT, NO_LIMIT), None),
        ((4_096, 4_096), None),
    ],
)
def test_low_limit_on_open_files_is_raised(monkeypatch, before, after):
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: before)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.append(new))
    interpreter.raise_file_limit()
    assert limits == ([] if after is None else [after])
