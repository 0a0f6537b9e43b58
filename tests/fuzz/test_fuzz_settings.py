"""Fuzzing of settings, variables, secret files and definitions: a value, or a SettingsError."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from relay import resources
from relay.config import fields
from relay.config.loader import parse_yaml, read_secret_file
from relay.config.settings import Settings, describe_settings, load_settings
from relay.core.access.netguard import is_bound_address, is_within
from relay.core.events.event import check_attribute
from relay.core.jobs.job import JOB_EVENTS, Problem
from relay.core.values import MAX_DURATION_SECONDS
from relay.errors import SettingsError
from relay.sources import definition as definition_module
from relay.sources.definition import SourceDefinition, load_definition
from tests.support.fuzz_kit import TEXTS, VALUES, fuzzed, mutated, mutated_text, value_or_refusal, whole

SHIPPED = resources.default_settings_file().read_bytes()
ALL_OF_IT = b"""
server: {host: 127.0.0.1, port: 8080, public_url: https://relay.example, shutdown_seconds: 20}
auth: {tokens: [{name: crm, token: "${TOKEN}", scopes: [admin, read]}]}
encryption: {keys: ["${KEY}", "${file:/run/secrets/key}"]}
sources: {revor: {preset: revor, base_url: https://revor.ai/api/v1, accounts: {default: {api_key: "${TOKEN}"}}}}
delivery: {retry_schedule: [5s, 5m, 1.5h, 20], jitter: 0.2, callback_secret: null}
security: {allow_http: true, allow_networks: [10.0.0.0/8, "fd00::/8"], allow_ports: [443, 8443]}
"""
SECRET = "hidden-0123456789"
ENVIRON = {"TOKEN": SECRET, "KEY": "A" * 43 + "=", "EMPTY": ""}
KEYS = [doc.key.replace("NAME", "revor") for doc in describe_settings()]
SOURCES = Path(definition_module.__file__).parent

YAML_TOKENS = [
    *(b"!!int ", b"!!float _", b"!!bool x", b"!!timestamp x", b"!!binary x", b"!!python/name:os.x ", b"!!set ", b"!"),
    *(b"&a ", b"*a", b"<<: ", b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"|\n", b">", b"#", b"%YAML 9\n---\n", b"'"),
    *(b'"\\ud800"', b"${TOKEN}", b"${EMPTY}", b"${", b"${file:/nowhere}", b"$${", b"0x" + b"f" * 4000, b"1:59:59"),
    *(b"\t", b"\r", b"\x85", b"\xe2\x80\xa8", b"\xff", b".inf", b".nan", b"2026-99-99", b"~", b"null", b"1" * 5000),
    *(b"10.0.0.1/8", b"host bits", b"::1%eth0/128", b"https://h.example:99999/", b"https://[::1", b"[" * 400),
]

YAML_TEXTS = [token.decode("latin-1") for token in YAML_TOKENS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for the files of these tests."""
    return tmp_path_factory.mktemp("fuzz")


def check_settings(path: Path | None, environ: Mapping[str, str]) -> None:
    """Settings are loaded and usable, or refused in one line that reveals no secret."""
    made = value_or_refusal(lambda: load_settings(path, environ), SettingsError)
    if made is None:
        with pytest.raises(SettingsError) as refusal:
            load_settings(path, environ)
        assert SECRET not in str(refusal.value)
        return
    assert isinstance(made, Settings)
    for source in made.sources.values():
        check_attribute("source", source.base_url)
    if made.server.public_url is not None:
        check_attribute("dataschema", made.server.public_url)
    assert all(0 <= pause <= MAX_DURATION_SECONDS for pause in made.delivery.retry_schedule)


@fuzzed(text=mutated(st.sampled_from([SHIPPED, ALL_OF_IT]), YAML_TOKENS))
def test_a_settings_file(folder: Path, text: bytes) -> None:
    path = folder / "relay.yaml"
    path.write_bytes(text)
    check_settings(path, ENVIRON)


def nest(key: str, value: Any) -> Any:
    """The value at this path of keys."""
    for part in reversed(key.replace("[]", "").split(".")):
        value = {part: value}
    return value


@fuzzed(
    key=st.sampled_from(KEYS),
    value=VALUES | st.lists(VALUES, max_size=3) | st.sampled_from(YAML_TEXTS),
)
def test_any_value_at_any_key(folder: Path, key: str, value: Any) -> None:
    path = folder / "relay.yaml"
    path.write_text(yaml.safe_dump(nest(key, value)), encoding="utf-8", errors="surrogatepass")
    check_settings(path, ENVIRON)


VARIABLE_NAMES = st.one_of(
    st.sampled_from(["RELAY_" + key.replace("[]", "").replace(".", "__").upper() for key in KEYS]),
    st.sampled_from(["DATABASE_URL", "REVOR_API_KEY", "REVOR_BASE_URL", "RELAY_ENCRYPTION_KEY", "TOKEN", "RELAY___A"]),
    st.sampled_from(["RELAY_A" + "__A" * 2000, "RELAY_SERVER", "RELAY_SOURCES__X__PRESET", "RELAY_SERVER__"]),
    TEXTS.map(lambda text: f"RELAY_SERVER__{text}"),
)
VARIABLE_VALUES = mutated_text(
    [
        "8080",
        "true",
        "sqlite:///relay.db",
        "postgresql://u:p@h:5432/db?ssl=1",
        "null",
        "127.0.0.1",
        "[5s, 5m]",
        '["10.0.0.0/8"]',
        "https://h.example",
        '{"a": "${TOKEN}"}',
        "5s",
    ],
    YAML_TEXTS,
)


@fuzzed(variables=st.dictionaries(VARIABLE_NAMES, VARIABLE_VALUES, max_size=3))
def test_variables(folder: Path, variables: dict[str, str]) -> None:
    path = folder / "all.yaml"
    if not path.exists():
        path.write_bytes(ALL_OF_IT.replace(b', "${file:/run/secrets/key}"', b""))
    check_settings(None, {**ENVIRON, **variables})
    check_settings(path, {**ENVIRON, **variables})


@fuzzed(
    key=st.sampled_from(KEYS),
    text=VARIABLE_VALUES,
    form=st.sampled_from(["${S}", "a${S}", "${S}${S}", "{a: '${S}'}", "['${S}']", "$${S}", "${file:${S}}", "${S"]),
)
def test_any_reference_gives_a_value_or_an_error(folder: Path, key: str, text: str, form: str) -> None:
    path = folder / "relay.yaml"
    path.write_text(yaml.safe_dump(nest(key, form)), encoding="utf-8")
    check_settings(path, {**ENVIRON, "S": text})
    check_settings(path, {**ENVIRON, "S": f"{SECRET}{text}"})


@fuzzed(text=st.text(st.characters(exclude_categories=["Cs"])) | mutated_text(["a: {b: [c]}"], YAML_TEXTS).map(whole))
def test_any_text_is_settings_or_an_error(text: str) -> None:
    value_or_refusal(lambda: parse_yaml(text, name="relay.yaml"), SettingsError)


@fuzzed(raw=st.binary() | st.sampled_from([b"", b"\n", b"\xff", b"x" * 70_000]), path=TEXTS.map("/nowhere/{}".format))
def test_secret_files(folder: Path, raw: bytes, path: str) -> None:
    (folder / "secret").write_bytes(raw)
    for place in (str(folder / "secret"), str(folder), path, path[1:]):
        found = value_or_refusal(lambda place=place: read_secret_file(place), ValueError)  # type: ignore[misc]
        assert found is None or found == raw.decode().rstrip("\r\n")


@fuzzed(given=VALUES | mutated_text(["5s", "1.5 h", "500ms", "20d", "0s"], ["m", ".", "-", "e", "١"]))
def test_durations(given: object) -> None:
    seconds = value_or_refusal(lambda: fields.parse_duration(given), ValueError)
    assert seconds is None or 0 <= seconds <= MAX_DURATION_SECONDS


@fuzzed(given=mutated_text(["A" * 43 + "=", "whsec_" + "A" * 44], ["-", "_", "+", "/", "=", "é"]))
def test_keys(given: str) -> None:
    key = value_or_refusal(lambda: fields.decode_encryption_key(given), ValueError)
    assert key is None or len(key) == 32


@fuzzed(
    url=mutated_text(
        ["https://revor.ai/api/v1", "http://127.0.0.1:8080", "http://[::1]:8080/x"],
        ["@", ":", "[", "]", "%", "/", "?", "#", "\\", "İ", "K", "℀", "\ufffe", "99999", "http:"],
    )
)
def test_urls(url: str) -> None:
    parts = value_or_refusal(lambda: fields.split_url(url), ValueError)
    if parts is None:
        return
    shown = f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"
    for host in ("127.0.0.1", "::1", "0.0.0.0", parts.hostname or ""):
        assert is_bound_address(shown, host=host, port=8080) in (True, False)
    assert is_within(shown, shown)


# Definitions of sources --------------------------------------------------------------------------------------------

DEFINITION = (SOURCES / "revor.yaml").read_bytes()
HINTS = (SOURCES / "revor.hints.yaml").read_bytes()
DEFINITION_VALUE = yaml.safe_load(DEFINITION)
HINTS_VALUE = yaml.safe_load(HINTS)
REVOR = load_definition("revor")


def check_definition(folder: Path, definition: bytes, hints: bytes) -> None:
    """A definition is loaded and usable, or refused in one line."""
    (folder / "revor.yaml").write_bytes(definition)
    (folder / "revor.hints.yaml").write_bytes(hints)
    made = value_or_refusal(lambda: load_definition("revor", directory=folder), SettingsError)
    if made is None:
        return
    assert isinstance(made, SourceDefinition)
    assert made.job_url("https://h.example", "a/b").startswith("https://h.example/")
    assert made.auth_headers("key")
    for kind in JOB_EVENTS:
        for problem in (None, Problem(code="insufficient_credits", message="m", retryable=True)):
            hint = made.hint_for(problem, kind, channel="email")
            assert hint is None or hint.meaning


@fuzzed(definition=mutated(st.just(DEFINITION), YAML_TOKENS))
def test_a_definition_of_a_source(folder: Path, definition: bytes) -> None:
    check_definition(folder, definition, HINTS)


@fuzzed(hints=mutated(st.just(HINTS), YAML_TOKENS))
def test_hints_of_a_source(folder: Path, hints: bytes) -> None:
    check_definition(folder, DEFINITION, hints)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree."""
    yield path
    if isinstance(value, dict):
        for name, child in value.items():
            yield from places(child, (*path, name))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The tree with this value at this path."""
    if not path:
        return value
    changed = copy.deepcopy(tree)
    here = changed
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return changed


@fuzzed(
    place=st.sampled_from(
        [(tree, path) for tree in (DEFINITION_VALUE, HINTS_VALUE) for path in sorted(places(tree), key=str)]
    ),
    value=VALUES | st.sampled_from(["{channel}", "{x}", "/{id}", "{api_key}\n", "a.b", ["a", 1], {"": {}}, {1: 2}]),
)
def test_any_value_in_a_definition(folder: Path, place: tuple[Any, tuple[Any, ...]], value: Any) -> None:
    tree, path = place
    changed = yaml.safe_dump(put(tree, path, value)).encode("utf-8", "surrogatepass")
    if tree is DEFINITION_VALUE:
        check_definition(folder, changed, HINTS)
    else:
        check_definition(folder, DEFINITION, changed)


@fuzzed(id=TEXTS, base_url=TEXTS)
def test_any_id_stays_one_segment_of_the_path(id: str, base_url: str) -> None:
    root = f"https://h.example/{whole(base_url)}"
    assert "/" not in REVOR.job_url(root, id).removeprefix(REVOR.job_url(root, ""))
