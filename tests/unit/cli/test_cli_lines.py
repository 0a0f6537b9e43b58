"""The command line as a user sees it: exit codes, one line per error, and no traceback."""

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relay import cli
from relay.cli import run
from relay.store.databases.sqlite import HolderLock
from relay.store.schema import migrations


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("REVOR_API_KEY", "REVOR_BASE_URL", "DATABASE_URL", "RELAY_TOKEN", "RELAY_DEBUG", "RELAY_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["frob"], 2, "No such command 'frob'"),
        (["jobs", "import", "nope.csv"], 2, "cannot read nope.csv"),
        (["sources", "revor"], 2, "No such command 'revor'"),
        (["status", "revor"], 2, "unexpected extra argument"),
        (["sources", "test", "nope"], 2, "there is neither a preset nor a file 'nope'"),
        (["support"], 2, "Missing argument"),
        (["u"], 2, "No such command"),
        (["tokens", "create", "crm"], 2, "Missing option '--scopes'"),
        (["tokens", "create", "crm", "--scopes", "reed"], 2, "did you mean read?"),
        (["tokens", "create", "crm", "--scopes", ","], 2, "--scopes is empty"),
        (["tokens", "create", "crm", "--scopes", "read", "--expires", "soon"], 2, "invalid --expires 'soon'"),
        (["jobs", "add"], 2, "Missing argument 'ID'. See `relay jobs add --help`"),
        (["job", "list"], 2, "No such command 'job'. Did you mean 'jobs'? See `relay --help`"),
        (["doctor", "--bundle"], 2, "requires an argument. See `relay doctor --help`"),
        (["keys", "rotate", "all"], 2, "'callback-secret'. See `relay keys rotate --help`"),
        (["subscriptions", "add", "slack"], 2, "'slack' is a kind of sink. Give its URL"),
        (["subscriptions", "add", "hooks.example.com/x"], 2, "did you mean https://hooks.example.com/x?"),
        (["subscriptions", "add", "hubspott"], 2, "did you mean hubspot?"),
        (["jobs", "add", "a", "--metadata", "[1]"], 2, "--metadata is not a JSON object"),
        (["jobs", "wait", "a", "--until", "never"], 2, "'running'"),
        (["jobs", "list", "--nope"], 2, "--nope"),
        (["serve", "--roles", "api,dispatchr"], 2, "did you mean dispatcher?"),
        (["serve", "--roles", ","], 2, "--roles is empty"),
        (["serve", "--config", "nope.yaml"], 2, "nope.yaml"),
        (["serve", "--host", "0.0.0.0", "--dev"], 2, "--dev needs no token from this machine"),
        (["serve", "--port", "70000"], 2, "--port"),
        (["sandbox", "--rate-limit", "3"], 2, "--rate-limit"),
        (["sandbox", "--rate-limit", "0/60"], 2, "--rate-limit"),
        (["sandbox", "--rate-limit", f"{'9' * 400}/60"], 2, "--rate-limit"),
        (["sandbox", "--count-attempts", "middle"], 2, "'start', 'end'"),
        (["sandbox", "--speed", "0"], 2, "--speed"),
        (["demo", "--speed", "fast"], 2, "Invalid value for '--speed': it must be a number, not 'fast'"),
        (["jobs", "list", "--limit", "many"], 2, "Invalid value for '--limit': it must be a whole number, not 'many'"),
        (["serve", "--port", "99999"], 2, "Invalid value for '--port': it must be at most 65535, not '99999'"),
        (["sandbox", "--host", "0.0.0.0"], 2, "loopback only"),
        (["listen", "--forward-to", "http://example.com/x"], 2, "another machine"),
        (["listen", "--forward-to", "ftp://x"], 2, "not a URL"),
        (["events", "tail", "--types", "faild"], 2, "did you mean failed?"),
        (["verify", "--secret", "whsec_x", "nope"], 2, "cannot read nope"),
        (["verify"], 2, "--secret"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("relay: ")
    assert text in err


def test_unexpected_error_mentions_the_debug_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("oh")

    monkeypatch.setattr("relay.cli.jobs.jobs.api", broken)
    assert run(["jobs", "list"]) == 1
    err = capsys.readouterr().err
    assert err == "relay: unexpected error: ValueError: oh (set RELAY_DEBUG=1 to see where)\n"
    monkeypatch.setenv("RELAY_DEBUG", "1")
    assert run(["jobs", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interruption_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("relay.cli.jobs.jobs.api", interrupted)
    assert run(["jobs", "list"]) == 130


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    listed = re.findall(r"^  ([a-z-]+)  ", out.partition("\nRun:")[2], re.MULTILINE)
    assert listed == [
        *("demo", "init", "check", "serve", "migrate", "sandbox", "status", "doctor", "settings"),
        *("jobs", "groups", "accounts", "incidents", "intents", "sources", "figures", "erase"),
        *("subscriptions", "events", "deliveries", "replays", "listen", "verify", "signing-secret"),
        *("ui", "tokens", "keys", "audit"),
        *("apply", "export", "salesforce-definition"),
    ]
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("relay ")
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0


def test_init_writes_the_shipped_settings_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init"]) == 0
    text = Path("relay.yaml").read_text()
    assert text.startswith("# Settings of revor-relay.")
    Path("relay.yaml").write_text("mine")
    capsys.readouterr()
    assert run(["init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("relay.yaml").read_text() == "mine"
    assert run(["init", "--force"]) == 0
    assert Path("relay.yaml").read_text() == text


@pytest.mark.parametrize("folder", [".", "a\x85b\u2028c", "two\u2029 'words\" #"])
def test_init_stores_the_key_in_a_private_file(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    from relay.config.settings import load_settings

    Path(folder).mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("relay.cli.node.local._asked_key", lambda: "sk-revor-something")
    monkeypatch.setattr("relay.cli.node.local.is_terminal", lambda: True)
    assert run(["init"]) == 0
    assert Path("revor.key").stat().st_mode & 0o777 == 0o600
    assert "sk-revor-something" not in Path("relay.yaml").read_text()
    account = load_settings(Path("relay.yaml"), {}).sources["revor"].accounts["default"]
    assert account.api_key == "sk-revor-something"
    assert account.api_key_file == str(Path("revor.key").resolve())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["create", "a b", "--scopes", "read"], "/name: a name of up to 64"),
        (["create", "crm", "--scopes", "read", "--expires", "2020-01-01T00:00:00Z"], "over already"),
        (["create", "crm", "--scopes", "read", "--account", "nobody"], "has no account 'nobody'"),
        (["create", "crm", "--scopes", "read", "--network", "10.0.0.1/8"], "like 10.0.0.0/8"),
        (["revoke", "nobody"], "there is no token 'nobody'"),
    ],
)
def test_mistake_in_a_token_is_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    capsys.readouterr()
    assert run(["tokens", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert text in err


WITHOUT_A_DATABASE = (
    *(["tokens", "create", "crm", "--scopes", "read"], ["tokens", "list"], ["tokens", "revoke", "crm"]),
    *(["audit"], ["audit", "verify"], ["apply"], ["export"], ["export", "--with-secrets"]),
    *(["keys", "rotate"], ["keys", "rotate", "signing"], ["erase", "--job", "job_1"], ["jobs", "import", "jobs.txt"]),
    *(["check"], ["apply", "--dry-run"], ["ui"], ["subscriptions", "list"]),
)


@pytest.mark.parametrize("arguments", WITHOUT_A_DATABASE, ids=" ".join)
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9"])
def test_command_in_a_folder_without_a_database_makes_none(
    arguments: list[str], url: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("jobs.txt").write_text("job_1\n")
    Path("relay.yaml").write_text("server: {port: 9}\n")
    if url is not None:
        monkeypatch.setenv("RELAY_URL", url)
    code = run(arguments)
    assert list(Path().glob("*.db*")) == []
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if arguments[0] != "check" and arguments != ["apply", "--dry-run"]:
        assert code != 0
        assert err.splitlines()[-1].startswith("relay: ")
    if arguments[0] in ("tokens", "audit", "apply", "keys") and url is None and "--dry-run" not in arguments:
        assert code == 2
        assert f"there is no database at {Path('relay.db').resolve()}, and no relay answers at http://127" in err


def test_migrate_creates_the_newest_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    out = capsys.readouterr().out
    assert migrations.newest_revision() in out
    assert f"created {Path('relay.db').resolve()}" in out
    migrations.check("sqlite:///relay.db")
    assert run(["migrate"]) == 0
    assert capsys.readouterr().out == f"the database has the newest schema, {migrations.newest_revision()}\n"


def test_migrate_says_what_an_older_schema_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    values = "'revor', 'default', 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, '{}'"
    with closing(sqlite3.connect("relay.db")) as connection, connection:
        connection.execute(
            "INSERT INTO jobs (source, account, sequence, retry_count, running_sent, overdue, attempt_count, weight,"
            f" tracked_at, poll_count, failure_count, missing_count, metadata, uid, external_id, resource, trace)"
            f" VALUES ({values}, 'job_1', 'a', 'websets', '00-1'), ({values}, 'job_2', 'b', '', '00-2')"
        )
    capsys.readouterr()
    assert run(["migrate", "--to", "0027"]) == 0
    removed = "trace contexts (2), jobs of further resources (1)"
    assert capsys.readouterr().out == f"the database has schema 0027. Removed: {removed}\n"
    assert run(["migrate", "--to", "0026"]) == 0
    assert capsys.readouterr().out == "the database has schema 0026\n"


def test_migrate_names_the_process_that_holds_the_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    lock = HolderLock(Path("relay.db.lock").resolve())
    lock.acquire()
    capsys.readouterr()
    try:
        assert run(["migrate"]) == 2
    finally:
        lock.release()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"pid \d+", err)


REVISIONS = "CREATE TABLE alembic_version (version_num VARCHAR(32)); INSERT INTO alembic_version VALUES "
OF_OTHERS = {
    "a table of ours": "CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE tokens (id INTEGER);",
    "an empty revision": f"{REVISIONS} ('');",
    "a revision of another program": f"{REVISIONS} ('ae1027a6acf');",
    "several revisions, one of another program": f"{REVISIONS} ('0026'), ('ae1027a6acf');",
    "a revision that is no text": f"{REVISIONS} (x'ff00');",
    "no revision, and a table of ours": f"{REVISIONS} ('x'); DELETE FROM alembic_version; CREATE TABLE jobs (id);",
}


NOT_OURS = ("belongs to another program", "set database.url to another one")
TWO_SCHEMAS = ("has the schemas 0025 and 0026 at once", "restore the backup into an empty database")
REFUSED = {
    **{name: (script, *NOT_OURS) for name, script in OF_OTHERS.items()},
    "a backup restored over a newer schema": (f"{REVISIONS} ('0026'), ('0025');", *TWO_SCHEMAS),
}


@pytest.mark.parametrize(("script", "why", "fix"), REFUSED.values(), ids=REFUSED)
def test_database_that_cannot_be_used_is_refused_by_every_command_and_left_alone(
    script: str, why: str, fix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVOR_API_KEY", "sk-revor-1")
    monkeypatch.setenv("REVOR_BASE_URL", "http://127.0.0.1:9")
    with closing(sqlite3.connect("relay.db")) as database:
        database.executescript(script)
        before = list(database.iterdump())
    Path("relay.db").chmod(0o644)
    for arguments in (
        *(["migrate"], ["serve", "--port", "0"], ["check"], ["tokens", "list"], ["audit"], ["export"]),
        *(["keys", "rotate"], ["apply"]),
    ):
        assert run(arguments) == 2, arguments
        shown = capsys.readouterr()
        text = shown.out if arguments == ["check"] else shown.err
        (line,) = [one for one in text.splitlines() if why in one]
        assert fix in line, arguments
        assert "Traceback" not in shown.out + shown.err
    assert Path("relay.db").stat().st_mode & 0o777 == 0o644
    with closing(sqlite3.connect("relay.db")) as database:
        assert list(database.iterdump()) == before


@pytest.mark.parametrize("option", ["--filters", "--template", "--credential"])
def test_closed_input_is_like_an_empty_one(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["subscriptions", "preview", "https://a.example/", option, "-"])
    assert ended.value.code == 2
    assert f"{option} - is not JSON" in capsys.readouterr().err
    sys.stdin.close()


@pytest.mark.parametrize(
    "command", [["serve", "--port", "0"], ["migrate"], ["check"], ["tokens", "create", "a", "--scopes", "read"]]
)
@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            "nowhere/relay.db",
            "the folder {root}/nowhere of the database does not exist. Create it, or set database.url",
        ),
        ("folder", "database.url names the folder {root}/folder. Name a file in it: sqlite:///{root}/folder/relay.db"),
    ],
)
def test_place_that_cannot_hold_the_database_is_named(
    command: list[str],
    place: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / place}")
    monkeypatch.setenv("REVOR_BASE_URL", "http://127.0.0.1:1")
    if command[0] == "tokens" and place != "folder":
        text = "there is no database at {root}/nowhere/relay.db"  # it asks a running relay first
    assert run(command) == 2
    captured = capfd.readouterr()
    assert text.format(root=tmp_path) in captured.out + captured.err
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".lock"] == []


def test_variable_with_single_underscores_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAY_SERVER_PORT", "9999")
    warning = "RELAY_SERVER_PORT is not read. Parts of a setting are joined by two underscores: set RELAY_SERVER__PORT"
    assert run(["migrate"]) == 0
    assert f"relay: {warning}\n" in capfd.readouterr().err
    run(["check"])
    assert f"settings\twarning\t{warning}\n" in capfd.readouterr().out
