"""Every advisory lock has a key of its own, and all keys are in one list."""

import re
from pathlib import Path

import pytest

import relay
from relay.store.databases.locks import Key

ROOT = Path(relay.__file__).parents[1]
CALL = re.compile(r"\bpg_\w*advisory\w*\(([^,)]*)")
NODE_NAME = "hashtextextended(name"
"""The key of a node's name is a hash of 64 bits: see `relay.store.databases.lease_owners`."""


def calls() -> list[tuple[str, str]]:
    files = sorted(path for folder in ("relay", "alembic") for path in (ROOT / folder).rglob("*.py"))
    return [(str(path.relative_to(ROOT)), key) for path in files for key in CALL.findall(path.read_text())]


def test_no_two_locks_share_a_key() -> None:
    assert len(Key.__members__) == len({key.value for key in Key})  # an alias has no member of its own in the set


@pytest.mark.parametrize(("file", "key"), calls())
def test_every_advisory_lock_takes_its_key_from_the_list(file: str, key: str) -> None:
    listed = {f"{{Key.{name}}}" for name in Key.__members__}
    assert key in listed or (file == "relay/store/databases/lease_owners.py" and key.startswith(NODE_NAME))


def test_every_key_of_the_list_is_used() -> None:
    assert {key for _, key in calls() if key.startswith("{")} == {f"{{Key.{name}}}" for name in Key.__members__}
