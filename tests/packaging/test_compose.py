"""compose.yaml: valid, closed, and every file that it mounts is there and means something to its program."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from relay.config.keyring import new_key
from relay.config.settings import load_settings
from tests.packaging.test_alerts import promtool, scraped_job
from tests.support.go_programs import go_program
from tests.support.lock import ROOT

VALIDATOR = "github.com/compose-spec/compose-go/v2/cmd@v2.9.1"
"""The loader of Docker Compose, with the schema of the specification."""
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BY_IMAGE = {"relay"}
"""Services whose image has a health check."""


def mounts(service: str) -> dict[str, str]:
    """The files and folders of the repository in a service: where they are in it, by their path."""
    found = (each.split(":") for each in SERVICES[service].get("volumes", ()))
    return {source.removeprefix("./"): target for source, target, *_ in found if source.startswith("./")}


def test_compose_takes_it() -> None:
    ran = subprocess.run([go_program(VALIDATOR), "compose.yaml"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(yaml.safe_load(ran.stdout)["services"]) == set(SERVICES)


def test_each_image_names_its_registry_or_is_built_here() -> None:
    """Podman knows no default registry. `compose up` builds none: its image would not name its commit."""
    images = {service["image"] for name, service in SERVICES.items() if name not in ("relay", "migrate")}
    images |= set(re.findall(r"^ARG BASE=(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(images) == 4
    assert all(re.fullmatch(r"docker\.io/[\w-]+/[\w-]+:[\w.-]+", image) for image in images), images
    for name in ("relay", "migrate"):
        assert (SERVICES[name]["image"], SERVICES[name]["pull_policy"]) == ("revor-relay", "never")
        assert "build" not in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "healthcheck" in service or name in BY_IMAGE
    given = {key: value for key, value in service.get("environment", {}).items() if re.search("PASSWORD|TOKEN", key)}
    assert all(value.startswith("/run/secrets/") for value in given.values())


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there(name: str) -> None:
    assert all((ROOT / path).exists() for path in mounts(name))
    named = {each.partition(":")[0] for each in SERVICES[name].get("volumes", ())}
    assert {each for each in named if not each.startswith("./")} <= set(COMPOSE["volumes"])
    assert set(SERVICES[name].get("secrets", ())) <= set(COMPOSE["secrets"])


def test_settings_of_the_relay_are_valid(tmp_path: Any) -> None:
    """Each secret that they name is given to the service. Commands in it send the admin token."""
    text = (ROOT / "deploy" / "compose" / "relay.yaml").read_text(encoding="utf-8")
    variables = SERVICES["relay"]["environment"]
    named = set(re.findall(r"/run/secrets/([\w-]+)", text + json.dumps(variables)))
    assert named == set(SERVICES["relay"]["secrets"]) == set(SERVICES["migrate"]["secrets"])
    values = {"database-url": "postgresql://relay:secret@postgres/relay", "encryption-key": new_key()}
    for name in named:
        (tmp_path / name).write_text(values.get(name, f"0123456789abcdefghijklmnopqrstuvwxyz-{name}"))
    (tmp_path / "relay.yaml").write_text(text.replace("/run/secrets", str(tmp_path)))
    here = {name: value.replace("/run/secrets", str(tmp_path)) for name, value in variables.items()}
    settings = load_settings(tmp_path / "relay.yaml", here, dev=False)
    scopes = {token.name: token.scopes for token in settings.auth.tokens}
    assert scopes == {"RELAY_TOKEN_FILE": ("admin",), "prometheus": ("metrics",)}


def test_prometheus_takes_its_configuration(tmp_path: Any) -> None:
    places = {target: ROOT / path for path, target in mounts("prometheus").items()}
    text = places.pop("/etc/prometheus/prometheus.yml").read_text(encoding="utf-8")
    (scraped,) = yaml.safe_load(text)["scrape_configs"]
    assert scraped["job_name"] == scraped_job()
    for target, path in places.items():
        assert target in text
        text = text.replace(target, str(path))
    (tmp_path / "metrics-token").write_text("token")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets", str(tmp_path)))
    assert promtool("check", "config", str(tmp_path / "prometheus.yml")).count(" rules found") == len(places)


def test_grafana_shows_the_board() -> None:
    places = {target: ROOT / path for path, target in mounts("grafana").items()}
    (source,) = yaml.safe_load(places["/etc/grafana/provisioning/datasources/revor-relay.yaml"].read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load(places["/etc/grafana/provisioning/dashboards/revor-relay.yaml"].read_text())[
        "providers"
    ]
    assert source["isDefault"], "the board asks the default source"
    assert source["url"] == "http://prometheus:9090"
    folder = provider["options"]["path"]
    first = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (places[folder] / first.removeprefix(f"{folder}/")).is_file()
