"""Prometheus itself reads the board's expressions and the recording rules, and computes what they say."""

import asyncio
import json
from pathlib import Path

import yaml

from tests.support.board_world import EMPTY, PATIENCE_SECONDS, open_board_world, without_series, work
from tests.support.monitoring import ALERTS, RECORDING, filled, panels, promtool, recorded

ACCOUNT = 'source="revor",account="default"'


def test_prometheus_parses_every_expression_of_the_board(tmp_path: Path) -> None:
    expressions = [filled(expression, "5m") for panel in panels() for expression in panel.expressions]
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    assert f"{len(expressions)} rules found" in promtool("check", "rules", "--lint-fatal", str(file))


def test_prometheus_takes_the_recording_rules_beside_the_alerts() -> None:
    said = promtool("check", "rules", "--lint-fatal", str(RECORDING), str(ALERTS))
    assert f"{len(recorded())} rules found" in said


def test_recording_rules_compute_what_their_names_say(tmp_path: Path) -> None:
    buckets = {"60": "0+30x60", "120": "0+60x60", "+Inf": "0+60x60"}
    input_series = [
        {
            "series": f'relay_detection_delay_seconds_bucket{{le="{le}",class="{kind}",instance="{node}",{ACCOUNT}}}',
            "values": values,
        }
        for le, values in buckets.items()
        for kind in ("outreach.dispatch/email", "other")
        for node in ("a", "b")
    ]
    input_series += [{"series": f'relay_database_bytes{{instance="{node}"}}', "values": "1000+60x60"} for node in "ab"]
    level = "source_account_le:relay_detection_delay_seconds_bucket:rate15m"
    expected = [
        {"expr": f'{level}{{le="60"}}', "exp_samples": [{"labels": f'{level}{{le="60",{ACCOUNT}}}', "value": 2}]},
        {
            "expr": f"histogram_quantile(0.5, {level})",
            "exp_samples": [{"labels": f"{{{ACCOUNT}}}", "value": 60}],
        },
        {
            "expr": ":relay_database_bytes:max_predict_linear1d",
            "exp_samples": [{"labels": ":relay_database_bytes:max_predict_linear1d", "value": 1000 + 3600 + 604800}],
        },
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": input_series,
            "promql_expr_test": [{**one, "eval_time": "60m"} for one in expected],
        }
    ]
    file = tmp_path / "recording.test.yml"
    document = {"rule_files": [str(RECORDING)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(json.dumps(document), encoding="utf-8")
    promtool("test", "rules", str(file))


async def test_every_panel_finds_what_a_running_relay_does(tmp_path: Path) -> None:
    async with open_board_world(tmp_path) as (loader, prometheus), asyncio.timeout(PATIENCE_SECONDS):
        while empty := {*await without_series(prometheus)} - {*EMPTY}:
            print("nothing yet for", empty)
            await work(loader)
            await asyncio.sleep(1)  # Prometheus scrapes every second
    assert {*EMPTY} < {panel.title for panel in panels()}
