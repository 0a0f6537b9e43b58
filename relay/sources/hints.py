"""Hints: what an upstream's errors mean for a person, read from `<preset>.hints.yaml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.core.events import Hint
from relay.core.job import Problem
from relay.sources.document import Section

RETRY_SAFE = frozenset({"never", "when_retryable", "always"})
WHO = frozenset({"account owner", "administrator", "developer", "nobody"})
KINDS_WITH_A_PROBLEM = frozenset({"failed", "cancelled", "retrying"})

_MAX_NAME_CHARACTERS = 64
_PLACEHOLDER = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HintTemplate:
    """A hint before it is known which channel, code and `retryable` it is about."""

    meaning: str
    retry_safe: str
    who: str

    def fill(self, *, channel: str, code: str, retryable: bool | None) -> Hint:
        """The hint for one error. `channel` is already the channel's name for people."""
        words = {"channel": channel, "code": _short(code) or "an error"}
        meaning = _PLACEHOLDER.sub(lambda match: words[match[1]], self.meaning)
        safe = self.retry_safe == "always" or (self.retry_safe == "when_retryable" and retryable is True)
        return Hint(meaning=meaning, retry_safe=safe, who=self.who)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """All hints of one source: by error code, by a part of a code, in general, and by the kind of event."""

    channels: Mapping[str, str]
    codes: Mapping[str, HintTemplate]
    patterns: Mapping[str, HintTemplate]
    kinds: Mapping[str, HintTemplate]
    retryable: HintTemplate
    final: HintTemplate
    unsaid: HintTemplate
    no_reason: HintTemplate

    def find(self, problem: Problem | None, kind: str, channel: str | None) -> Hint | None:
        """The hint for an event of `kind` (a member of JOB_EVENTS); None for what needs none."""
        code = problem.code if problem is not None else ""
        retryable = problem.retryable if problem is not None else None
        if kind in self.kinds:
            template = self.kinds[kind]
        elif problem is not None and kind in KINDS_WITH_A_PROBLEM:
            template = self._of_code(code, retryable)
        elif kind == "failed":
            template = self.no_reason
        else:
            return None
        return template.fill(channel=self._channel_name(channel), code=code, retryable=retryable)

    def _of_code(self, code: str, retryable: bool | None) -> HintTemplate:
        if code in self.codes:
            return self.codes[code]
        for part, template in self.patterns.items():
            if part in code:
                return template
        if retryable is None:
            return self.unsaid
        return self.retryable if retryable else self.final

    def _channel_name(self, channel: str | None) -> str:
        word = _short(channel or "")
        return self.channels.get(word.lower(), word) or self.channels[""]


def load_hints(path: Path) -> Hints:
    """The hints in this file. Raises SettingsError that names the file and the key."""
    top = Section.load(path)
    channels = top.section("channels")
    names = {name: channels.text(name) for name in channels.names()}
    if "" not in names:
        raise channels.error('""', "is missing: the word for a channel that is unknown")
    general = top.section("general")
    hints = Hints(
        channels=names,
        codes=_templates(top.section("codes")),
        patterns=_templates(top.section("patterns")),
        kinds=_templates(top.section("kinds")),
        retryable=_template(general.section("retryable")),
        final=_template(general.section("final")),
        unsaid=_template(general.section("unsaid")),
        no_reason=_template(general.section("no_reason")),
    )
    general.finish()
    top.finish()
    return hints


def _templates(section: Section) -> dict[str, HintTemplate]:
    return {name: _template(section.section(name)) for name in section.names()}


def _template(section: Section) -> HintTemplate:
    template = HintTemplate(
        meaning=section.text("meaning"),
        retry_safe=section.choice("retry_safe", RETRY_SAFE),
        who=section.choice("who", WHO),
    )
    for name in _PLACEHOLDER.findall(template.meaning):
        if name not in ("channel", "code"):
            raise section.error("meaning", f"{{{name}}} is no placeholder: {{channel}} and {{code}} are")
    section.finish()
    return template


def _short(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_NAME_CHARACTERS].strip()
