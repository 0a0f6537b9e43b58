"""One job over time, drawn to scale: what it did, the polls that are known, its events, and their deliveries.

The page has the same as a list: the drawing is for those who see it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from relay.web.rendering import duration
from relay.web.texts import english

texts = english()
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_DAY = 86_400
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """Places from `left` to `right` for times from `began` to `ended`, in seconds."""

    began: float
    ended: float
    left: float
    right: float

    def at(self, time: float) -> float:
        """The place of a time; times outside are at the edge."""
        share = (time - self.began) / max(self.ended - self.began, 1e-9)
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def ticks(self, zero: float) -> Sequence[float]:
        """Round times to mark, at most seven, as seconds after `zero`."""
        span = self.ended - self.began
        step = next((one for one in _STEPS if span / one <= _MOST_TICKS), None)
        if step is None:
            step = _DAY
            while span / step > _MOST_TICKS:
                step *= 2
        first = -int((zero - self.began) / step)
        return [number * step for number in range(first, int((self.ended - zero) / step) + 1)]


WIDTH = 760
_LEFT, _RIGHT = 92, WIDTH - 14
_BAR_TOP, _BAR_HEIGHT = 30, 24
_POLLS, _EVENTS, _DELIVERIES = 76, 104, 132
_ROW = 12
LANES = 12
"""Deliveries that have a line each. With more of them, those that do not cover each other share lines."""
_NEAR = 9
_POLL_KINDS = ("found", "nothing", "failed", "planned")
_DELIVERY_KINDS = ("delivered", "dead", "pending", "uncertain")
"""The states that are named one by one; any other is a skipped or cancelled one."""
_LETTER = 7.5
"""Width of a letter, for labels that must fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The job's state between two times. `kind` is a kind of transition, or `unknown` or `planned`."""

    kind: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something at one time. `since`: when it began, if it took time. `label`: its tooltip."""

    kind: str
    at: float
    label: str
    since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The content of a drawing. Times are epoch seconds. Marks beyond `ended` are arrows at the edge.

    now       None for a closed job
    deadline  None if it is too far away to be drawn
    """

    began: float
    ended: float
    phases: Sequence[Phase]
    polls: Sequence[Mark]
    events: Sequence[Mark]
    deliveries: Sequence[Mark]
    now: float | None
    deadline: float | None

    @property
    def cut(self) -> int:
        """Number of marks that are later than the axis reaches."""
        return sum(mark.at > self.ended for mark in (*self.polls, *self.events, *self.deliveries))


def draw(timeline: Timeline) -> Markup:
    """The drawing."""
    scale = Scale(timeline.began, timeline.ended, _LEFT, _RIGHT)
    rows = _rows(timeline.deliveries, scale)
    bottom = _DELIVERIES + _ROW * max(rows, default=0) + 18
    parts = [_axis(scale, bottom)]
    for key, y in (("phases", _BAR_TOP + 16), ("polls", _POLLS), ("events", _EVENTS), ("deliveries", _DELIVERIES)):
        parts.append(Markup('<text class="lane" x="0" y="{}">{}</text>').format(y + 4, texts(f"jobs.lane_{key}")))
    parts += [_phase(phase, scale) for phase in timeline.phases]
    parts += [_mark(mark, scale, _POLLS, _poll) for mark in timeline.polls]
    parts += [_mark(mark, scale, _EVENTS, _event) for mark in timeline.events]
    parts += [
        _mark(mark, scale, _DELIVERIES + _ROW * row, _delivery)
        for mark, row in zip(timeline.deliveries, rows, strict=True)
    ]
    if timeline.now is not None:
        parts.append(_line("now", texts("jobs.mark_now"), timeline.now, scale, bottom))
    if timeline.deadline is not None:
        parts.append(_line("deadline", texts("jobs.mark_deadline"), timeline.deadline, scale, bottom))
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, bottom + 20, texts("jobs.timeline_label"), Markup("").join(parts)
    )


def _axis(scale: Scale, bottom: int) -> Markup:
    drawn = [Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _RIGHT, bottom, bottom)]
    for tick in scale.ticks(scale.began):
        x = scale.at(scale.began + tick)
        text = "0" if tick == 0 else f"+{duration(tick)}"
        drawn.append(
            Markup('<line class="grid-line" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, _BAR_TOP, bottom)
        )
        anchor = "end" if x > _RIGHT - 30 else "middle"
        drawn.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x, bottom + 15, anchor, text
            )
        )
    return Markup("").join(drawn)


def _phase(phase: Phase, scale: Scale) -> Markup:
    left, right = scale.at(phase.began), scale.at(phase.ended)
    width = max(right - left, 2.0)
    name = texts.get(f"jobs.phase_{phase.kind}", phase.kind[:40])
    lasted = duration(phase.ended - phase.began)
    bar = Markup(
        '<g class="phase {}"><rect x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>{}</g>'
    )
    label = Markup()
    for words in (f"{name} {lasted}", name):
        if len(words) * _LETTER + 8 <= width:
            label = Markup('<text x="{:.1f}" y="{}">{}</text>').format(left + 5, _BAR_TOP + 16, words)
            break
    return bar.format(_class(phase.kind), left, _BAR_TOP, width, _BAR_HEIGHT, f"{name}: {lasted}", label)


_Symbol = Callable[[Mark, float, float, int], Markup]
"""Draws a mark: where it began and where it is, from the left, and from the top."""


def legend(timeline: Timeline) -> Markup:
    """The legend of a drawing. Only marks that it has are named."""
    polls, deliveries = {mark.kind for mark in timeline.polls}, {mark.kind for mark in timeline.deliveries}
    named: list[tuple[_Symbol, str, str]] = [(_poll, kind, f"poll_{kind}") for kind in _POLL_KINDS if kind in polls]
    if timeline.events:
        named.append((_event, timeline.events[-1].kind, "event"))
    named += [(_delivery, kind, kind) for kind in _DELIVERY_KINDS if kind in deliveries]
    if deliveries.difference(_DELIVERY_KINDS):
        named.append((_delivery, "cancelled", "cancelled"))
    if timeline.cut:
        named.append((_later, "", "later"))
    entries = [
        (texts(f"jobs.legend_{key}"), draw(Mark(kind=kind, at=0.0, label=""), 10.0, 10.0, 10))
        for draw, kind, key in named
    ]
    item = Markup('<li><svg viewBox="0 0 20 20" aria-hidden="true">{}</svg> {}</li>')
    return Markup("").join(item.format(symbol, words) for words, symbol in entries)


def _mark(mark: Mark, scale: Scale, y: int, symbol: _Symbol) -> Markup:
    x = scale.at(mark.at)
    since = x if mark.since is None else scale.at(mark.since)
    return (_later if mark.at > scale.ended else symbol)(mark, since, x, y)


def _poll(mark: Mark, _: float, x: float, y: int) -> Markup:
    return Markup('<g class="poll {}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/><title>{}</title></g>').format(
        _class(mark.kind), y - 9, y + 9, mark.label, x=x
    )


def _event(mark: Mark, _: float, x: float, y: int) -> Markup:
    return Markup('<path class="event {}" d="M{:.1f} {} l7 7 l-7 7 l-7 -7 z"><title>{}</title></path>').format(
        _class(mark.kind), x, y - 7, mark.label
    )


def _delivery(mark: Mark, since: float, x: float, y: int) -> Markup:
    if mark.kind == "dead":
        shape = Markup('<path d="M{:.1f} {} l8 8 m0 -8 l-8 8"/>').format(x - 4, y - 4)
    else:
        shape = Markup('<circle cx="{:.1f}" cy="{}" r="4.5"/>').format(x, y)
    return Markup(
        '<g class="delivery {}"><line x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/>{}<title>{}</title></g>'
    ).format(_class(mark.kind), since, x, shape, mark.label, y=y)


def _later(mark: Mark, since: float, x: float, y: int) -> Markup:
    """A mark that is later than the axis reaches."""
    return Markup(
        '<g class="later"><line x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/><path d="M{:.1f} {} l8 5 l-8 5 z"/>'
        "<title>{}</title></g>"
    ).format(since, x, x - 4, y - 5, mark.label, y=y)


def _line(kind: str, words: str, at: float, scale: Scale, bottom: int) -> Markup:
    x = scale.at(at)
    anchor = "end" if x > _RIGHT - 60 else "start"
    return Markup(
        '<g class="{}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
        '<text x="{:.1f}" y="{}" text-anchor="{}">{}</text></g>'
    ).format(kind, 18, bottom, x + (-4 if anchor == "end" else 4), 14, anchor, words, x=x)


def _rows(marks: Sequence[Mark], scale: Scale) -> list[int]:
    """The row of each mark: one of its own, or with many marks one below those that it would cover."""
    if len(marks) <= LANES:
        return [*range(len(marks))]
    ends: list[float] = []
    rows = []
    for mark in marks:
        left = scale.at(mark.at if mark.since is None else min(mark.since, mark.at))
        row = next((row for row, end in enumerate(ends) if end + _NEAR <= left), len(ends))
        row = min(row, LANES - 1)
        place = scale.at(mark.at)
        if row == len(ends):
            ends.append(place)
        else:
            ends[row] = max(ends[row], place)
        rows.append(row)
    return rows


def _class(kind: str) -> str:
    """A kind as the name of a class: kinds of transitions and states are words."""
    return kind if kind.isascii() and kind.replace("_", "").isalpha() else "unknown"
