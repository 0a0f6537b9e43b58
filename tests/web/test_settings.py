"""The settings in the dashboard: every value, where it comes from, and no secret."""

from pathlib import Path

from relay.config.settings import Settings, describe_settings, load_settings
from tests.support.api_world import World
from tests.support.web_world import Answer, Browser

FILE = """\
server:
  public_url: https://relay.example
auth:
  tokens:
    - name: ops
      token: ${OPS}
      scopes: [admin]
delivery:
  jitter: 0.5
heartbeat:
  url: https://hc.example/ping/very-secret
"""
ENVIRON = {"OPS": "very-secret-very-secret", "REVOR_API_KEY": "very-secret", "RELAY_SERVER__PORT": "9090"}


def loaded(tmp_path: Path, text: str = FILE) -> Settings:
    path = tmp_path / "relay.yaml"
    path.write_text(text)
    return load_settings(path, ENVIRON, host="127.0.0.1")


def rows_of(page: Answer) -> dict[str, dict[str, str]]:
    tables = range(len(page.soup.all("//main//table")))
    rows = [row for table in tables for row in page.soup.rows(table)]
    return {row["Setting"].split(" ")[0]: row for row in rows}


async def test_every_setting_has_its_value_and_where_it_comes_from(
    browser: Browser, world: World, tmp_path: Path
) -> None:
    world.node.settings = loaded(tmp_path)
    page = await browser.get("/ui/settings")
    rows = rows_of(page)
    name = f"{tmp_path}/relay.yaml"
    for key, value, place, change in (
        ("server.public_url", "https://relay.example", f"{name}:2 default: null", "needs a restart"),
        ("server.port", "9090", "RELAY_SERVER__PORT default: 8080", "needs a restart"),
        ("server.host", "127.0.0.1", '--host default: "127.0.0.1"', "needs a restart"),
        ("auth.tokens[0].token", "set", f"{name}:6 (${{OPS}})", "SIGHUP applies it"),
        (
            "sources.revor.accounts.default.api_key",
            "set",
            'REVOR_API_KEY default: "${REVOR_API_KEY}"',
            "SIGHUP applies it",
        ),
        ("delivery.jitter", "0.5", f"{name}:9 default: 0.2", "SIGHUP applies it"),
        ("delivery.callback_secret", "not set", "default", "SIGHUP applies it"),
        ("security.allow_ports", "443", "default", "needs a restart"),
    ):
        row = rows[key]
        assert (row["Value"], row["Comes from"], row["A change"]) == (value, place, change)
    assert "very-secret" not in page.html
    for doc in describe_settings():
        if ".NAME." not in doc.key and not doc.key.startswith("auth.tokens"):
            assert doc.meaning in rows[doc.key]["Setting"]


async def test_hostile_values_are_text(browser: Browser, world: World, tmp_path: Path) -> None:
    world.node.settings = loaded(tmp_path, 'web:\n  search_keys: ["<script>alert(1)</script>"]\n')
    page = await browser.get("/ui/settings")
    assert "<script>alert" not in page.html
    assert "&lt;script&gt;" in page.html
