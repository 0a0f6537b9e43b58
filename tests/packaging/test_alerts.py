"""The alert rules in `deploy/`: each names metrics that exist, fires when it should and only then, and leads to a
runbook. `promtool` is Prometheus' own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.core.events.event import RELAY_EVENTS
from tests.support.monitoring import ALERTS as RULES
from tests.support.monitoring import ROOT, promtool, rules, wrong_names

PRODUCTION = ROOT / "docs" / "operate" / "production.md"
RULES_BY_NAME = {rule["alert"]: rule for rule in rules(RULES)}


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_every_metric_and_label_exists(name: str) -> None:
    expression = RULES_BY_NAME[name]["expr"]
    assert wrong_names(expression) == []
    assert set(re.findall(r'job="([^"]+)"', expression)) <= {scraped_job()}
    for event in re.findall(r'type="([^"]+)"', expression):
        assert event in RELAY_EVENTS


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_every_alert_says_what_it_means_and_leads_to_its_runbook(name: str) -> None:
    rule = RULES_BY_NAME[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert rule["annotations"]["summary"].endswith(".")
    runbook = re.search(rf"^### {name}\n\n(.+)$", PRODUCTION.read_text(encoding="utf-8"), re.MULTILINE)
    assert runbook is not None, f"docs/operate/production.md has no runbook of {name}"
    assert len(runbook[1]) > 80


def test_every_runbook_has_its_alert() -> None:
    assert set(re.findall(r"^### (Relay\w+)$", PRODUCTION.read_text(encoding="utf-8"), re.MULTILINE)) == set(
        RULES_BY_NAME
    )


def scraped_job() -> str:
    """The job under which docs/operate/metrics.md scrapes a node."""
    text = (ROOT / "docs" / "operate" / "metrics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```", text, re.MULTILINE | re.DOTALL)
    (job,) = yaml.safe_load(block)["scrape_configs"]
    return str(job["job_name"])


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(RULES_BY_NAME)} rules found" in promtool("check", "rules", str(RULES))


JOB, ACCOUNT = 'job="revor-relay",instance="127.0.0.1:8080"', 'source="revor",account="default"'
_ACCOUNT = {"source": "revor", "account": "default"}
FIRES: dict[str, tuple[dict[str, str], str, dict[str, str], str]] = {
    "RelayDown": (
        {f"up{{{JOB}}}": "1x5 0x20", 'up{job="revor-relay",instance="127.0.0.1:8081"}': "1x25"},
        "8m",
        {"job": "revor-relay", "instance": "127.0.0.1:8080"},
        "127.0.0.1:8080 does not answer. No job is polled by this node.",
    ),
    "RelayPollingStalled": (
        {f"relay_polling_stalled{{{ACCOUNT},{JOB}}}": "1x20", 'relay_polling_stalled{source="b",account="c"}': "0x20"},
        "6m",
        _ACCOUNT,
        "Polls of revor/default are due, and none completes.",
    ),
    "RelaySourceDown": (
        {f"relay_source_up{{{ACCOUNT},{JOB}}}": "0x20", f'relay_source_up{{{ACCOUNT},instance="b"}}': "1x20"},
        "6m",
        _ACCOUNT,
        "revor/default rejects the key or is down.",
    ),
    "RelayCreateUnknown": (
        {f"relay_intents_unknown{{{JOB}}}": "2x20"},
        "6m",
        {},
        "2 creates may or may not have been carried out. Do not repeat them unchecked.",
    ),
    "RelayEventsLate": (
        {f"relay_oldest_pending_seconds{{{JOB}}}": "7200x30"},
        "11m",
        {},
        "An event has been waiting for 2h 0m 0s.",
    ),
    "RelayServerErrors": (
        {
            f'relay_http_requests_total{{status="2xx",{JOB}}}': "0+90x20",
            f'relay_http_requests_total{{status="5xx",{JOB}}}': "0+10x20",
        },
        "12m",
        {},
        "10% of the API's answers are 5xx.",
    ),
    "RelayBacklogGrows": (
        {f"relay_deliveries_pending{{{JOB}}}": "2000+100x60"},
        "40m",
        {},
        "6000 deliveries are pending, and their number grows.",
    ),
    "RelaySubscriptionDisabled": (
        {
            f'relay_deliveries_held{{by="disabled",{JOB}}}': "3x30",
            f'relay_deliveries_held{{by="paused",{JOB}}}': "9x30",
        },
        "20m",
        {},
        "3 deliveries wait for disabled subscriptions.",
    ),
    "RelayDeliveriesDead": (
        {f'relay_events_total{{type="relay.delivery.expired",{JOB}}}': "0x30 4x60"},
        "60m",
        {},
        "4 deliveries failed at every attempt within the last hour.",
    ),
    "RelayDeliveriesUncertain": (
        {f"relay_deliveries_uncertain{{{JOB}}}": "5x5"},
        "1m",
        {},
        "5 records in a CRM may or may not have been written.",
    ),
    "RelayCreditsLow": (
        {
            **{f"relay_credits_available{{{ACCOUNT},{JOB}}}": "120x5", f"relay_credits_low{{{ACCOUNT},{JOB}}}": "1x5"},
            'relay_credits_available{source="b",account="c"}': "9x5",
            'relay_credits_low{source="b",account="c"}': "0x5",
        },
        "1m",
        _ACCOUNT,
        "revor/default has 120 credits left.",
    ),
    "RelayStatusesLate": (
        {
            f'relay_detection_delay_seconds_bucket{{le="{le}",class="other",{ACCOUNT},{JOB}}}': f"0+{count}x60"
            for le, count in (("60", 0), ("120", 10), ("+Inf", 10))
        },
        "40m",
        _ACCOUNT,
        "Ends of jobs of revor/default are known 1m 57s late.",
    ),
    "RelayDatabaseGrows": (
        {f"relay_database_bytes{{{JOB}}}": "2000000000+1000000x240"},
        "180m",
        {},
        "The database will have doubled in a week. It has 11.42GiB then.",
    ),
}
"""What Prometheus has scraped each minute, when the alert fires, its labels and its summary."""
QUIET: dict[str, dict[str, str]] = {
    "a relay that is well": {
        f"up{{{JOB}}}": "1x240",
        f"relay_polling_stalled{{{ACCOUNT},{JOB}}}": "0x240",
        f"relay_source_up{{{ACCOUNT},{JOB}}}": "1x240",
        f"relay_intents_unknown{{{JOB}}}": "0x240",
        f"relay_oldest_pending_seconds{{{JOB}}}": "3x240",
        f'relay_http_requests_total{{status="2xx",{JOB}}}': "0+90x240",
        f'relay_http_requests_total{{status="5xx",{JOB}}}': "0x240",
        f"relay_deliveries_pending{{{JOB}}}": "500+1x240",
        f'relay_deliveries_held{{by="disabled",{JOB}}}': "0x240",
        f'relay_events_total{{type="relay.delivery.expired",{JOB}}}': "7x240",
        f"relay_deliveries_uncertain{{{JOB}}}": "0x240",
        f"relay_credits_available{{{ACCOUNT},{JOB}}}": "120x240",
        f"relay_credits_low{{{ACCOUNT},{JOB}}}": "0x240",
        f'relay_detection_delay_seconds_bucket{{le="60",class="other",{ACCOUNT},{JOB}}}': "0+10x240",
        f'relay_detection_delay_seconds_bucket{{le="+Inf",class="other",{ACCOUNT},{JOB}}}': "0+10x240",
        f"relay_database_bytes{{{JOB}}}": "2000000000+1000x240",
    },
    "a backlog that shrinks, and a restart": {
        f"up{{{JOB}}}": "1x5 0 1x240",
        f"relay_deliveries_pending{{{JOB}}}": "9000-20x240",
        f'relay_events_total{{type="relay.delivery.expired",{JOB}}}': "7x20 0x220",
    },
}


def run_rule_tests(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Runs unit tests of the rules. JSON is YAML."""
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    path = folder / "alerts.test.yml"
    path.write_text(json.dumps(document), encoding="utf-8")
    promtool("test", "rules", str(path))


def rule_test(series: dict[str, str], expected: list[Any]) -> dict[str, Any]:
    scraped = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": scraped, "alert_rule_test": expected}


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_alert_fires(name: str, tmp_path: Path) -> None:
    series, at, labels, summary = FIRES[name]
    rule = RULES_BY_NAME[name]
    annotations = {**rule["annotations"], "summary": summary}
    alert = {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations}
    expected: list[Any] = [{"eval_time": "0m", "alertname": name, "exp_alerts": []}] if "for" in rule else []
    expected.append({"eval_time": at, "alertname": name, "exp_alerts": [alert]})
    run_rule_tests(tmp_path, [rule_test(series, expected)])


@pytest.mark.parametrize("what", QUIET)
def test_no_alert_fires_for(what: str, tmp_path: Path) -> None:
    times = ("1m", "7m", "30m", "70m", "239m")
    quiet = [{"eval_time": at, "alertname": name, "exp_alerts": []} for name in RULES_BY_NAME for at in times]
    run_rule_tests(tmp_path, [rule_test(QUIET[what], quiet)])


def test_relay_that_is_scraped_under_another_name_is_an_alert(tmp_path: Path) -> None:
    rule = RULES_BY_NAME["RelayDown"]
    annotations = {**rule["annotations"], "summary": "Prometheus scrapes no job named revor-relay."}
    alert = {"exp_labels": {"severity": "page", "job": scraped_job()}, "exp_annotations": annotations}
    expected = [{"eval_time": "5m", "alertname": "RelayDown", "exp_alerts": [alert]}]
    run_rule_tests(tmp_path, [rule_test({'up{job="relay",instance="127.0.0.1:8080"}': "1x20"}, expected)])
