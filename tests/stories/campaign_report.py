"""What the campaign found: what people were told, compared with the truth of the sandbox. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from tests.stories.story import Findings, drawn
from tests.vendors.endpoint import Message

MAX_MESSAGES = 8
"""Maximum number of messages about the whole campaign."""
TOLERANCE = 0.1
"""How far outside of p10 to p90 the true finish may be, as a share of the campaign's length: one run is one draw."""
TOLD = {
    "the account needs reconnecting": "account {name} needs reconnecting",
    "an incident opened": " of {name} failed: ",
    "it works again": "jobs of {name} work again",
    "the group finished": "Campaign {group} has finished",
}
"""What the channel must be told, and a part of the sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What the relay said of the finish when a share of the jobs had ended. Times are epoch seconds; `note`: why there
    was no forecast, or what it leaves out."""

    share: float
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None
    note: str | None = None

    @property
    def has_times(self) -> bool:
        """True if it named a time."""
        return self.p10 is not None and self.p90 is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignReport(Findings):
    """What one campaign found.

    refused       messages that the channel did not take
    counts        jobs by state as the relay counts them; `true_counts`: as the sandbox does
    broken        jobs that failed because the account was broken
    collapsed     failures that the channel was told of in an incident
    while_broken, after           what the relay said of the finish
    began_at, finished_at         true times in epoch seconds
    """

    group: str
    name: str
    messages: tuple[Message, ...]
    refused: int
    counts: Mapping[str, int]
    true_counts: Mapping[str, int]
    broken: int
    collapsed: int
    while_broken: Statement
    after: Statement
    began_at: float
    finished_at: float

    @property
    def titles(self) -> list[str]:
        """The sentences of the messages."""
        return [message.title for message in self.messages]

    def checks(self) -> Iterable[tuple[object, str]]:
        """What must not be."""
        yield from (
            (
                dict(self.counts) != dict(self.true_counts),
                f"the group counts {_listed(self.counts)}, in truth {_listed(self.true_counts)}",
            ),
            (len(self.messages) > MAX_MESSAGES, f"{len(self.messages)} messages, more than {MAX_MESSAGES}"),
            (self.refused, f"{self.refused} messages refused by the channel"),
            (
                self.collapsed > self.broken,
                f"{self.collapsed} failures collapsed, but only {self.broken} are of the account",
            ),
            (self.while_broken.has_times, "a finish was stated while the account was broken"),
            (not self.after.has_times, f"no finish was stated after the repair: {str(self.after.note).rstrip('.')}"),
            (self.after.has_times and not self.holds, "the finish came at another time than stated"),
        )
        for what, part in TOLD.items():
            told = sum(part.format(name=self.name, group=self.group) in title for title in self.titles)
            yield told != 1 and (told == 0 or "group" in what), f"{what}: told {told} times"

    @property
    def holds(self) -> bool:
        """True if the true finish is within the times stated after the repair, or near them."""
        slack = TOLERANCE * (self.finished_at - self.began_at)
        p10, p90 = self.after.p10, self.after.p90
        return p10 is not None and p90 is not None and p10 - slack <= self.finished_at <= p90 + slack

    def details(self) -> RenderableType:
        """The messages."""
        return drawn("Slack", self.messages)

    def sentences(self) -> list[str]:
        """The result in a few sentences."""
        said = self.after
        found = [
            f"{self.report.jobs} jobs, {self.report.events_delivered} events delivered to the webhook; "
            f"{_listed(self.counts)}. In Slack: {len(self.messages)} messages.",
            f"{self.broken} jobs failed while the account of {self.name} was broken; {self.collapsed} of them were "
            "told as one incident.",
        ]
        if said.p10 is not None and said.p50 is not None and said.p90 is not None:
            stated = [round(at - self.began_at, 1) for at in (said.p10, said.p50, said.p90)]
            found.append(
                f"Finish: stated at {said.share:.0%} for {stated[1]} s after the start (between {stated[0]} and "
                f"{stated[2]} s), true {self.finished_at - self.began_at:.1f} s."
            )
        if self.while_broken.note:
            found.append(f"While the account was broken no finish was stated: {self.while_broken.note}")
        return found


def true_counts(truths: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of jobs by their true last status."""
    return dict(sorted(Counter(truth["transitions"][-1]["status"] for truth in truths).items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
