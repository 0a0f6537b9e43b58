"""Revor's definition covers what is documented, is validated when loaded, and is not repeated in code."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from relay.core.events.event import job_event_types
from relay.core.jobs.job import JOB_EVENTS, KNOWN_STATUSES, POLL, Observation, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.sources import definition as definition_module
from relay.sources.definition import Resource, load_definition, presets
from relay.sources.hints import Who
from relay.sources.mapping import observe, registered
from relay.sources.sections import Create

ROOT = Path(__file__).parents[3]
SOURCES = Path(definition_module.__file__).parent
REVOR = load_definition("revor")
JOBS = REVOR.resources["jobs"]

JOB_CODES = (
    "connect_account_reconnect_required",
    "insufficient_credits",
    "external_api_worker_unavailable",
    "external_api_retry_enqueue_failed",
    "external_api_billing_retryable",
)
REQUEST_CODES = (
    *("invalid_request", "invalid_channel", "invalid_can_send"),
    *("api_key_missing", "api_key_invalid", "api_key_expired", "api_key_revoked"),
    *("permission_denied", "external_api_job_not_found", "account_not_found", "idempotency_conflict"),
    *("api_rate_limit_exceeded", "task_unavailable", "membership_tier_insufficient"),
    *("research_job_concurrency_limit_exceeded", "webset_not_found", "external_api_webset_not_found"),
)


def test_etag_is_refused_where_a_rule_needs_the_status() -> None:
    values = yaml.safe_load((SOURCES / "azure-lro" / "definition.yaml").read_text())["resources"]["operations"]
    with pytest.raises(ValueError, match="an answer 304"):
        Resource.model_validate({**values, "etag": True})


def test_revor_preset_loads() -> None:
    assert "revor" in presets()
    assert (REVOR.name, REVOR.title) == ("revor", "Revor")
    rules = {status: JOBS.rule_of({"status": status}) for status in KNOWN_STATUSES}
    assert {status: rule and rule.state for status, rule in rules.items()} == {one: one for one in KNOWN_STATUSES}
    origins = REVOR.event_origins("https://revor.ai", "")
    assert job_event_types(origins[""]) == tuple(f"ai.revor.job.{kind}" for kind in JOB_EVENTS if kind != "progress")
    assert job_event_types(origins["websets"]) == tuple(
        f"ai.revor.webset.{'completed' if kind == 'succeeded' else kind}" for kind in JOB_EVENTS
    )
    assert REVOR.headers.window_ms == "x-ratelimit-window-ms"
    assert REVOR.auth_headers("sk-revor-1") == {"Authorization": "Bearer sk-revor-1"}


@pytest.mark.parametrize(
    ("external_id", "segment"),
    [
        ("0f9c-4e_1~", "0f9c-4e_1~"),
        ("a/b", "a%2Fb"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a?b#c", "a%3Fb%23c"),
        ("50%", "50%25"),
        ("%2e%2e", "%252e%252e"),
        ("é 日", "%C3%A9%20%E6%97%A5"),
        ("{id}", "%7Bid%7D"),
        ("a\r\nb", "a%0D%0Ab"),
        ("\ud800", "%3F"),
    ],
)
def test_id_stays_one_segment(external_id: str, segment: str) -> None:
    assert REVOR.job_url("https://revor.ai", external_id) == f"https://revor.ai/api/v1/outreach/jobs/{segment}"


# Several resources -------------------------------------------------------------------------------------------------

SETS = JOBS.model_copy(
    update={
        "type_prefix": "ai.revor.webset",
        "source_path": "/api/v1/sets",
        "path": "/api/v1/sets/{id}",
        "creates": (Create(path="/api/v1/sets"), Create(path="/api/v1/sets/{id}/more")),
        "item": ("set",),
    }
)
BOTH = REVOR.model_copy(update={"resources": {"jobs": JOBS, "websets": SETS}})


def test_the_first_resource_has_no_key() -> None:
    assert [BOTH.key_of(name) for name in BOTH.resources] == ["", "websets"]
    assert [key for key, _ in BOTH.keyed] == ["", "websets"]
    assert (BOTH.resource_of(""), BOTH.resource_of("websets")) == (JOBS, SETS)
    assert BOTH.resource_of("gone") is JOBS, "its jobs are shown, and not polled"


@pytest.mark.parametrize(
    ("path", "created", "read"),
    [
        ("/api/v1/outreach/dispatches", "", None),
        ("/api/v1/outreach/jobs/a%2Fb", None, ("", "a%2Fb", "")),
        ("/api/v1/sets", "websets", None),
        ("/api/v1/sets/a/more", "websets", None),
        ("/api/v1/sets/a", None, ("websets", "a", "")),
        ("/api/v1/sets/a/b", None, None),
        ("/api/v1/sets/", None, None),
        ("/api/v1/sets/a/", None, None),
    ],
)
def test_a_path_belongs_to_one_resource(path: str, created: str | None, read: tuple[str, str, str] | None) -> None:
    assert (BOTH.created_by(path), BOTH.read_by(path)) == (created, read)


@pytest.mark.parametrize(
    ("create", "method", "path", "is_one"),
    [
        ({"path": "/v1/jobs"}, "POST", "/v1/jobs", True),
        ({"path": "/v1/jobs"}, "PUT", "/v1/jobs", False),
        ({"path": "/v1/jobs", "methods": ["PUT", "DELETE"]}, "DELETE", "/v1/jobs", True),
        ({"path": "/v1/jobs", "methods": ["PUT", "DELETE"]}, "POST", "/v1/jobs", False),
        ({"path": "/v1/{kind}/start"}, "POST", "/v1/a/b/start", False),
        ({"path": "/v1/{+kind}/start"}, "POST", "/v1/a/b/start", True),
        ({"path": "/v1/{+kind}/start"}, "POST", "/v1//start", False),
        ({"path": "/{+any}"}, "POST", "/v1/jobs", True),
    ],
)
def test_create_is_a_request_with_its_path_and_method(
    create: dict[str, Any], method: str, path: str, is_one: bool
) -> None:
    resource = JOBS.model_copy(update={"creates": (Create.model_validate(create),)})
    definition = REVOR.model_copy(update={"resources": {"jobs": resource}})
    definition.__dict__.pop("keyed", None)  # of the original
    assert definition.created_by(path, method) == ("" if is_one else None)


@pytest.mark.parametrize(
    ("template", "address", "read"),
    [
        ("/v1/jobs/{id}", "/v1/jobs/a?b=1", ("a", "b=1")),
        ("/v1/{+id}", "/v1/a/b%2Fc", ("a/b%2Fc", "")),
        ("/v1/{id}/state?v=1", "/v1/a/state?v=1", ("a", "")),
        ("/v1/{id}/state?v=1", "/v1/a/state?w=2&v=1", ("a", "w=2")),
        ("/v1/{id}/state?v=1", "/v1/a/state", None),
        ("/v1/{id}/state?v=1", "/v1/a/state?v=12", None),
        ("/v1/get?v=1&id={id}", "/v1/get?id=a&v=1", ("a", "")),
        ("/v1/get?id={id}", "/v1/get?id=a&id=b", ("a", "id=b")),
        ("/v1/get?id={id}", "/v1/get?id=", None),
        ("/v1/get?id={id}", "/v1/get", None),
        ("/v1/get?id={id}", "/v1/got?id=a", None),
    ],
)
def test_a_read_has_the_id_where_its_address_has_it(template: str, address: str, read: tuple[str, str] | None) -> None:
    path, _, query = address.partition("?")
    assert JOBS.model_copy(update={"path": template}).read_at(path, query) == read


def test_each_resource_has_its_own_url_events_and_answers() -> None:
    base = "https://revor.ai/api/v1/"
    assert BOTH.job_url(base, "a/b", "websets") == "https://revor.ai/api/v1/sets/a%2Fb"
    assert BOTH.answer_body({"id": "a"}, "req_1", "websets") == b'{"ok":true,"request_id":"req_1","set":{"id":"a"}}'
    found = BOTH.event_origins(base, "https://relay.example/schemas/job-status.v1.json")
    shown = {key: (origin.source, origin.type_prefix, origin.account_source) for key, origin in found.items()}
    accounts = "https://revor.ai/api/v1/connect/accounts"
    assert shown == {
        "": ("https://revor.ai/api/v1/outreach/jobs", "ai.revor.job", accounts),
        "websets": ("https://revor.ai/api/v1/sets", "ai.revor.webset", accounts),
    }


def test_an_answer_is_read_by_the_rules_of_its_resource() -> None:
    item = {"id": "a", "status": "running", "action": "search"}
    seen = observe(BOTH, dumps({"ok": True, "set": item}), now=1.0, resource="websets", external_id="a")
    assert isinstance(seen, Observation)
    assert (seen.resource, seen.status, seen.upstream) == ("websets", "running", item)
    assert seen.item()["action"] == "websets:search"
    made = registered(BOTH, {"ok": True, "set": item}, now=1.0, resource="websets")
    assert made is not None
    assert made.external_id == "a"
    assert made.observation == replace(seen, observed_at=1.0)
    assert registered(BOTH, {"ok": True, "set": item}, now=1.0) is None


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        *((prefix, "has paths of the relay itself") for prefix in ("/", "/v1/", "/v1/jobs/", "/ui/", "/sources/mine/")),
        ("/api", "end it with a slash"),
        ("/v1", "end it with a slash"),
    ],
)
def test_paths_of_the_relay_itself_are_not_passed(tmp_path: Path, prefix: str, says: str) -> None:
    shutil.copytree(SOURCES / "revor", tmp_path / "revor")
    file = tmp_path / "revor" / "definition.yaml"
    file.write_text(file.read_text().replace("  - /api/v2/\n", f"  - {prefix}\n"))
    with pytest.raises(SettingsError, match=f"revor/definition.yaml:[0-9]+: passed.*{says}"):
        load_definition("revor", directory=tmp_path)


def test_two_resources_with_one_path_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SOURCES / "revor", tmp_path / "revor")
    file = tmp_path / "revor" / "definition.yaml"
    document = yaml.safe_load(file.read_text())
    document["resources"]["others"] = document["resources"]["jobs"]
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(SettingsError, match=r"resources.others: the path /api/v1/outreach/jobs/\{id\} belongs to"):
        load_definition("revor", directory=tmp_path)


# Hints -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*JOB_CODES, *REQUEST_CODES])
def test_every_documented_code_has_its_own_hint(code: str) -> None:
    hint = REVOR.hint_for(Problem(code=code, message=code, retryable=None), "failed", channel="linkedin")

    assert hint is not None
    assert code not in hint.meaning, "the general hint names the code, its own does not"
    assert "{" not in hint.meaning
    assert hint.who in {*get_args(Who), "Revor"} - {"upstream"}


@pytest.mark.parametrize("retryable", [True, False, None])
@pytest.mark.parametrize("code", [*REVOR.hints.codes, *REVOR.hints.patterns, "never_heard_of"])
def test_hint_never_contradicts_its_item(code: str, retryable: bool | None) -> None:
    problem = Problem(code=code, message="", retryable=retryable)
    failed, retrying = REVOR.hint_for(problem, "failed"), REVOR.hint_for(problem, "retrying")

    assert failed is not None
    assert retrying is not None
    assert not (retryable and failed.repeat == "useless"), "the upstream says that trying again may help"
    assert retrying.repeat == "may_send_twice", "the upstream is about to send it itself"
    for text in (failed.meaning, failed.fix):
        assert not re.search(r"try|tried|again|retr|repeat|safe|twice", text, re.IGNORECASE), "that is for `repeat`"


@pytest.mark.parametrize("kind", ["retrying", "overdue", "not_found", "status_unknown"])
@pytest.mark.parametrize("code", [*REVOR.hints.codes, "never_heard_of"])
def test_repeat_may_send_twice_while_a_job_is_undecided(kind: str, code: str) -> None:
    hint = REVOR.hint_for(Problem(code=code, message="", retryable=False), kind)

    assert hint is not None
    assert hint.repeat == "may_send_twice"


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("unavailable", "Revor does not answer"),
        ("idempotency_conflict", "The idempotency key was used before with another request"),
        ("x_job_concurrency_limit_exceeded", "Too many Revor jobs of this account at once"),
        ("never_heard_of", "Revor says “never heard of”"),
    ],
)
def test_failed_poll_has_a_hint(code: str, meaning: str) -> None:
    hint = REVOR.hint_for(Problem(code=code, message=""), POLL)

    assert hint is not None
    assert hint.meaning == meaning
    assert REVOR.hint_for(None, POLL) is None


# Checked when read -------------------------------------------------------------------------------------------------


MISSING = object()
RUNNING = {"at": "/status", "is": "running", "state": "running"}
INVALID_OF_JOBS: list[tuple[str, object]] = [
    *(("type_prefix", "Ai"), ("type_prefix", "job"), ("type_prefix", "relay.job"), ("path", "/jobs")),
    *(("type_prefix", "ai.revor.account"), ("type_prefix", "ai.revor."), ("type_prefix", "ai..job")),
    *(("fields.scheduled_at", "a.b"), ("fields.other", "/x"), ("item", "item")),
    *(("status", MISSING), ("status", "/a~2b"), ("status", "/" + "x" * 500), ("status", 5)),
    *(("states", []), ("states", [RUNNING]), ("states.0", {"at": "/status", "state": "queued"})),
    *(("states.0", {**RUNNING, "in": ["running"]}), ("states.0", {**RUNNING, "state": "runs"})),
    *(("states.5", {"at": "/status", "in": ["running", "queued"], "state": "failed"}),),
    *(("result.at", MISSING), ("problem", {}), ("request.recipient.phone", "/phone")),
    *(("request.recipient.name", ["/a"]), ("request.channel", "a.b")),
]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("title", MISSING), ("title", 5), ("base_path", "api"), ("extra", 1), ("error.meanings.other", [])),
        *(("version", 1), ("version", MISSING), ("resources", {}), ("resources", {"Jobs": {}}), ("probe", "x")),
        *(("connect_accounts.source_path", "x"), ("credential.format", "Bearer"), ("credential.header", "a: b")),
        *(("connect_accounts", []), ("connect_accounts.path", "x"), ("connect_accounts.id", MISSING)),
        *(("connect_accounts.email", "/x"), ("connect_accounts.states.ok", "fine"), ("headers.limit", "a b")),
        *(("error.meanings.not_found", [1]), ("answer.ok", {"at": "/ok"}), ("answer.ok", {"at": "ok", "is": True})),
        *((f"resources.jobs.{name}", value) for name, value in INVALID_OF_JOBS),
        *(
            ("hints.unsaid", {}),
            ("hints.other", {}),
            ("hints.channels", []),
            ("hints.codes.insufficient_credits.repeat", True),
        ),
        *(
            ("hints.codes.insufficient_credits.who", "Bob"),
            ("hints.codes.insufficient_credits.meaning", "{x}"),
            ("hints.codes.insufficient_credits.fix", "{x}"),
        ),
        *(
            ("credits.path", "credits"),
            ("credits.available", []),
            ("credits.available", ["available"]),
            ("credits.availabel", ["/available"]),
        ),
        *(
            ("hints.codes.insufficient_credits.fix", MISSING),
            ("hints.codes.insufficient_credits.points_at", "x"),
            ("hints.codes.insufficient_credits.why", "x"),
        ),
    ],
)
def test_invalid_definition_names_file_and_key(tmp_path: Path, path: str, value: object) -> None:
    shutil.copytree(SOURCES / "revor", tmp_path / "revor")
    file = "revor/hints.yaml" if path.startswith("hints.") else "revor/definition.yaml"
    document: dict[Any, Any] = yaml.safe_load((tmp_path / file).read_text())
    *outer, last = path.removeprefix("hints.").split(".")
    section = document
    for key in outer:
        section = section[key]
    if value is MISSING:
        del section[last]
    elif last.isdigit():
        section[int(last)] = value  # type: ignore[call-overload]
    else:
        section[last] = value
    (tmp_path / file).write_text(yaml.safe_dump(document))

    with pytest.raises(SettingsError, match=rf"{file}:[0-9]+: ") as caught:
        load_definition("revor", directory=tmp_path)
    assert (outer or [last])[0] in str(caught.value)
    assert "\n" not in str(caught.value)


# Nowhere else ------------------------------------------------------------------------------------------------------

UPSTREAM_WORDS = re.compile(
    r"/(?:outreach|connect|websets|research|customs)/|"
    r"external_api_|connect_account_(?!(?:id|name)\b)|api_key_(?:missing|invalid|expired|revoked)|insufficient_credits|"
    r"permission_denied|account_not_found|api_rate_limit_exceeded|task_unavailable|"
    r"resolved_action|min_channel_task_interval",
    re.IGNORECASE,
)


def program_files() -> list[Path]:
    """The program's files except definitions and sandbox."""
    files = [path for folder in ("relay", "subscribers") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if path.suffix in {".py", ".yaml", ".html", ".j2"}
        and ROOT / "relay" / "sandbox" not in path.parents
        and not (SOURCES in path.parents and path.suffix == ".yaml")
    ]


def found_in(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


def test_no_other_file_names_the_upstream_s_fields() -> None:
    assert found_in(UPSTREAM_WORDS, program_files()) == []


@pytest.mark.parametrize(
    ("answer", "headers", "address"),
    [
        ({"urls": {"get": "/jobs/1"}}, {"location": "/jobs/2", "operation-location": "/jobs/3"}, "/jobs/1"),
        ({"urls": {"get": 7}}, {"location": "/jobs/2", "operation-location": "/jobs/3"}, "/jobs/3"),
        ({}, {"location": "/jobs/2", "operation-location": ""}, "/jobs/2"),
        ([], {"other": "/jobs/2"}, None),
    ],
)
def test_address_in_the_answer_to_a_create(answer: Any, headers: dict[str, str], address: str | None) -> None:
    create = Create.model_validate({"path": "/jobs", "status_url": "/urls/get", "location": "Location"})
    resource = JOBS.model_copy(update={"follows": ("operation-location",)})
    assert resource.address_of(create, answer, headers) == address
    assert JOBS.address_of(Create(path="/jobs"), answer, headers) is None
