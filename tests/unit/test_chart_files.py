"""The generated files of the Helm chart are those that the relay's settings and the rules of Prometheus ask for."""

import runpy
from pathlib import Path

import yaml

import relay

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "revor-relay"


def test_generated_files_of_the_chart_are_current() -> None:
    """`python .ci/chart.py` writes them."""
    program = runpy.run_path(str(ROOT / ".ci" / "chart.py"))
    assert list(map(str, program["stale"]())) == [], "run `python .ci/chart.py` and commit what it writes"


def test_chart_has_the_version_of_the_relay() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == relay.__version__
