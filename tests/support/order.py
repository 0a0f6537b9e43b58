"""In which order a run with several workers collects and runs files. A run with one process is not changed."""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

WAITING = ("browser", "bus", "clients", "e2e", "packaging", "paths")
"""Folders whose tests mostly wait for processes. The others compute."""
SECONDS = {
    **{"api/test_api_accounts.py": 20, "api/test_api_brokers.py": 15},
    **{"api/test_api_schemathesis.py": 20, "api/test_api_hostile_sinks.py": 10},
    **{"browser/test_dashboard.py": 90},
    **{"bus/test_kafka.py": 60, "bus/test_nats.py": 25, "bus/test_rabbitmq.py": 45},
    **{"clients/test_models.py": 12, "clients/test_python_hostile.py": 12, "clients/test_python_readme.py": 45},
    **{"clients/test_python_verbs.py": 25, "clients/test_typescript_client.py": 60},
    **{"e2e/test_canaries.py": 20, "e2e/test_cli_import.py": 12, "e2e/test_cluster.py": 40, "e2e/test_demo.py": 20},
    **{"e2e/test_demo_wired.py": 14, "e2e/test_dropin_reads.py": 18, "e2e/test_handshakes.py": 15},
    **{
        "e2e/test_every_sample.py": 40,
        "e2e/test_hostile_endpoints.py": 12,
        "e2e/test_independent_eyes.py": 11,
        "e2e/test_kill_create_points.py": 14,
    },
    **{"e2e/test_kill_points.py": 24, "e2e/test_kill_probe_points.py": 28},
    **{"e2e/test_kill_pull_points.py": 13, "e2e/test_kill_rotation_points.py": 17, "e2e/test_power_loss.py": 12},
    **{"e2e/test_random_operations.py": 16, "e2e/test_recipes.py": 25},
    **{"e2e/test_rotation.py": 13, "e2e/test_socket_activation.py": 26, "e2e/test_sqlite_guide.py": 17},
    **{"e2e/test_stalls.py": 20, "e2e/test_troubles_creates.py": 43, "e2e/test_troubles_database.py": 23},
    **{"e2e/test_traces.py": 35},
    **{"e2e/test_troubles_process.py": 29, "e2e/test_troubles_settings.py": 20, "e2e/test_troubles_sink.py": 25},
    **{"simulation/test_dispatcher_life.py": 11},
    **{"simulation/test_hostile_sink.py": 13},
    **{"simulation/test_planner_simulation.py": 20, "simulation/test_subscription_life.py": 12},
    **{"store/test_ledger_crashes.py": 11, "store/test_store_migrations.py": 14, "store/test_store_pages.py": 13},
    **{"store/test_store_registration.py": 20, "store/test_store_replays.py": 13},
    **{"subscribers/test_conformance.py": 15, "unit/http/test_sender.py": 12},
    **{"unit/cli/test_cli_check_postgres.py": 20, "unit/server/test_http_protocol.py": 15},
    **{"packaging/test_image.py": 170, "packaging/test_compose.py": 20},
    **{"packaging/test_bench_against.py": 15, "packaging/test_chart.py": 150, "packaging/test_deploy_nginx.py": 15},
    **{"packaging/test_board.py": 15, "packaging/test_site.py": 30},
    **{
        "packaging/test_deploy_systemd.py": 12,
        "packaging/test_release.py": 30,
        "packaging/test_upgrade.py": 12,
        "packaging/test_wheel.py": 12,
    },
}
"""Files that take more than ten seconds on two processors."""
OTHERS_SECONDS = 3


def folders_from(collected: Iterable[Path], worker: int, workers: int) -> list[Path]:
    """The folders of the tests in the order in which this worker collects them: each begins elsewhere. In a fresh
    checkout a worker then compiles what no other compiles at that moment, and reads what the others have compiled."""
    folders = sorted(folder for folder in collected if any(folder.rglob("test_*.py")))
    first = worker * len(folders) // workers
    return folders[first:] + folders[:first]


def starts(files: Iterable[str]) -> dict[str, float]:
    """When each file begins, as a share of the run: the longest first, since a long file that begins last keeps one
    worker busy while the others have nothing to do; and waiting tests beside computing ones, which use the processors
    meanwhile."""
    groups: dict[bool, list[str]] = defaultdict(list)
    for file in sorted(files):
        groups[file.partition("/")[0] in WAITING].append(file)
    begun: dict[str, float] = {}
    for group in groups.values():
        group.sort(key=_seconds, reverse=True)
        ends = list(itertools.accumulate(map(_seconds, group)))
        begun |= {file: (end - _seconds(file)) / ends[-1] for file, end in zip(group, ends, strict=True)}
    return begun


def sort_items(items: list[pytest.Item], tests: Path) -> None:
    """Sorts tests by the start of their file. Those of one file keep their order."""
    files = {item.path: item.path.relative_to(tests).as_posix() for item in items if item.path.is_relative_to(tests)}
    begun = starts(set(files.values()))
    items.sort(key=lambda item: (begun.get(files.get(item.path, ""), 1.0), str(item.path)))


def _seconds(file: str) -> int:
    return SECONDS.get(file, OTHERS_SECONDS)
