"""An environment without an extra."""

import sys

import pytest


def without_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the extra `templates` away until `monkeypatch` is undone."""
    for name in list(sys.modules):
        if name == "liquid" or name.startswith("liquid.") or name == "relay.expressions.liquid":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("relay.expressions.liquid", None, raising=False)
    monkeypatch.delattr("relay.expressions.liquid")
    monkeypatch.setitem(sys.modules, "liquid", None)
