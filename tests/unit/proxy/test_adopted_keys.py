import pytest

from relay.config.settings import Settings
from relay.proxy.types import with_adopted


@pytest.mark.parametrize(
    ("key", "adopted"),
    [
        ("sk-revor-1", True),
        ("sk-revor-\u03a9", False),
        ("sk revor", False),
        ("sk-revor\x7f", False),
        ("sk\u00e9", False),
        ("sk\\revor", False),
    ],
)
def test_only_keys_that_an_account_can_have_are_adopted(key: str, adopted: bool) -> None:
    """One that the settings refuse would make every later adoption fail, and the next start."""
    settings = with_adopted(Settings(), {("revor", "key-1"): key, ("revor", "key-2"): "sk-revor-2"})
    assert ("key-1" in settings.sources["revor"].accounts) is adopted
    assert "key-2" in settings.sources["revor"].accounts
