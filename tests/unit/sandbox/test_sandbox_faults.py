"""Fault injection in the sandbox."""

from typing import Any

import pytest

from relay.sandbox.faults import FaultInjector, FaultSpec
from relay.sandbox.requests import Refused, read

NOW = 1_779_271_200.0
PATH = "/api/v1/outreach/jobs/x"


def hit(injector: FaultInjector, *, now: float = NOW, method: str = "GET", path: str = PATH, **more: Any) -> str | None:
    spec = injector.draw(method=method, path=path, account=more.pop("account", "acme"), now=now, **more)
    return None if spec is None else spec.kind


def injector_of(*bodies: dict[str, Any], seed: int = 0, **more: int) -> FaultInjector:
    injector = FaultInjector(seed=seed, **more)
    for body in bodies:
        injector.add(read(FaultSpec, body), NOW)
    return injector


def test_fault_ends_after_its_count() -> None:
    injector = injector_of({"kind": "500", "count": 2})
    assert [hit(injector) for _ in range(3)] == ["500", "500", None]


def test_errors_precede_the_effect_and_corruptions_follow_it() -> None:
    assert read(FaultSpec, {"kind": "502"}).after_effect is False
    assert read(FaultSpec, {"kind": "502", "after_effect": True}).after_effect is True
    assert read(FaultSpec, {"kind": "timeout"}).after_effect is True


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"kind": "fire"},
        {"kind": "500", "count": 0},
        {"kind": "500", "share": 1.1},
        {"kind": "500", "duration_seconds": -1},
        {"kind": "timeout", "hold_seconds": 601},
        {"kind": "oversized", "size_bytes": 10**9},
        {"kind": "500", "method": 3},
        {"kind": "unknown_status", "status_value": "x" * 501},
        {"kind": "500", "shares": 1},
    ],
)
def test_invalid_faults_are_refused(body: object) -> None:
    with pytest.raises(Refused):
        read(FaultSpec, body)
