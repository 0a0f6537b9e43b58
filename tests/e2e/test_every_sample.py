"""Every sample of the documentation is run or checked: here, or by the test that a table names.

A new block fails until it has its place in one of the tables: those of `HERE` run it here, `BY_TEST` and `ALIKE` name
another test, `NOT_RUN` says why nothing runs it.
"""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay.config.settings import load_settings
from relay.store.schema.migrations import newest_revision
from tests.support.api_conformity import pointer_to, validator
from tests.support.brokers.nats import nats_server
from tests.support.postgres_server import PostgresServer
from tests.support.process_world import API_TOKEN, Process, Start
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.relay_world import SETTINGS as OF_THE_WORLD
from tests.support.typed import ROOT, prompts, shell_path, with_places

SUB, DLV, INC = (f"{kind}_01jvpq3m8n000000000000000{n}" for kind, n in (("sub", 2), ("dlv", 4), ("inc", 1)))
OTHER_SUB = "sub_01jvpq0000000000000000000a"
JOB = "7d9f3c52-1f0e-4b58-9a3e-2b7f6f0a9c11"
RELAY = "http://127.0.0.1:8080"
SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@dataclass(frozen=True, slots=True)
class Sample:
    """A fenced block. `key`: its document, its language, and its number among those of both, from 1."""

    key: tuple[str, str, int]
    text: str

    @property
    def name(self) -> str:
        return " ".join(map(str, self.key))


def samples() -> Iterator[Sample]:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").glob("*/README.md")]
    for path in sorted(paths):
        document, counts = path.relative_to(ROOT).as_posix(), dict[str, int]()
        found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for indent, language, text in found:
            counts[language] = counts.get(language, 0) + 1
            yield Sample((document, language, counts[language]), re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))


SAMPLES = {sample.name: sample for sample in samples()}


def sample(name: str) -> str:
    return SAMPLES[name].text


# --- who runs what: a document, a document and a language, or one block of them

DROPIN, PULLS = "tests/e2e/test_readme_dropin.py", "tests/paths/test_pull_programs.py"
ADD_CRM = "tests/paths/test_add_crm.py::test_each_crm_is_checked_shown_and_written_to"
SOURCES = "tests/unit/sources/test_documented_source.py"
CHART = "tests/packaging/test_chart.py"
CLI_POSTGRES = "tests/e2e/test_cli_postgres.py"
APPLY = "tests/unit/cli/test_cli_apply.py"
TYPESCRIPT = "tests/clients/test_typescript_client.py"
IMAGE = "tests/packaging/test_image.py"
CAMPAIGN = "tests/e2e/test_demo_campaign.py"
ALERTS = "tests/packaging/test_alerts.py"
BY_TEST: Mapping[str, str] = {
    "clients/python/README.md": "tests/clients/test_python_readme.py",
    **{f"README.md console {n}": f"{DROPIN}::test_readme_curl_example" for n in (2, 3, 4, 5, 6)},
    **{f"README.md console {n}": f"{DROPIN}::test_readme_change_one_line" for n in (7, 8)},
    "README.md console 12": "tests/e2e/test_replay.py::test_one_command_replays_a_day_s_undelivered_events",
    "README.md python": "tests/unit/test_docs.py::test_the_receiver_in_the_readme_verifies",
    "clients/typescript/README.md console": f"{TYPESCRIPT}::test_first_program_of_the_readme_runs_as_it_stands",
    "clients/typescript/README.md js 1": f"{TYPESCRIPT}::test_first_program_of_the_readme_runs_as_it_stands",
    "clients/typescript/README.md js 2": f"{TYPESCRIPT}::test_second_program_of_the_readme_is_a_receiver",
    "docs/guides/bus.md": "tests/e2e/test_bus_guide.py::test_commands_of_the_bus_guide",
    "docs/guides/recipes.md sh": "tests/e2e/test_recipes.py::test_curl_recipe",
    "docs/guides/recipes.md python": "tests/e2e/test_recipes.py::test_python_recipe",
    "docs/guides/recipes.md js": "tests/e2e/test_recipes.py::test_node_recipe",
    "docs/guides/recipes.md yaml": "tests/e2e/test_recipes.py::test_tool_token_has_only_its_scopes",
    "docs/guides/recipes.md text": "tests/e2e/test_recipes.py::test_n8n_workflow_creates_and_receives",
    "docs/guides/recipes.md csv": "tests/e2e/test_recipes.py::test_import_of_open_jobs",
    "docs/guides/recipes.md console": "tests/e2e/test_recipes.py::test_import_of_open_jobs",
    "docs/guides/slack-workflow.md json": "tests/subscribers/common/test_documented_json.py",
    "docs/guides/zapier-make-n8n.md json": "tests/subscribers/common/test_documented_json.py",
    **{f"docs/guides/sources.md yaml {n}": f"{SOURCES}::test_example_plays_each_of_its_fates" for n in (2, 3, 6)},
    "docs/guides/sources.md yaml 4": f"{SOURCES}::test_example_of_rules_is_valid",
    **{f"docs/guides/sources.md yaml {n}": f"{SOURCES}::test_other_examples_are_valid" for n in (5, 7)},
    **{f"docs/operate/container.md console {n}": f"{IMAGE}::test_commands_of_the_guide" for n in (1, 2, 3)},
    "docs/operate/install.md": "tests/packaging/test_wheel.py::test_the_ways_to_install_work_as_they_are_written",
    "docs/operate/kubernetes.md console": f"{CHART}::test_helm_commands_of_the_page_render",
    "docs/operate/kubernetes.md yaml": f"{CHART}::test_values_of_the_page_render",
    "docs/operate/metrics.md yaml 1": f"{ALERTS}::test_relay_that_is_scraped_under_another_name_is_an_alert",
    "docs/operate/production.md console": "tests/packaging/test_production_guide.py::test_guide_works_as_it_is_written",
    "docs/operate/production.md ini": "tests/packaging/test_deploy_systemd.py",
    "docs/operate/sqlite.md": "tests/e2e/test_sqlite_guide.py::test_a_backup_of_a_relay_that_runs_is_restored",
    "docs/reference/events.md python": "tests/e2e/test_handshakes.py::test_receiver_of_the_documentation_agrees",
    "docs/reference/filters.md json": "tests/unit/test_filter_docs.py::test_examples_do_what_they_say",
    "docs/start/sandbox.md": "tests/e2e/test_sandbox_guide.py::test_commands_in_the_sandbox_guide",
    "docs/design/states.md mermaid": "tests/unit/test_states.py",
}
"""Tests that run the text of the document."""
ALIKE: Mapping[str, str] = {
    "README.md console 1": "tests/e2e/test_demo.py::test_text_output_ends_with_a_headline",
    "README.md console 10": ADD_CRM,
    "docs/guides/campaigns.md console 1": f"{CAMPAIGN}::test_a_campaign_whose_account_breaks_is_told_in_few_messages",
    "docs/guides/hubspot.md console": ADD_CRM,
    "docs/guides/pipedrive.md console": ADD_CRM,
    "docs/guides/salesforce.md console 2": ADD_CRM,
    "docs/guides/integrations.md console 1": ADD_CRM,
    "docs/guides/pull.md console 2": f"{PULLS}::test_program_gets_every_event_once_and_in_order",
    "docs/guides/slack.md console 3": "tests/e2e/test_slack_bot.py",
    "docs/guides/sources.md console 2": "tests/unit/cli/test_cli_sources_new.py",
    "docs/operate/postgresql.md console 6": CLI_POSTGRES,
    "docs/reference/commands.md console 2": ADD_CRM,
    "docs/reference/commands.md console 4": f"{APPLY}::test_an_export_into_an_empty_database_gives_the_same_list",
}
"""Tests that do the same with text of their own: the document's asks questions, or needs what is not here."""
NOT_RUN: Mapping[str, str] = {
    "CONTRIBUTING.md console": "they run these tests; test_docs.py checks that each target exists",
    "README.md ": "a drawing",
    "README.md text 1": "what `relay listen` prints; test_readme_dropin.py waits for such lines",
    "README.md text 2": "what Slack shows; tests/subscribers/slack/test_messages.py has the message",
    "docs/guides/kafka.md console": "installs from the clone, as test_wheel.py does",
    "docs/guides/nats.md console 1": "installs, and starts the server that the test of this page starts",
    "docs/guides/nats.md console 2": "needs NATS' own command; the Python beside it makes the same stream",
    "docs/guides/rabbitmq.md console 1": "installs from the clone, as test_wheel.py does",
    "docs/guides/rabbitmq.md console 2": "needs rabbitmqadmin; tests/bus/test_rabbitmq.py adds and tries such a sink",
    "docs/guides/salesforce.md console 1": "needs Salesforce's own command and an org",
    "docs/operate/container.md console 4": "needs docker compose and a registry of images",
    "docs/operate/production.md text": "a drawing",
    "docs/how-it-works/architecture.md mermaid": "a drawing",
}

# --- commands, each against a relay that runs with --dev, and a sink that takes everything

CONSOLE: Mapping[str, Mapping[str, str]] = {
    "README.md console 9": {"https://hooks.slack.com/services/…": "{sink} --kind slack"},
    "README.md console 11": {},
    "docs/guides/accounts.md console 1": {},
    "docs/guides/campaigns.md console 2": {"https://hooks.slack.com/services/…": "{sink} --kind slack"},
    "docs/guides/campaigns.md console 3": {},
    "docs/guides/campaigns.md console 4": {},
    "docs/guides/campaigns.md console 5": {},
    "docs/guides/campaigns.md console 6": {},
    "docs/guides/discord.md console 1": {"https://discord.com/api/webhooks/…": "{sink} --kind discord"},
    "docs/guides/drop-in.md console 1": {},
    "docs/guides/drop-in.md console 2": {},
    "docs/guides/integrations.md console 2": {"show ID": "show {dlv}"},
    "docs/guides/more-chats.md sh 1": {"-sf": "-s", "@examples/templates/google-chat.json": "@google-chat.json"},
    "docs/guides/pull.md console 1": {},
    "docs/guides/slack.md console 1": {"https://hooks.slack.com/services/…": "{sink} --kind slack"},
    "docs/guides/slack.md console 2": {
        "sub_01jvpq0000000000000000000b": "{other_sub}",
        "https://hooks.slack.com/services/…": "{sink}",
    },
    "docs/guides/slack-workflow.md console 1": {
        "https://hooks.slack.com/triggers/…": "{sink} --kind slack_workflow",
    },
    "docs/guides/sources.md console 1": {},
    "docs/guides/teams.md console 1": {
        "'https://….environment.api.powerplatform.com/…'": "{sink} --kind teams",
    },
    "docs/guides/zapier-make-n8n.md console 1": {"https://hooks.zapier.com/hooks/catch/…": "{sink} --kind flat"},
    "docs/operate/access.md console 1": {},
    "docs/operate/keys.md console 1": {},
    "docs/operate/keys.md console 2": {},
    "docs/reference/commands.md console 1": {},
    "docs/reference/commands.md console 3": {},
    "docs/reference/commands.md console 5": {},
    "docs/reference/events.md console 1": {"whsec_…": SECRET, "https://relay.example.com": "{url}"},
    "docs/reference/filters.md console 1": {"https://crm.example.com/hooks": "{sink}"},
    "docs/reference/filters.md console 2": {"https://crm.example.com/hooks": "{sink}"},
    "docs/reference/filters.md console 3": {},
    "docs/reference/http-api.md console 1": {},
    "docs/reference/http-api.md console 2": {},
    "docs/reference/settings.md console 1": {"~/.local/state": "$XDG_STATE_HOME"},
    "docs/reference/templates.md console 1": {"https://crm.example/api/deals": "{sink}", "Bearer …": "Bearer x"},
}
"""The blocks that run here, and what stands in them for an address of here."""
ENDLESS = {"relay listen ": "^ready", "relay groups show q4-launch --watch": "q4-launch"}
"""Commands that end by Ctrl-C, and what they print."""
EXITS = {"docs/reference/commands.md console 1": 2, "docs/reference/commands.md console 3": 1}
"""Exit codes other than 0: a line is rejected, and there is something to change."""
FILES = {
    "jobs.csv": "id,priority\njob-1,normal\njob-17,urgent\n",
    "filters.json": '[{"exact": {"channel": "linkedin"}}]',
    "relay.yaml": "subscriptions: [{id: crm, sink: SINK/declared, config: {secret: '" + SECRET + "'}}]",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RelayWorld, dict[str, str]]]:
    """A relay with what the samples name, and the ids that these have here."""
    async with open_relay_world(tmp_path_factory.mktemp("samples")) as world:
        openai = "  openai: {preset: openai-batch, base_url: 'http://127.0.0.1:9', accounts: {default: {api_key: k}}}\n"
        world.settings(OF_THE_WORLD.replace("sources:\n", f"sources:\n{openai}"))
        await world.serve("--dev")
        signed = {"signature": "both", "secret": SECRET}
        sub, other_sub = [await world.subscribe(sink=f"{world.sink_url}/{n}", config=signed) for n in range(2)]
        ids = [
            await world.upstream_job(final="failed", error_code="connect_account_reconnect_required") for _ in range(3)
        ]
        for id, group in zip(ids, ("q4-launch", "Q4", "Q4"), strict=True):
            status, made = await world.call("POST", "/v1/jobs", {"id": id, "group": group})
            assert status == 201, made
        await world.until_delivered(ids, "failed")
        await world.until(lambda: _has(world, "/v1/incidents"), "no incident opens")
        incident = (await world.get("/v1/incidents"))["items"][0]
        delivery = (await world.get(f"/v1/deliveries?subscription={sub['id']}&state=delivered"))["items"][0]
        request = await world.get(f"/v1/deliveries/{delivery['id']}/request")
        head = "".join(f"{name}: {value}\r\n" for name, value in request["headers"].items())
        (world.folder / "request.txt").write_bytes(f"POST /hook HTTP/1.1\r\n{head}\r\n{request['body']}".encode())
        for name, text in FILES.items():
            (world.folder / name).write_text(text.replace("SINK", world.sink_url))
        chat = json.loads((ROOT / "examples" / "templates" / "google-chat.json").read_text())
        (world.folder / "google-chat.json").write_text(json.dumps({**chat, "sink": f"{world.sink_url}/chat"}))
        yield (
            world,
            {
                RELAY: world.url,
                SUB: sub["id"],
                OTHER_SUB: other_sub["id"],
                "{other_sub}": other_sub["id"],
                DLV: delivery["id"],
                "{dlv}": delivery["id"],
                INC: incident["id"],
                JOB: await world.upstream_job(),
                "{url}": world.url,
            },
        )


async def _has(world: RelayWorld, path: str) -> bool:
    return bool((await world.get(path))["items"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CONSOLE)
async def test_commands_run(name: str, world: tuple[RelayWorld, dict[str, str]]) -> None:
    """Each succeeds, and no request is refused."""
    relay, ids = world
    text = sample(name)
    for file, shown in re.findall(r"^\$ cat (\S+)\n((?:[^$].*\n)+)", text, re.MULTILINE):
        (relay.folder / file).write_text(shown)
    text = with_places("\n".join(prompts(text)) if "console" in name else text, CONSOLE[name])
    for said, here in {**ids, "{sink}": f"{relay.sink_url}/{name.replace(' ', '/')}"}.items():
        text = text.replace(said, here)
    variables = {"RELAY_URL": relay.url, "RELAY_TOKEN": API_TOKEN}
    lines = text.replace("\\\n", " ").splitlines()
    for line in [line for line in lines if line.startswith(tuple(ENDLESS))]:
        lines.remove(line)
        (said,) = (said for command, said in ENDLESS.items() if line.startswith(command))
        endless = typed(relay, line, **variables)
        await asyncio.to_thread(endless.until, said)
        await asyncio.to_thread(endless.end)
    plain = all(re.match(r"relay [^$|<>;&]*$", line) for line in lines)
    curl = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }'
    for line in lines if plain else ["\n".join([curl, *lines])]:
        ran = typed(relay, line, **variables)
        code = await asyncio.to_thread(ran.close)
        assert code == EXITS.get(name, 0), (line, ran.lines)


def typed(relay: RelayWorld, line: str, **variables: str) -> Process:
    """Runs what is typed: in a shell, or by itself if it is a plain command of ours, which starts faster."""
    if line.startswith("relay "):
        return relay.start(*shlex.split(line, comments=True)[1:], **variables)
    return relay.start(line, program=("bash", "-c"), PATH=shell_path(relay.folder), **variables)


@pytest.mark.asyncio(loop_scope="module")
async def test_commands_of_the_nats_page(world: tuple[RelayWorld, dict[str, str]], tmp_path: Path) -> None:
    relay, _ = world
    add, test = prompts(sample("docs/guides/nats.md console 3"))
    async with nats_server(tmp_path) as server:
        here = {"nats://127.0.0.1:4222": f"nats://127.0.0.1:{server.port}"}
        program = with_places(sample("docs/guides/nats.md python 1"), here)
        made = relay.start(program, program=(sys.executable, "-c"))
        assert await asyncio.to_thread(made.close) == 0, made.lines
        added = typed(relay, with_places(add, here), RELAY_URL=relay.url)
        assert await asyncio.to_thread(added.close) == 0, added.lines
        id = added.lines[0].split()[0]
        tested = typed(relay, with_places(test, {SUB: id}), RELAY_URL=relay.url)
        assert await asyncio.to_thread(tested.close) == 0, tested.lines
        status, gone = await relay.call("DELETE", f"/v1/subscriptions/{id}")
        assert status == 200, gone


async def test_commands_of_the_postgresql_page(tmp_path: Path) -> None:
    """psql is not here: the test gives its statements to the server."""
    create, *blocks = [sample(f"docs/operate/postgresql.md console {n}") for n in range(1, 6)]
    with PostgresServer(tcp=True) as server:
        for statement in re.findall(r'-c "([^"]+)"', create):
            server.execute(statement)
        *lines, last = [line for block in blocks for line in prompts(block)]
        assert last == "relay serve"
        here = {"127.0.0.1:5432": f"127.0.0.1:{server.port}", "REVOR_API_KEY=…": f"REVOR_API_KEY={API_KEY}"}
        async with open_relay_world(tmp_path) as relay:
            relay.relay = relay.start(
                "\n".join(["set -euo pipefail", with_places("\n".join(lines), here), "exec relay serve --port 0"]),
                program=("bash", "-c"),
                PATH=shell_path(tmp_path),
                REVOR_BASE_URL=relay.sandbox_url,
            )
            await relay.said(r"serving (http://\S+)")
            schema = f"the database has the newest schema, {newest_revision()}"
            assert schema in relay.lines
            assert schema in blocks[0].splitlines()
            assert await relay.end() == 0


def test_command_of_the_tracing_page(start: Start, tmp_path: Path) -> None:
    here = {"http://collector:4318": "http://127.0.0.1:9", "relay serve": "exec relay serve --dev --port 0"}
    command = with_places(sample("docs/operate/tracing.md sh 1"), here)
    upstream = {"REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": "http://127.0.0.1:9"}
    relay = start(
        f"export {command}".replace(" exec ", "\nexec "), program=("bash", "-c"), PATH=shell_path(tmp_path), **upstream
    )
    relay.until("serving http")
    assert relay.end() == 0


# --- settings

SECRETS = {"OPENAI_API_KEY": "sk-x", "REVOR_API_KEY": API_KEY}
SETTINGS = (
    "docs/guides/drop-in.md yaml 1",
    "docs/guides/sources.md yaml 1",
    "docs/operate/access.md yaml 1",
    "docs/operate/keys.md yaml 1",
    "docs/operate/keys.md yaml 2",
    "docs/operate/production.md yaml 1",
)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_load(name: str, tmp_path: Path) -> None:
    def kept(file: re.Match[str]) -> str:
        """The file that a setting names, here, with a secret that fits it."""
        path = tmp_path / Path(file[1]).name
        texts = {
            "relay_key": "A" * 42 + str(len(list(tmp_path.iterdir()))) + "=",
            "heartbeat": "https://ping.example/x",
        }
        path.write_text(next((text for known, text in texts.items() if known in path.name), SECRET))
        path.chmod(0o600)
        return f"${{file:{path}}}"

    text = re.sub(r"\$\{file:([^}]+)\}", kept, sample(name))
    path = tmp_path / "relay.yaml"
    path.write_text(text)
    load_settings(path, SECRETS)


# --- documents


def is_job_event(text: str) -> None:
    fits("JobStatusEvent", json.loads(text))


def is_public_keys(text: str) -> None:
    fits("PublicKeys", json.loads(text))


def is_pull(text: str) -> None:
    request, body, answer = re.fullmatch(r"(POST \S+)\n(\{.*?\})\n\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    assert re.fullmatch(r"POST /v1/subscriptions/sub_…/pull", request)
    fits("PullRequest", json.loads(body))
    document = json.loads(answer)
    (item,) = document["items"]
    assert set(item["event"]) == {"specversion", "…"}, "the event is cut"
    item["event"] = {**item["event"], "id": "1", "source": "/x", "type": "a.b"}
    fits("Pulled", document)


def fits(model: str, document: Any) -> None:
    assert [
        error.message for error in validator(pointer_to("components", "schemas", model)).iter_errors(document)
    ] == []


CHECKS: Mapping[str, Callable[[str], None]] = {
    "docs/reference/events.md json 1": is_job_event,
    "docs/reference/events.md json 2": is_public_keys,
    "docs/guides/pull.md http 1": is_pull,
}


@pytest.mark.parametrize("name", CHECKS)
def test_documents_are_valid(name: str) -> None:
    CHECKS[name](sample(name))


METADATA = {"campaign": "spring", "owner": "Kim", "owner_id": "7", "email": "ada@example.com"}
PREVIEWED: Mapping[str, Callable[[Any], Any]] = {
    **{f"docs/guides/{page}.md json 1": lambda document: document for page in ("kafka", "nats", "rabbitmq")},
    "docs/guides/hubspot.md json 1": lambda template: {
        "sink": "https://api.hubapi.com",
        "sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": "x"},
        "config": {"template": template},
    },
    "docs/guides/pipedrive.md json 1": lambda template: {
        "sink": "https://acme.pipedrive.com",
        "sinkcredential": {"credentialtype": "HEADER", "name": "x-api-token", "value": "x"},
        "config": {"template": template},
    },
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PREVIEWED)
async def test_subscriptions_can_be_previewed(name: str, world: tuple[RelayWorld, dict[str, str]]) -> None:
    """The relay takes them, and compiles their templates. Nothing is stored or sent."""
    relay, _ = world
    body = PREVIEWED[name](json.loads(sample(name)))
    status, answer = await relay.call("POST", "/v1/subscriptions/preview", {"subscription": body, "metadata": METADATA})
    assert status == 200, answer


async def test_headers_of_the_access_page_are_sent(tmp_path: Path) -> None:
    shown = dict(line.split(": ") for line in sample("docs/operate/access.md http 1").splitlines())
    async with open_relay_world(tmp_path) as world:
        await world.serve()
        status, made = await world.call(
            "POST", "/v1/tokens", {"name": "a", "scopes": ["read"], "requests_per_minute": 600}
        )
        assert status == 201, made
        bearer = {"Authorization": f"Bearer {made['token']}"}
        async with world.session.get(f"{world.url}/v1/jobs", headers=bearer) as answer:
            assert {name: answer.headers[name] for name in shown} == shown


HERE = {
    *CONSOLE,
    *SETTINGS,
    *CHECKS,
    *PREVIEWED,
    "docs/operate/access.md http 1",
    "docs/guides/nats.md console 3",
    "docs/guides/nats.md python 1",
    "docs/operate/tracing.md sh 1",
    *(f"docs/operate/postgresql.md console {n}" for n in range(1, 6)),
}


def places(key: tuple[str, str, int]) -> set[str]:
    """The entries of the tables that a block may have: of itself, of its language, of its document."""
    document, language, number = key
    return {f"{document} {language} {number}", f"{document} {language}", document}


def test_every_sample_is_run_or_says_why_not() -> None:
    tables = {*HERE, *BY_TEST, *ALIKE, *NOT_RUN}
    assert [name for name, one in SAMPLES.items() if not places(one.key) & tables] == []
    used = set[str]().union(*(places(one.key) for one in SAMPLES.values()))
    assert tables - used == set(), "no sample has this place"


@pytest.mark.parametrize(("name", "test"), [*BY_TEST.items(), *ALIKE.items()])
def test_named_tests_exist(name: str, test: str) -> None:
    file, _, function = test.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {function or 'test_'}", text, re.MULTILINE)
    assert name in ALIKE or Path(name.split()[0]).name in text, "it does not read the document"
