"""Hints: what an upstream's errors mean and how to fix them, from `<preset>.hints.yaml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relay.core.events.event import Hint, PointsAt, Repeat
from relay.core.jobs.job import POLL, Problem
from relay.sources.document import Section

WHO = frozenset({"account owner", "administrator", "developer", "Revor"})

RepeatRule = Repeat | Literal["as_retryable"]
_RULES: Mapping[str, RepeatRule] = {
    "safe": "safe",
    "useless": "useless",
    "may_send_twice": "may_send_twice",
    "as_retryable": "as_retryable",
}
_POINTS_AT: Mapping[str, PointsAt] = {"connect_account": "connect_account"}
UNDECIDED = frozenset({"retrying", "overdue", "not_found", "status_unknown"})
"""Kinds of events after which the job may still be carried out."""
KINDS_WITH_A_PROBLEM = frozenset({"failed", "cancelled", "retrying"})

_MAX_NAME_CHARACTERS = 64
_PLACEHOLDER = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HintTemplate:
    """A hint with placeholders for channel and code.

    `repeat` may be `as_retryable`: nothing was sent, so the upstream's `retryable` decides.
    """

    meaning: str
    fix: str
    who: str
    repeat: RepeatRule
    points_at: PointsAt | None = None

    def fill(self, *, channel: str, code: str, retryable: bool | None, kind: str) -> Hint:
        """The hint for an event of `kind`. `channel` is the display name."""
        words = {"channel": channel, "code": _short(code) or "an error"}
        meaning, fix = (_PLACEHOLDER.sub(lambda match: words[match[1]], text) for text in (self.meaning, self.fix))
        return Hint(
            meaning=meaning,
            fix=fix,
            who=self.who,
            repeat=self._repeat(retryable, kind),
            points_at=self.points_at,
        )

    def _repeat(self, retryable: bool | None, kind: str) -> Repeat:
        if kind in UNDECIDED:
            return "may_send_twice"
        if self.repeat == "as_retryable":
            return "may_send_twice" if retryable is None else "safe" if retryable else "useless"
        if self.repeat == "useless" and retryable:  # do not contradict the item
            return "may_send_twice"
        return self.repeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """All hints of one source: by error code, by part of a code, by poll result, by event kind, and general ones."""

    channels: Mapping[str, str]
    codes: Mapping[str, HintTemplate]
    patterns: Mapping[str, HintTemplate]
    polls: Mapping[str, HintTemplate]
    kinds: Mapping[str, HintTemplate]
    retryable: HintTemplate
    final: HintTemplate
    unsaid: HintTemplate
    no_reason: HintTemplate

    def find(self, problem: Problem | None, kind: str, channel: str | None) -> Hint | None:
        """The hint for an event of `kind` (a member of JOB_EVENTS) or for a failed POLL; None if it needs none."""
        code = problem.code if problem is not None else ""
        retryable = problem.retryable if problem is not None else None
        if kind == "not_found" and problem is not None:  # the problem is that of the polls: 403 also ends as not_found
            template = self._of_poll(code) or self.kinds[kind]
        elif kind in self.kinds:
            template = self.kinds[kind]
        elif problem is not None and kind in KINDS_WITH_A_PROBLEM:
            template = self._of_code(code, retryable)
        elif problem is not None and kind == POLL:
            template = self._of_poll(code) or self.unsaid
        elif kind == "failed":
            template = self.no_reason
        else:
            return None
        return template.fill(channel=self._channel_name(channel), code=code, retryable=retryable, kind=kind)

    def _of_poll(self, code: str) -> HintTemplate | None:
        return self.polls.get(code) or self._known(code)

    def _known(self, code: str) -> HintTemplate | None:
        if code in self.codes:
            return self.codes[code]
        return next((template for part, template in self.patterns.items() if part in code), None)

    def _of_code(self, code: str, retryable: bool | None) -> HintTemplate:
        known = self._known(code)
        if known is not None:
            return known
        if retryable is None:
            return self.unsaid
        return self.retryable if retryable else self.final

    def _channel_name(self, channel: str | None) -> str:
        word = _short(channel or "")
        return self.channels.get(word.lower(), word) or self.channels[""]


def load_hints(path: Path) -> Hints:
    """Loads the hints. Raises SettingsError that names the file and the key."""
    top = Section.load(path)
    channels = top.section("channels")
    names = {name: channels.text(name) for name in channels.names()}
    if "" not in names:
        raise channels.error('""', "is missing: the name for an unknown channel")
    general = top.section("general")
    hints = Hints(
        channels=names,
        codes=_templates(top.section("codes")),
        patterns=_templates(top.section("patterns")),
        polls=_templates(top.section("polls")),
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
    points_at = section.optional_choice("points_at", _POINTS_AT)
    template = HintTemplate(
        meaning=section.text("meaning"),
        fix=section.text("fix"),
        who=section.choice("who", WHO),
        repeat=_RULES[section.choice("repeat", _RULES)],
        points_at=None if points_at is None else _POINTS_AT[points_at],
    )
    for key, text in (("meaning", template.meaning), ("fix", template.fix)):
        for name in _PLACEHOLDER.findall(text):
            if name not in ("channel", "code"):
                raise section.error(key, f"{{{name}}} is not a placeholder. Use {{channel}} or {{code}}")
    section.finish()
    return template


def _short(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_NAME_CHARACTERS].strip()
