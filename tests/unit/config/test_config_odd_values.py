"""Odd values, found by fuzzing, give a one-line error and no traceback."""

from pathlib import Path

import pytest

from relay.config.settings import load_settings
from relay.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: !!int ''}", "relay.yaml:1: server.port has a YAML tag or form that is not supported"),
        ("server: {port: !!bool x}", "relay.yaml:1: server.port has a YAML tag or form that is not supported"),
        ("server: {port: !!timestamp x}", "relay.yaml:1: server.port has a YAML tag or form that is not supported"),
        (f"server: {{port: 0x{'f' * 5000}}}", "from 0 to 65535, not a number of so many digits"),
        ('server: {public_url: "https://x/\\ud800"}', "relay.yaml:1: server.public_url is not UTF-8 text"),
        ('server: {public_url: "https://x/\\ufffe"}', "server.public_url has white space, a backslash or a control"),
        ('server: {"a\\nb": 1}', "relay.yaml:1: unknown key server.a b: did you mean"),
        ("security: {allow_networks: [host bits]}", "must be a network such as 10.0.0.0/8 or fd00::/8, not"),
    ],
)
def test_odd_value_in_a_file_is_a_settings_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "relay.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "relay.yaml", {})
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("RELAY_SERVER__HOST", "\udcff", "RELAY_SERVER__HOST: server.host is not UTF-8 text"),
        ("RELAY_A" + "__A" * 2000, "1", "settings in variables are named RELAY_SECTION__KEY"),
    ],
)
def test_odd_value_in_a_variable_is_a_settings_error(name: str, given: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {name: given})
    assert message in str(caught.value)
