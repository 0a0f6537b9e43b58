"""Data files are found inside the installed package first, then beside it."""

from pathlib import Path

import pytest

from relay import resources
from relay.errors import RelayError


def test_in_this_source_tree() -> None:
    root = Path(resources.__file__).resolve().parents[1]
    assert resources.default_settings_file() == root / "relay.yaml"
    assert resources.migrations_dir() == root / "alembic"
    assert resources.schemas_dir() == root / "schemas"
    assert resources.salesforce_dir() == root / "deploy" / "salesforce"


def test_the_installed_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "relay"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    (package / "_schemas").mkdir(parents=True)
    (tmp_path / "schemas").mkdir()
    assert resources.schemas_dir() == package / "_schemas"
    (tmp_path / "alembic").mkdir()
    assert resources.migrations_dir() == tmp_path / "alembic"
    with pytest.raises(RelayError, match=r"neither .*_relay\.yaml nor .*relay\.yaml exists. Reinstall"):
        resources.default_settings_file()
