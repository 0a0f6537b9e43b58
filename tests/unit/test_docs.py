"""The documentation covers the code: everything public in the code must be named in docs/."""

import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

import relay.cli
from relay.config.settings import VARIABLES
from relay.core.events.event import RELAY_EVENTS, source_event_types
from relay.core.subscriptions.signing import new_secret, new_signing_key, public_key_of, sign
from relay.errors import RelayError
from tests.support.job_events import origin_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted((ROOT / "README.md", *DOCS.rglob("*.md")))
HOW_IT_WORKS = (DOCS / "how-it-works" / "architecture.md", DOCS / "how-it-works" / "developing.md")
OF_THE_CODE = (ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", DOCS / "design" / "paths.md", *HOW_IT_WORKS)
CODE = sorted(path for folder in ("relay", "subscribers") for path in (ROOT / folder).rglob("*.py"))
OF_THE_SANDBOX = ROOT / "relay" / "sandbox"  # speaks the upstream's codes, not ours
OF_SAMPLES = ROOT / "relay" / "core" / "samples.py"


def text_of(name: str) -> str:
    """A page of docs/, by its path there."""
    return (DOCS / name).read_text(encoding="utf-8")


def quoted(name: str) -> set[str]:
    """What stands in `backticks` in one of the documents."""
    return set(re.findall(r"`([^`\n]+)`", text_of(name)))


def modules_of(package_name: str) -> Iterator[object]:
    package = importlib.import_module(package_name)
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_generated_parts_are_current() -> None:
    """`python .ci/docs.py` writes them."""
    program = runpy.run_path(str(ROOT / ".ci" / "docs.py"))
    assert list(map(str, program["stale"]())) == [], "run `python .ci/docs.py` and commit what it writes"


def test_documents_stay_short() -> None:
    """`.ci/count.py --words` shows each. A fact stands once, where its reader looks."""
    program = runpy.run_path(str(ROOT / ".ci" / "count.py"))
    assert program["words_by_hand"]() <= program["MOST_WORDS"]


def test_every_variable() -> None:
    assert set(VARIABLES) <= quoted("reference/settings.md")


OF_WEBSETS = ("ai.revor.webset.completed", "ai.revor.webset.progress")


@pytest.mark.parametrize("type", [*source_event_types(origin_of()), *OF_WEBSETS, *RELAY_EVENTS])
def test_every_event_type(type: str) -> None:
    assert type in quoted("reference/events.md")


def test_every_endpoint() -> None:
    from relay.api.catalogue import OPERATIONS

    text = text_of("reference/http-api.md")
    rows = {row.split("`")[1] for row in text.splitlines() if re.match(r"\| `[A-Z]+ /", row)}
    assert {f"{operation.method} {operation.path}".replace(":path}", "}") for operation in OPERATIONS} == rows


def commands_with_options() -> dict[str, list[str]]:
    """Every command that is not hidden, such as `relay jobs add`."""
    from typer.main import get_command

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        children = getattr(command, "commands", {})
        if not children or (words != ("relay",) and command.invoke_without_command):
            options = [option for param in command.params for option in param.opts if option.startswith("--")]
            yield " ".join(words), options
        for name, child in children.items():
            if not child.hidden:
                yield from walk(child, (*words, name))

    return dict(walk(get_command(relay.cli.app), ("relay",)))


def test_every_command() -> None:
    text = text_of("reference/commands.md")
    assert sorted(re.findall(r"^#### (relay .+)$", text, re.MULTILINE)) == sorted(commands_with_options())


def typed(text: str) -> Iterator[str]:
    """The commands of ours in a document: those after a prompt, and those in `backticks`."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = re.findall(r"^\$ (.+)$", blocks, flags=re.MULTILINE)
    lines += re.findall(r"`(relay [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:
            del words[0]  # a variable for this command
        if words and Path(words[0]).name == "relay":
            yield shlex.join(["relay", *words[1:]])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_documented_command_line_is_valid(document: Path) -> None:
    commands = commands_with_options()
    groups = {command.rpartition(" ")[0] for command in commands}
    for line in typed(document.read_text(encoding="utf-8")):
        words = shlex.split(line)
        known = [command for command in commands if words[: len(command.split())] == command.split()]
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        if known:
            assert set(options) - {*commands[max(known, key=len)], "--help"} == set(), f"{document.name}: {line}"
        else:  # `relay --version`, `relay COMMAND --help`, or a whole group
            assert set(options) <= {"--help", "--version", "--install-completion"}, f"{document.name}: {line}"
            rest = [word for word in words[1:] if not word.startswith("--") and not word.isupper()]
            assert not rest or " ".join(words) in groups, f"{document.name}: there is no {line}"


def error_codes() -> set[str]:
    """The codes of all error classes, and those given where one is raised."""
    for package in ("relay", "subscribers"):
        for _ in modules_of(package):
            pass
    classes = [RelayError]
    for error in classes:
        classes.extend(error.__subclasses__())
    validation = importlib.import_module("relay.api.http.validation")
    found = {"wrong_type", "invalid", *validation._CODES.values(), *validation._OWN_CODES}
    found |= {error.code for error in classes if error.__module__.startswith(("relay.", "subscribers."))}
    for path in CODE:
        if OF_THE_SANDBOX not in path.parents and path != OF_SAMPLES:
            found |= set(re.findall(r"\bcode=\"([a-z_]+)\"", path.read_text(encoding="utf-8")))
    return found


def test_every_error_code() -> None:
    documented = quoted("reference/http-api.md") | quoted("operate/troubles.md")
    documented |= {code.removeprefix("relay_") for code in quoted("guides/drop-in.md")}
    assert error_codes() - documented == set()


def test_every_test_named_in_why_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of("design/why.md"))
    assert named
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or re.search(rf"def {test}\(", (ROOT / file).read_text(encoding="utf-8")), f"{file}::{test}"


def test_every_link_leads_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")):
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith(("https://", "http://")):
                continue
            file, _, anchor = target.partition("#")
            aim = (document.parent / file).resolve() if file else document
            assert aim.exists(), f"{document.name}: {target}"
            if anchor:
                text = aim.read_text(encoding="utf-8")
                heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
                anchors = set(re.findall(r'<a id="([^"]+)">', text))
                anchors |= {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in anchors, f"{document.name}: {target}"


@pytest.mark.parametrize("document", OF_THE_CODE, ids=lambda path: path.name)
def test_every_file_of_the_code_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:relay|subscribers|schemas|alembic|tests|docs)/[\w./-]*)`", text))
    assert named
    made_up = ("NAME", "RESOURCE", "GROUP", "000N")  # in the recipes
    assert [n for n in sorted(named) if not any(m in n for m in made_up) and not (ROOT / n).exists()] == []


def test_every_module_that_the_code_names_exists() -> None:
    """In comments, docstrings and texts: `name.py`, with the end of its path, and `core.package.module`."""
    known = [f"/{path.relative_to(ROOT)}" for folder in ("alembic", "tests") for path in (ROOT / folder).rglob("*.py")]
    known += [f"/{path.relative_to(ROOT)}" for path in CODE]
    wrong = []
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"[\w./-]*\w\.py\b", text))
        for dotted in re.findall(r"`(?:relay\.)?((?:api|bus|core|store)(?:\.[a-z]\w*)+)", text):
            if not (ROOT / "relay" / dotted.replace(".", "/")).is_dir():
                module = ROOT / "relay" / f"{dotted.replace('.', '/')}.py"
                named.add(str((module if module.exists() else module.parent.with_suffix(".py")).relative_to(ROOT)))
        wrong += [
            f"{path.relative_to(ROOT)}: {name}" for name in named if not any(k.endswith(f"/{name}") for k in known)
        ]
    assert wrong == []


def test_every_package_has_its_place_on_the_map() -> None:
    text = text_of("how-it-works/architecture.md")
    relay_dir = ROOT / "relay"
    packages = {f"relay/{path.parent.name}/" for path in relay_dir.glob("*/__init__.py")}
    assert {name for name in packages if f"`{name}`" not in text} == set()
    leaves = {path.stem for path in relay_dir.glob("*.py")} - {"__init__", "__main__"}
    assert {leaf for leaf in leaves if f"`{leaf}`" not in text} == set()


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^# (make [\w-]+)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = inspect.cleandoc(text_of("how-it-works/developing.md")) + (ROOT / "README.md").read_text(encoding="utf-8")
    assert targets
    assert [target for target in targets if target not in shown] == []


@pytest.mark.parametrize("secret", [None, ""])
def test_the_receiver_in_the_readme_asks_for_its_secret(secret: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    with pytest.raises(SystemExit, match="WEBHOOK_SECRET=\\$\\(relay signing-secret\\)"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_receiver_in_the_readme_verifies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = new_secret(bytes(range(32)))
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), scope)
    body = b'{"id": "evt_1", "subject": "j-1", "sequence": "0000000001", "type": "ai.revor.job.failed"}'
    timestamp = int(time.time())
    signed = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign([secret], "evt_1", timestamp, body),
    }
    statuses = []
    with HTTPServer(("127.0.0.1", 0), scope["Receiver"]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for sent in (body, body, body + b" "):
            request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", data=sent, headers=signed)
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    statuses.append(response.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
                error.close()
        server.shutdown()
        thread.join()

    assert statuses == [204, 204, 401]
    assert capsys.readouterr().out == "ai.revor.job.failed j-1 0000000001\n"


V1A_CASES = [(0, b"", True), (280, b"", True), (320, b"", False), (-330, b"", False), (0, b" ", False)]
"""Age of the request in seconds, what is added to its body, and whether it verifies."""


def v1a_request(age_seconds: int, added: bytes) -> tuple[list[str], dict[str, str], bytes]:
    """Public keys, headers and body of a request whose first signatures are of another scheme and another key."""
    private, other = (new_signing_key(bytes([number]) * 32) for number in (1, 2))
    timestamp, body = int(time.time()) - age_seconds, b'{"id": "evt_1"}'
    signature = sign([new_secret(bytes(32)), new_signing_key(bytes(32)), private], "evt_1", timestamp, body)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    return [public_key_of(other), public_key_of(private)], headers, body + added


@pytest.mark.parametrize(("age_seconds", "added", "expected"), V1A_CASES)
def test_the_python_example_verifies_v1a(age_seconds: int, added: bytes, expected: bool) -> None:
    scope = runpy.run_path(str(ROOT / "examples" / "verify_v1a.py"))
    keys, headers, body = v1a_request(age_seconds, added)
    assert scope["verify_v1a"](keys, headers, body) is expected
    assert scope["verify_v1a"](keys[:1], headers, body) is False


def rows_of_threats() -> list[tuple[str, ...]]:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Threats")[2]
    rows = [
        tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in page.splitlines() if row.startswith("|")
    ]
    return [row for row in rows[2:] if not row[0].startswith("**")]


def test_every_threat_has_a_measure_and_a_test_that_exists() -> None:
    rows = rows_of_threats()
    assert len(rows) >= 38
    for row in rows:
        assert len(row) == 3, row
        assert all(row), row
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[2])
        assert tests, f"no test of: {row[0]}"
        for path, name in tests:
            source = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
            assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{path} has no {name}"
