"""A setting as it is in force is a value."""

from dataclasses import FrozenInstanceError, replace

import pytest

from relay.core.values import DEFAULT, EffectiveSetting

PORT = EffectiveSetting(
    key="server.port",
    value=8080,
    secret=False,
    is_set=True,
    place=DEFAULT,
    reloaded=False,
    default="8080",
    type="an integer from 0 to 65535",
    meaning="port to listen on",
)


def test_a_setting_is_compared_by_its_values_and_never_changes() -> None:
    assert replace(PORT) == PORT
    assert replace(PORT, place="relay.yaml:2") != PORT
    with pytest.raises(FrozenInstanceError):
        PORT.value = 1  # type: ignore[misc]
