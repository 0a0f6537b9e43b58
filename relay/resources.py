"""Data files: found inside the installed package, or beside it in a source tree."""

from pathlib import Path

from relay.errors import RelayError
from relay.installation import reinstall_command

_PACKAGE = Path(__file__).resolve().parent


class ResourceMissing(RelayError):
    """A data file of the program is missing: the installation is broken."""

    code = "resource_missing"


def migrations_dir() -> Path:
    """The folder with Alembic's `env.py` and `versions/`. Raises ResourceMissing."""
    return _find("_migrations", "alembic")


def schemas_dir() -> Path:
    """The folder with the JSON Schemas of events and API. Raises ResourceMissing."""
    return _find("_schemas", "schemas")


def salesforce_dir() -> Path:
    """The folder with the definition of the object that Salesforce records events in. Raises ResourceMissing."""
    return _find("_salesforce", "deploy/salesforce")


def default_settings_file() -> Path:
    """The commented `relay.yaml` that `relay init` writes. Raises ResourceMissing."""
    return _find("_relay.yaml", "relay.yaml")


def _find(installed: str, source: str) -> Path:
    places = (_PACKAGE / installed, _PACKAGE.parent / source)
    for place in places:
        if place.exists():
            return place
    command = reinstall_command()
    again = "Install the relay again from a clone or a wheel" if command is None else f"Reinstall with `{command}`"
    raise ResourceMissing(f"neither {places[0]} nor {places[1]} exists. {again}")
