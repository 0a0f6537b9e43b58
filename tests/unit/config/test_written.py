"""Where each setting was written, and the settings as they are in force."""

from pathlib import Path
from typing import Any

from relay.config.settings import Settings, effective_settings, load_settings, takes_over
from relay.core.values import EffectiveSetting

FILE = """\
server:
  port: 9090
auth:
  tokens:
    - name: ops
      token: ${OPS}
      scopes: [admin]
delivery:
  jitter: 0.5
security:
  allow_hosts: ["*.example"]
  egress_proxy: http://user:${file:/dev/null}hunter2@proxy.example:1
sources:
  revor:
    accounts:
      second: {api_key: "key-two"}
subscriptions:
  - id: crm
    sink: https://crm.example/very-secret
"""
ENVIRON = {
    "OPS": "abcabcabcabcabcabcabc",
    "REVOR_API_KEY": "key-one",
    "RELAY_DELIVERY__PER_HOST": "7",
    "RELAY_WEB__SEARCH_KEYS": '["deal"]',
}


def settings(tmp_path: Path, text: str = FILE, environ: dict[str, str] | None = None, **given: Any) -> Settings:
    path = tmp_path / "relay.yaml"
    path.write_text(text.replace("${file:/dev/null}", ""))
    return load_settings(path, {**ENVIRON, **(environ or {})}, **given)


def by_key(made: Settings) -> dict[str, EffectiveSetting]:
    return {one.key: one for one in effective_settings(made)}


def test_no_secret_is_in_what_is_shown(tmp_path: Path) -> None:
    shown = repr(effective_settings(settings(tmp_path, environ={"DATABASE_URL": "postgresql://me:hunter3@db/x"})))
    for secret in (ENVIRON["OPS"], "key-one", "key-two", "hunter2", "hunter3", "very-secret"):
        assert secret not in shown


def test_places_of_a_reload_are_new_for_what_it_applies_only(tmp_path: Path) -> None:
    old = settings(tmp_path)
    new = settings(
        tmp_path, "\n\n" + FILE.replace("9090", "9191").replace("0.5", "0.7").replace("name: ops", "name: us")
    )
    found = by_key(takes_over(old, new))
    name = f"{tmp_path}/relay.yaml"
    assert (found["server.port"].value, found["server.port"].place) == (9090, f"{name}:2")
    assert (found["delivery.jitter"].value, found["delivery.jitter"].place) == (0.7, f"{name}:11")
    assert (found["auth.tokens[0].name"].value, found["auth.tokens[0].name"].place) == ("us", f"{name}:7")
    assert found["sources.revor.accounts.second.api_key"].place == f"{name}:18"
    back = by_key(takes_over(old, settings(tmp_path, "server: {port: 9090}\n")))
    assert (back["delivery.jitter"].value, back["delivery.jitter"].place) == (0.2, "default")
