"""The definitions of the settings' sources, and the base URL of each, which is that of its definition by default."""

from collections.abc import Mapping
from pathlib import Path

from relay.config.fields import upstream_url
from relay.config.settings import Settings, check_base_url
from relay.errors import SettingsError
from relay.sources.definition import SourceDefinition, definition_in, load_definition
from relay.sources.documents import read_document


def definitions_of(settings: Settings) -> dict[str, SourceDefinition]:
    """The definition of each source. Raises SettingsError."""
    return {name: definition_of(settings, name) for name in settings.sources}


def definition_of(settings: Settings, name: str) -> SourceDefinition:
    """The definition of a source. Raises SettingsError with a line for each fault: the place of the setting, and that
    in the definition."""
    source = settings.sources[name]
    try:
        if source.file is not None:
            definition = definition_in(read_document(Path(source.file)), name)
        else:
            definition = load_definition(source.preset, name=name)
    except SettingsError as error:
        key = f"sources.{name}.{'preset' if source.file is None else 'file'}"
        before = f"{settings.written.place(key)}: {key}"
        raise SettingsError(*(f"{before}: {line}" for line in error.lines)) from None
    if source.credits_low is not None and definition.credits is None:
        key = f"sources.{name}.credits_low"
        problem = f"the definition of {definition.title} has no `credits`, so nothing can be read: remove the setting"
        raise SettingsError(f"{settings.written.place(key)}: {key}: {problem}")
    return definition


def with_base_urls(settings: Settings, definitions: Mapping[str, SourceDefinition]) -> Settings:
    """The settings with a base URL for each source. Raises SettingsError."""
    sources = {
        name: source if source.base_url else source.replace(base_url=base_url_of(settings, name, definitions[name]))
        for name, source in settings.sources.items()
    }
    return settings.replace(sources=sources)


def base_url_of(settings: Settings, name: str, definition: SourceDefinition) -> str:
    """The base URL of a source. Raises SettingsError if neither it nor its definition has one that is allowed."""
    written = settings.sources[name].base_url
    if written:
        return written
    place = settings.written.place(f"sources.{name}")
    if definition.base_url is None:
        problem = "has no base_url, and its definition has none: set it to the upstream's"
        raise SettingsError(f"{place}: sources.{name} {problem}")
    try:
        base_url = upstream_url(definition.base_url)
    except ValueError as error:
        raise SettingsError(f"{place}: sources.{name}: the base_url of its definition {error}") from None
    check_base_url(settings, name, base_url)
    return base_url
