"""Hints: what an upstream's errors mean and how to fix them, from `hints.yaml` and a preset's own one."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relay.core.events.event import Hint, PointsAt, Repeat
from relay.core.events.sentences import words_of
from relay.core.jobs.job import POLL, Problem

Who = Literal["account owner", "administrator", "developer", "upstream"]
"""The role that can act. `upstream` is shown by its title."""
_WORDS = ("title", "source", "channel", "code", "reason")
UNDECIDED = frozenset({"retrying", "overdue", "not_found", "status_unknown"})
"""Kinds of events after which the job may still be carried out."""
KINDS_WITH_A_PROBLEM = frozenset({"failed", "cancelled", "retrying"})

_MAX_NAME_CHARACTERS = 64
_PLACEHOLDER = re.compile(r"\{(.*?)\}")


def _checked(text: str) -> str:
    for name in _PLACEHOLDER.findall(text):
        if name not in _WORDS:
            raise ValueError(f"{{{name}}} is not a placeholder: {', '.join(f'{{{word}}}' for word in _WORDS)} are")
    return text


def _named(channels: Mapping[str, str]) -> Mapping[str, str]:
    if "" not in channels:
        raise ValueError('"": is missing: the name for an unknown channel')
    return channels


_Text = Annotated[str, Field(min_length=1), AfterValidator(_checked)]


class Part(BaseModel):
    """A section of a definition."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HintTemplate(Part):
    """A hint with placeholders: see _WORDS.

    `repeat` may be `as_retryable`: nothing was sent, so the upstream's `retryable` decides.
    """

    meaning: _Text
    fix: _Text
    who: Who
    repeat: Repeat | Literal["as_retryable"]
    points_at: PointsAt | None = None

    def fill(self, words: Mapping[str, str], *, retryable: bool | None, kind: str) -> Hint:
        """The hint for an event of `kind`, with the words in place of their placeholders."""
        meaning, fix = (_PLACEHOLDER.sub(lambda match: words[match[1]], text) for text in (self.meaning, self.fix))
        return Hint(
            meaning=meaning,
            fix=fix,
            who=words["title"] if self.who == "upstream" else self.who,
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


class Hints(Part):
    """All hints of one source: by error code, by part of a code, by poll result, by event kind, and general ones.

    channels  display names by channel; "" is the name for an unknown one
    """

    channels: Annotated[Mapping[str, str], AfterValidator(_named)]
    codes: Mapping[str, HintTemplate] = Field(default_factory=dict)
    patterns: Mapping[str, HintTemplate] = Field(default_factory=dict)
    polls: Mapping[str, HintTemplate]
    kinds: Mapping[str, HintTemplate]
    retryable: HintTemplate
    final: HintTemplate
    unsaid: HintTemplate
    no_reason: HintTemplate

    def find(self, problem: Problem | None, kind: str, channel: str | None, *, title: str, source: str) -> Hint | None:
        """The hint for an event of `kind` (a member of JOB_EVENTS) or for a failed POLL; None if it needs none.
        `title`: the upstream's; `source`: its name in the settings."""
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
        words = {"channel": self._channel_name(channel), "code": _short(code) or "an error"}
        words["reason"] = words_of(words["code"])
        return template.fill({"title": title, "source": source, **words}, retryable=retryable, kind=kind)

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


def _short(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_NAME_CHARACTERS].strip()
