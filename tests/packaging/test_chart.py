"""The Helm chart, rendered with each of `deploy/helm/ci/NAME.yaml` by helm itself.

What it renders is in `NAME.rendered.yaml` beside the values (`UPDATE_SNAPSHOTS=1 pytest tests/packaging/test_chart.py`
writes them), fits the published schemas of Kubernetes 1.29 to 1.37, keeps to the restricted pod security standard, and
has a relay.yaml that the relay starts with. Values that cannot work are refused with one line that names them.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import relay
from relay.cli.node.serve import ALWAYS_SERVED, SettingsSource, read_roles
from relay.config.fields import decode_encryption_key
from relay.config.keyring import new_key
from relay.config.settings import Settings
from relay.core.subscriptions.signing import new_secret
from tests.support.environments import artefacts_python
from tests.support.go_programs import (
    GATEWAY_API,
    HELM,
    KUBECTL_VALIDATE,
    PROMETHEUS_OPERATOR,
    go_module,
    go_program,
)
from tests.support.lock import ROOT
from tests.support.postgres_server import shared_server
from tests.support.process_world import Start
from tests.support.scale import SOAK
from tests.support.typed import blocks, prompts

CHART = ROOT / "deploy" / "helm" / "revor-relay"
CI = ROOT / "deploy" / "helm" / "ci"
CASES = sorted(path.stem for path in CI.glob("*.yaml") if not path.stem.endswith(".rendered"))
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
RELEASE, NAMESPACE = "relay", "integrations"
SECRETS = "/run/secrets/revor-relay"
NEWEST_OF_KUBECTL_VALIDATE = "1.30"
HELM_SECONDS = 120.0
UPDATE = os.environ.get("UPDATE_SNAPSHOTS") == "1"
FIRST = {"helm.sh/hook": "pre-install,pre-upgrade"}
"""What is created before anything else of the chart."""

Document = Mapping[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in (go_program(HELM), *arguments)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HELM_SECONDS)


def template(values: Path, *options: str) -> subprocess.CompletedProcess[str]:
    at = ("--namespace", NAMESPACE, "--kube-version", VERSIONS[0])
    return helm("template", RELEASE, CHART, "--values", values, *at, *options)


@cache
def rendered() -> Mapping[str, str]:
    """What helm makes of each case."""
    go_program(HELM)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = dict(zip(CASES, pool.map(lambda case: template(CI / f"{case}.yaml"), CASES), strict=True))
    for case, ran in runs.items():
        assert ran.returncode == 0, f"{case}: {ran.stderr}"
    return {case: ran.stdout for case, ran in runs.items()}


@cache
def documents(case: str) -> Sequence[Document]:
    return [document for document in yaml.safe_load_all(rendered()[case]) if document]


def of_kind(case: str, kind: str) -> list[Document]:
    return [document for document in documents(case) if document["kind"] == kind]


def one(case: str, kind: str) -> Document:
    (found,) = of_kind(case, kind)
    return found


def pods(case: str) -> Iterator[tuple[str, Document, Document]]:
    """The object, labels and specification of every pod."""
    for document in documents(case):
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document["metadata"]["labels"], document["spec"]
        elif document["kind"] in ("Deployment", "StatefulSet", "Job"):
            made = document["spec"]["template"]
            yield name, made["metadata"]["labels"], made["spec"]


def nodes(case: str) -> Iterator[tuple[str, Document, Document]]:
    return ((name, labels, spec) for name, labels, spec in pods(case) if labels[NAME_LABEL] == "revor-relay")


NAME_LABEL = "app.kubernetes.io/name"


# --- what is rendered


@pytest.mark.parametrize("case", CASES)
def test_chart_renders_what_its_snapshot_has(case: str) -> None:
    """The version, and the alert rules, which other tests compare, are left out."""
    text = rendered()[case].replace(relay.__version__, "VERSION")
    text = re.sub(
        r"(kind: PrometheusRule\n(?:.*\n)*?  groups:\n)(?:    .*\n|\n)*", r"\1    # deploy/alerts.yml\n", text
    )
    snapshot = CI / f"{case}.rendered.yaml"
    if UPDATE:
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8"), "read the difference, then write it with UPDATE_SNAPSHOTS=1"


def test_no_snapshot_is_left_over() -> None:
    assert {path.name for path in CI.glob("*.rendered.yaml")} == {f"{case}.rendered.yaml" for case in CASES}


def test_chart_renders_the_same_for_every_version_of_kubernetes() -> None:
    for case in ("default", "roles-spread"):
        newest = template(CI / f"{case}.yaml", "--kube-version", VERSIONS[-1])
        assert newest.stdout == rendered()[case]


def test_helm_finds_no_fault_with_any_of_the_values() -> None:
    for case in CASES:
        ran = helm("lint", "--strict", "--quiet", CHART, "--values", CI / f"{case}.yaml", "--kube-version", VERSIONS[0])
        assert ran.returncode == 0, f"{case}: {ran.stdout}{ran.stderr}"


def custom_definitions() -> list[Path]:
    """The definitions of the kinds that are not Kubernetes' own."""
    operator = go_module(PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
    gateway = go_module(GATEWAY_API) / "config" / "crd" / "standard"
    return [
        operator / "monitoring.coreos.com_servicemonitors.yaml",
        operator / "monitoring.coreos.com_prometheusrules.yaml",
        gateway / "gateway.networking.k8s.io_httproutes.yaml",
    ]


def test_every_object_fits_the_published_schemas() -> None:
    """Objects that several cases share are checked once."""
    found: dict[str, Document] = {}
    for case in CASES:
        for document in documents(case):
            where = f"{case}: {document['kind']}/{document['metadata']['name']}"
            found.setdefault(json.dumps(document, sort_keys=True), {"where": where, "document": document})
    given = {
        "documents": list(found.values()),
        "versions": VERSIONS,
        "crds": [str(path) for path in custom_definitions()],
    }
    program = [str(artefacts_python()), str(ROOT / "tests" / "support" / "validate_manifests.py")]
    ran = subprocess.run(program, input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


@pytest.mark.skipif(not SOAK, reason="make soak builds kubectl-validate, which takes minutes")
@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_validate_finds_no_fault(version: str, tmp_path: Path) -> None:
    """By the code of Kubernetes' own API server. The newest version's schemas are those of its source."""
    program = go_program(KUBECTL_VALIDATE)
    (tmp_path / "crds").mkdir()
    for path in custom_definitions():
        (tmp_path / "crds" / path.name).write_bytes(path.read_bytes())
    options = ["--version", NEWEST_OF_KUBECTL_VALIDATE, "--local-crds", str(tmp_path / "crds")]
    if version > NEWEST_OF_KUBECTL_VALIDATE:
        published = go_module(f"k8s.io/kubernetes@v{version}.0") / "api" / "openapi-spec" / "v3"
        for path in published.glob("*__v*_openapi.json"):
            *folders, name = path.name.removesuffix("_openapi.json").split("__")
            place = tmp_path / "schemas" / "/".join(folders) / f"{name}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
        options += ["--local-schemas", str(tmp_path / "schemas")]
    else:
        options[1] = version
    for case, text in rendered().items():
        (tmp_path / f"{case}.yaml").write_text(text, encoding="utf-8")
    command = [str(program), *(str(tmp_path / f"{case}.yaml") for case in CASES), *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HELM_SECONDS)
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"


# --- pods


def _context(spec: Document) -> Document:
    found: Document = spec["securityContext"]
    return found


RESTRICTED = {
    "no container runs as root": lambda pod: _context(pod)["runAsNonRoot"] is True,
    "system calls are filtered": lambda pod: _context(pod)["seccompProfile"] == {"type": "RuntimeDefault"},
    "nothing of the machine is shared": lambda pod: not {"hostNetwork", "hostPID", "hostIPC"} & set(pod),
    "no token of the cluster is there": lambda pod: pod["automountServiceAccountToken"] is False,
    "no other container is there": lambda pod: len(pod["containers"]) == 1 and "initContainers" not in pod,
    "volumes are of restricted kinds": lambda pod: (
        {kind for one in pod["volumes"] for kind in set(one) - {"name"}}
        <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
    ),
    "the root is read-only": lambda pod: _context(pod["containers"][0])["readOnlyRootFilesystem"] is True,
    "no rights are gained": lambda pod: _context(pod["containers"][0])["allowPrivilegeEscalation"] is False,
    "no capability is left": lambda pod: _context(pod["containers"][0])["capabilities"] == {"drop": ["ALL"]},
    "no port of the machine is taken": lambda pod: all(
        "hostPort" not in port for port in pod["containers"][0].get("ports", ())
    ),
    "/tmp can be written": lambda pod: "/tmp" in {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]},
    "memory is bounded": lambda pod: "memory" in pod["containers"][0]["resources"]["limits"],
    "no secret is written out": lambda pod: all(
        one["name"] in OWN_VARIABLES or "value" not in one or one in EXTRA_ENV
        for one in pod["containers"][0].get("env", ())
    ),
}
OWN_VARIABLES = (
    "DATABASE_URL",
    "RELAY_TOKEN_FILE",
    "RELAY_URL",
    "XDG_STATE_HOME",
    "RELAY_SERVER__HOST",
    "RELAY_SERVER__PORT",
)
EXTRA_ENV = [
    variable
    for case in CASES
    for variable in yaml.safe_load((CI / f"{case}.yaml").read_text(encoding="utf-8")).get("extraEnv", ())
]


@pytest.mark.parametrize("rule", RESTRICTED)
def test_every_pod_keeps_to_the_restricted_standard(rule: str) -> None:
    for case in CASES:
        for name, _, spec in pods(case):
            assert RESTRICTED[rule](spec), f"{case}: {name}"


def test_pods_run_as_the_user_of_the_image_unless_the_cluster_chooses() -> None:
    for case in CASES:
        for name, _, spec in pods(case):
            ids = {_context(spec).get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")}
            assert ids == ({None} if case == "openshift" else {65532}), f"{case}: {name}"


def test_nodes_are_probed_where_the_relay_answers() -> None:
    for case in CASES:
        for _, _, spec in nodes(case):
            container = spec["containers"][0]
            probes = {key: container[key]["httpGet"] for key in container if key.endswith("Probe")}
            assert set(probes) == {"startupProbe", "livenessProbe", "readinessProbe"}
            assert {probe["path"] for probe in probes.values()} <= set(ALWAYS_SERVED)
            assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["name"]}


def test_nodes_get_the_time_that_they_need_to_stop() -> None:
    for case in CASES:
        values = yaml.safe_load((CI / f"{case}.yaml").read_text(encoding="utf-8"))
        server = values.get("settings", {}).get("server", {})
        stop = server.get("shutdown_seconds", Settings().server.shutdown_seconds)
        for _, _, spec in nodes(case):
            grace = spec["terminationGracePeriodSeconds"]
            assert grace >= 3 * stop + values.get("preStopSeconds", 5)


def test_relay_yaml_of_the_image_decides_nothing() -> None:
    """Its variables would win over relay.yaml of the chart, and its relay.yaml is in the working directory."""
    for case in CASES:
        for name, labels, spec in pods(case):
            container = spec["containers"][0]
            if labels[NAME_LABEL] == "revor-relay":
                assert "--config=/etc/revor-relay/relay.yaml" in container["args"]
                variables = {one["name"]: one.get("value") for one in container["env"]}
                assert (variables["RELAY_SERVER__HOST"], variables["RELAY_SERVER__PORT"]) == ("", ""), name
            else:
                assert container["workingDir"] == "/tmp", f"{case}: {name}"


def test_only_one_node_uses_sqlite() -> None:
    for case in CASES:
        sets = of_kind(case, "StatefulSet")
        assert [one["spec"]["replicas"] for one in sets] in ([], [1])
        assert bool(sets) != bool(of_kind(case, "Deployment"))


def test_every_selector_finds_its_pods_and_no_others() -> None:
    for case in CASES:
        all_pods = {name: labels for name, labels, _ in pods(case)}
        of_nodes = {name for name, _, _ in nodes(case)}
        of_api = {name for name in of_nodes if all_pods[name]["app.kubernetes.io/component"] in ("node", "api")}
        for document in documents(case):
            name, spec = document["metadata"]["name"], document.get("spec", {})
            if document["kind"] == "Service":
                chosen, expected = spec["selector"], of_nodes if name.endswith("-nodes") else of_api
            elif document["kind"] in ("Deployment", "StatefulSet"):
                chosen, expected = spec["selector"]["matchLabels"], {f"{document['kind']}/{name}"}
            elif document["kind"] == "PodDisruptionBudget":
                chosen, expected = spec["selector"]["matchLabels"], {f"Deployment/{name}"}
            else:
                continue
            found = {pod for pod, labels in all_pods.items() if chosen.items() <= labels.items()}
            assert found == expected, f"{case}: {document['kind']}/{name}"


def test_each_role_runs_somewhere() -> None:
    for case in CASES:
        roles = [
            role
            for _, _, spec in nodes(case)
            for argument in spec["containers"][0]["args"]
            if argument.startswith("--roles=")
            for role in read_roles(argument.removeprefix("--roles="))
        ]
        assert roles == (["api", "scheduler", "dispatcher"] if case.startswith("roles") else [])


def test_migration_needs_nothing_that_the_chart_creates() -> None:
    """It runs before the first install. Your Secret and what `extraVolumes` names exist by then."""
    made_first = 0
    for case in CASES:
        created = {(one["kind"], one["metadata"]["name"]) for one in documents(case)}
        for job in of_kind(case, "Job"):
            made_first += 1
            assert FIRST.items() <= job["metadata"]["annotations"].items()
            spec = job["spec"]["template"]["spec"]
            assert ("ServiceAccount", spec.get("serviceAccountName", "default")) not in created
            text = json.dumps(spec["volumes"])
            assert not any(json.dumps(name) in text for kind, name in created if kind in ("ConfigMap", "Secret"))
    assert made_first >= 5


def test_migration_reads_the_secret_as_nodes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that ends with a newline, or names a certificate in the Secret, is right for both or for neither."""
    monkeypatch.chdir(tmp_path)
    for case in CASES:
        for job in of_kind(case, "Job"):
            spec = job["spec"]["template"]["spec"]
            _, _, node = next(nodes(case))
            secrets = [[one for one in pod["volumes"] if one["name"] == "secret"] for pod in (spec, node)]
            assert secrets[0] == secrets[1], case
            _, variables = mounted(case, spec, tmp_path)
            with monkeypatch.context() as patch:
                patch.setenv("DATABASE_URL", variables["DATABASE_URL"])
                settings = SettingsSource(path=None).load()
            assert settings.database.url == values_of(set())["database-url"], case


def test_chart_creates_no_secret() -> None:
    assert [case for case in CASES if of_kind(case, "Secret")] == []


# --- relay.yaml


def values_of(keys: set[str]) -> dict[str, str]:
    """A text for each key of the Secret, of the right form."""
    known = {
        "database-url": "postgresql://relay:secret@postgres/relay",
        "heartbeat-url": "https://hc.example/ping/1",
        "egress-proxy": "http://relay:secret@10.1.2.3:3128",
        "crm-webhook": new_secret(bytes(range(32))),
    }
    made = {key: f"{key}-0123456789abcdefghijklmnopqrstuv" for key in keys}
    return {**made, **{key: new_key() for key in keys if key.startswith("encryption")}, **known}


def mounted(case: str, spec: Document, folder: Path) -> tuple[Path, dict[str, str]]:
    """The settings file and the variables of a pod, with the folder of its secrets in `folder`."""
    text = one(case, "ConfigMap")["data"]["relay.yaml"]
    container = spec["containers"][0]
    variables = {
        variable["name"]: variable.get("value", "of-a-secret-0123456789abcdefghijkl")
        for variable in container.get("env", ())
    }
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    named = set(re.findall(rf"{SECRETS}/([\w.-]+)", text + json.dumps(variables)))
    for key, value in values_of(named).items():
        (secrets / key).write_text(f"{value}\n", encoding="utf-8")
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "secret")
    assert mount["mountPath"] == SECRETS
    file = folder / "relay.yaml"
    file.write_text(text.replace(SECRETS, str(secrets)), encoding="utf-8")
    return file, {name: value.replace(SECRETS, str(secrets)) for name, value in variables.items()}


@pytest.mark.parametrize("case", CASES)
def test_relay_accepts_the_settings_that_the_chart_writes(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("RELAY_", "REVOR_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    for _, _, spec in nodes(case):
        file, variables = mounted(case, spec, tmp_path)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            settings = SettingsSource(path=file).load()
        assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8080)
        expected = "postgresql:" if of_kind(case, "Deployment") else "sqlite:////var/lib/revor-relay/"
        assert settings.database.url.startswith(expected)
        assert settings.encryption.keys
        assert any("admin" in token.scopes for token in settings.auth.tokens)
        accounts = [account for source in settings.sources.values() for account in source.accounts.values()]
        assert accounts
        assert all(account.api_key for account in accounts)


def test_host_of_the_ingress_is_the_public_url() -> None:
    for case in ("ingress-tls", "httproute", "single-sign-on"):
        settings = yaml.safe_load(one(case, "ConfigMap")["data"]["relay.yaml"])
        assert settings["server"]["public_url"] == "https://relay.example.com"


def test_changed_settings_replace_the_pods() -> None:
    sums = {
        case: one(case, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/relay.yaml"]
        for case in ("default", "sqlite-large", "sqlite-storage-class")
    }
    assert sums["default"] == sums["sqlite-storage-class"] != sums["sqlite-large"]


def test_node_of_the_chart_starts_and_is_ready(start: Start, tmp_path: Path) -> None:
    """With its own arguments, variables and files; only the folders are others. It writes to the volume alone."""
    ((_, _, spec),) = nodes("default")
    file, variables = mounted("default", spec, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    text = file.read_text(encoding="utf-8").replace("/var/lib/revor-relay", str(data))
    file.write_text(text.replace("port: 8080", "port: 0"), encoding="utf-8")
    arguments = [one.replace("/etc/revor-relay/relay.yaml", str(file)) for one in spec["containers"][0]["args"]]
    assert variables["XDG_STATE_HOME"] == "/var/lib"
    variables |= {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": "", "REVOR_BASE_URL": "http://127.0.0.1:9"}
    start(*arguments, **variables).until("serving http")
    assert "relay.db" in {path.name for path in data.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "relay.yaml", "secrets"}


# --- monitoring


def test_prometheus_rules_are_those_of_deploy() -> None:
    expected = [
        group
        for name in ("alerts.yml", "recording.yml")
        if (path := ROOT / "deploy" / name).exists()
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    assert one("monitoring", "PrometheusRule")["spec"]["groups"] == expected


def test_prometheus_scrapes_every_node_under_the_job_of_the_alert_rules() -> None:
    for case in ("monitoring", "roles-spread"):
        monitor = one(case, "ServiceMonitor")["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        (service,) = (one for one in of_kind(case, "Service") if wanted <= one["metadata"]["labels"].items())
        assert service["metadata"]["labels"][monitor["jobLabel"]] == "revor-relay"
        assert service["metadata"]["name"].endswith("-nodes")
        (endpoint,) = monitor["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        key = endpoint["authorization"]["credentials"]["key"]
        tokens = yaml.safe_load(one(case, "ConfigMap")["data"]["relay.yaml"])["auth"]["tokens"]
        token = f"${{file:{SECRETS}/{key}}}"
        assert {"name": "prometheus", "token": token, "scopes": ["metrics"]} in tokens


# --- the page


PAGE = "docs/operate/kubernetes.md"


def commands_of_the_page(program: str) -> list[list[str]]:
    """The commands that begin so, as the shell takes them apart."""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    found = [prompt for block in blocks(page, "console") for prompt in prompts(block)]
    return [shlex.split(one.replace("\\\n", "")) for one in found if one.startswith(f"{program} ")]


def test_secret_of_the_page_has_the_keys_that_the_chart_names() -> None:
    (secret,) = (one for one in commands_of_the_page("kubectl") if "generic" in one)
    made = {argument.partition("=")[0]: argument.partition("=")[2] for argument in secret if "=" in argument}
    literals = {one.partition("=")[0]: one for one in re.findall(r"--from-literal=(\S+)", " ".join(secret))}
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["secret"]
    assert made
    assert set(literals) == {values["apiKey"], values["encryptionKey"], values["adminToken"]}
    script = re.search(r"--from-literal=encryption-key=\$\((.*?)\)", " ".join(secret))
    assert script is not None
    key = subprocess.run(["bash", "-c", script[1]], capture_output=True, text=True, check=True).stdout.strip()
    assert len(decode_encryption_key(key)) == 32


def test_helm_commands_of_the_page_render() -> None:
    installs = [one for one in commands_of_the_page("helm") if one[1] in ("install", "upgrade", "template")]
    (postgres,) = re.findall(r"`(--set database.kind=[^`]*)`", (ROOT / PAGE).read_text(encoding="utf-8"))
    installs.append([*installs[0], *shlex.split(postgres)])
    assert len(installs) >= 4
    for command in installs:
        _, _, release, chart, *options = command
        assert (release, ROOT / chart) == ("revor-relay", CHART)
        of_others = ("|", "kubectl", "apply", "-f", "-", "-n", "relay", "--reset-then-reuse-values")
        kept = [one for one in options if one not in of_others]
        ran = helm("template", release, CHART, *kept, "--set", "secret.name=a", "--kube-version", VERSIONS[0])
        assert ran.returncode == 0, ran.stderr
        assert {one["metadata"]["name"] for one in yaml.safe_load_all(ran.stdout)} >= {"revor-relay"}


def test_values_of_the_page_render(tmp_path: Path) -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        ran = template(path, "--set", "secret.name=a")
        assert ran.returncode == 0, ran.stderr
        (policy,) = (one for one in yaml.safe_load_all(ran.stdout) if one["kind"] == "NetworkPolicy")
        let_out = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        (collector,) = re.findall(r"OTEL_EXPORTER_OTLP_ENDPOINT, value: \S+:(\d+)", block)
        assert int(collector) in let_out


def patch_of_the_page(what: str) -> Document:
    """What `kubectl patch` is given for this object."""
    (found,) = (one for one in commands_of_the_page("kubectl") if "patch" in one and what in " ".join(one))
    patch: Document = json.loads(found[found.index("-p") + 1])
    return patch


def test_database_url_is_added_under_the_key_that_the_chart_names() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["secret"]
    assert set(patch_of_the_page("secret")["stringData"]) == {values["databaseUrl"]}


@pytest.mark.parametrize("case", ["default", "postgres"])
def test_rollback_of_the_page_goes_back_to_the_older_schema(case: str, start: Start, tmp_path: Path) -> None:
    """In the pod that the patch makes: its settings are in the working directory, as in the image."""
    _, _, spec = next(nodes(case))
    patched = patch_of_the_page("deployment")["spec"]
    (changed,) = patched["template"]["spec"]["containers"]
    assert (patched["replicas"], changed["name"]) == (1, spec["containers"][0]["name"])
    file, variables = mounted(case, spec, tmp_path)
    text = file.read_text(encoding="utf-8").replace("/var/lib/revor-relay", str(tmp_path))
    file.write_text(text, encoding="utf-8")
    if case == "postgres":
        shared_server().create_database("rollback_of_the_chart")
        (tmp_path / "secrets" / "database-url").write_text(shared_server().url("rollback_of_the_chart"))
    assert start("migrate", **variables).close() == 0
    (said,) = re.findall(r"^the database has schema .*$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    for _ in range(2):  # the container is started again when it has ended
        back = start(*changed["args"], **variables)
        assert (back.close(), back.lines) == (0, [said])


# --- values that are refused

NAMED = {"secret": {"name": "revor-relay"}}
REFUSED: dict[str, tuple[Document, str]] = {
    "no Secret": ({}, "secret.name is empty: create a Secret"),
    "SQLite with three nodes": ({**NAMED, "replicas": 3}, "replicas is 3, but database.kind is sqlite"),
    "SQLite with split roles": (
        {**NAMED, "roles": {"split": True}},
        "roles.split is true, but database.kind is sqlite",
    ),
    "PostgreSQL with a volume": (
        {**NAMED, "database": {"kind": "postgresql"}, "persistence": {"existingClaim": "a"}},
        "persistence.existingClaim is set, but database.kind is postgresql",
    ),
    "no key of the upstream": ({"secret": {"name": "a", "apiKey": ""}}, "secret.apiKey is empty, and settings.sources"),
    "metrics without a token": (
        {**NAMED, "serviceMonitor": {"enabled": True}},
        "serviceMonitor.enabled is true, but secret.metricsToken is empty",
    ),
    "an Ingress without a host": ({**NAMED, "ingress": {"enabled": True}}, "ingress.host is empty"),
    "a route without a gateway": ({**NAMED, "httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
    "a route without a host": (
        {**NAMED, "httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}},
        "httpRoute.hostnames is empty",
    ),
    "a database beside the chart's": (
        {**NAMED, "settings": {"database": {"url": "sqlite:////data/relay.db"}}},
        "settings.database.url is set, but the chart decides it",
    ),
    "a port beside the chart's": (
        {**NAMED, "settings": {"server": {"port": 9000}}},
        "settings.server.port is set, but the container's port is always 8080",
    ),
    "an address that no probe reaches": (
        {**NAMED, "settings": {"server": {"host": "127.0.0.1"}}},
        "settings.server.host is 127.0.0.1, where neither probes nor the Service reach the relay",
    ),
    "a budget that lets no machine be drained": (
        {**NAMED, "podDisruptionBudget": {"maxUnavailable": 0}},
        "- at '/podDisruptionBudget/maxUnavailable': minimum: got 0, want 1",
    ),
    "a budget of nothing in per cent": (
        {**NAMED, "podDisruptionBudget": {"maxUnavailable": "0%"}},
        "- at '/podDisruptionBudget/maxUnavailable': '0%' does not match pattern",
    ),
    "signed-in users from anywhere": (
        {**NAMED, "settings": {"web": {"user_header": "X-User"}}},
        "settings.web.user_header is set, but settings.server.trusted_proxies is empty",
    ),
    "a key of the upstream in the values": (
        {**NAMED, "settings": {"sources": {"revor": {"accounts": {"default": {"api_key": "hunter2"}}}}}},
        "settings.sources.revor.accounts.default.api_key is written out",
    ),
    "an encryption key in the values": (
        {**NAMED, "settings": {"encryption": {"keys": ["${A}", "hunter2"]}}},
        "settings.encryption.keys[1] is written out",
    ),
    "a token in the values": (
        {**NAMED, "settings": {"auth": {"tokens": [{"name": "a", "token": "hunter2", "scopes": ["read"]}]}}},
        "settings.auth.tokens[0].token is written out",
    ),
    "a signing secret in the values": (
        {**NAMED, "settings": {"subscriptions": [{"id": "a", "sink": "https://a", "config": {"secret": "hunter2"}}]}},
        "settings.subscriptions[0].config.secret is written out",
    ),
    "a credential in the values": (
        {**NAMED, "settings": {"subscriptions": [{"id": "a", "sinkcredential": {"accesstoken": "hunter2"}}]}},
        "settings.subscriptions[0].sinkcredential.accesstoken is written out",
    ),
    "a password in the values": (
        {**NAMED, "settings": {"security": {"egress_proxy": "http://relay:hunter2@proxy:3128"}}},
        "settings.security.egress_proxy has a password",
    ),
    "a misspelled value": ({**NAMED, "databse": {}}, "- at '': additional properties 'databse' not allowed"),
    "a misspelled setting": (
        {**NAMED, "settings": {"delivery": {"concurency": 5}}},
        "- at '/settings/delivery': additional properties 'concurency' not allowed",
    ),
    "text in place of a number": ({**NAMED, "replicas": "two"}, "- at '/replicas': got string, want integer"),
    "an unknown database": (
        {**NAMED, "database": {"kind": "mysql"}},
        "- at '/database/kind': value must be one of 'sqlite', 'postgresql'",
    ),
    "a setting out of its range": (
        {**NAMED, "settings": {"delivery": {"jitter": 3}}},
        "- at '/settings/delivery/jitter': maximum: got 3, want 1",
    ),
    "a digest that is none": (
        {**NAMED, "image": {"digest": "sha256:abc"}},
        "- at '/image/digest': 'sha256:abc' does not match pattern",
    ),
    "no database and no hook": (
        {**NAMED, "database": {"migrate": "never"}},
        "- at '/database/migrate': value must be one of 'hook', 'start'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_values_that_cannot_work_are_refused(what: str, tmp_path: Path) -> None:
    values, expected = REFUSED[what]
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    ran = template(path)
    assert (ran.returncode, ran.stdout) == (1, "")
    frame = ("", "revor-relay:", "Use --debug flag to render out invalid YAML")
    lines = [line for line in ran.stderr.splitlines() if line not in frame and "specifications of the" not in line]
    assert len(lines) == 1, ran.stderr
    assert expected in lines[0]
    assert "hunter2" not in ran.stderr
