"""The figures of the campaign story: what people were told, compared with the truth of the sandbox. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.cli.demo.report import Report

MAX_MESSAGES = 8
"""Maximum number of messages about the whole campaign."""
TOLERANCE = 0.1
"""How far outside of p10 to p90 the true finish may be, as a share of the campaign's length: one run is one draw."""
TOLD = {
    "the account needs reconnecting": "account {name} needs reconnecting",
    "an incident opened": " of {name} failed: ",
    "it works again": "jobs of {name} work again",
    "the group finished": "Group {group} finished",
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
class CampaignReport:
    """The figures of one campaign, as `--json` prints them.

    report        that of the webhook's events
    counts        jobs by state as the relay counts them; `true_counts`: as the sandbox does
    broken        jobs that failed because the account was broken
    collapsed     failures that the channel was told of in an incident
    before, while_broken, after   what the relay said of the finish; None: it was not asked
    began_at, finished_at         true times in epoch seconds
    """

    group: str
    name: str
    report: Report
    titles: tuple[str, ...]
    counts: Mapping[str, int]
    true_counts: Mapping[str, int]
    broken: int
    collapsed: int
    before: Statement | None
    while_broken: Statement
    after: Statement
    began_at: float
    finished_at: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not hold, each in a sentence."""
        found = [
            (not self.report.ok, f"{self.report.lost} events lost, {self.report.out_of_order} out of order"),
            (
                dict(self.counts) != dict(self.true_counts),
                f"the group counts {_listed(self.counts)}, in truth {_listed(self.true_counts)}",
            ),
            (len(self.titles) > MAX_MESSAGES, f"{len(self.titles)} messages, more than {MAX_MESSAGES}"),
            (
                self.collapsed > self.broken,
                f"{self.collapsed} failures collapsed, but only {self.broken} are of the account",
            ),
            (self.while_broken.has_times, "a finish was stated while the account was broken"),
            (not self.after.has_times, f"no finish was stated after the repair: {str(self.after.note).rstrip('.')}"),
            (self.after.has_times and not self.holds, "the finish came at another time than stated"),
        ]
        for what, part in TOLD.items():
            told = sum(part.format(name=self.name, group=self.group) in title for title in self.titles)
            found.append((told != 1 and (told == 0 or "group" in what), f"{what}: told {told} times"))
        return tuple(text for wrong, text in found if wrong)

    @property
    def holds(self) -> bool:
        """True if the true finish is within the times stated after the repair, or near them."""
        slack = TOLERANCE * (self.finished_at - self.began_at)
        p10, p90 = self.after.p10, self.after.p90
        return p10 is not None and p90 is not None and p10 - slack <= self.finished_at <= p90 + slack

    @property
    def ok(self) -> bool:
        """True if everything holds."""
        return not self.problems

    def shown(self) -> dict[str, Any]:
        """As a JSON object. Times of the finish are seconds since the campaign began."""
        return {
            "story": "campaign",
            "group": self.group,
            "jobs": self.report.jobs,
            "counts": dict(self.counts),
            "failed_while_broken": self.broken,
            "collapsed": self.collapsed,
            "slack_messages": len(self.titles),
            "messages": list(self.titles),
            "events_delivered": self.report.events_delivered,
            "owed": self.report.owed,
            "lost": self.report.lost,
            "duplicates": self.report.duplicates,
            "out_of_order": self.report.out_of_order,
            "signature_failures": self.report.signature_failures,
            "finish_seconds": round(self.finished_at - self.began_at, 3),
            "stated": {
                "before": None if self.before is None else self._stated(self.before),
                "while_broken": self._stated(self.while_broken),
                "after": self._stated(self.after),
            },
            "problems": list(self.problems),
            "elapsed_seconds": self.report.elapsed_seconds,
        }

    def _stated(self, said: Statement) -> dict[str, Any]:
        times = {"p10": said.p10, "p50": said.p50, "p90": said.p90}
        since = {name: None if at is None else round(at - self.began_at, 3) for name, at in times.items()}
        return {"share": round(said.share, 3), **since, "note": said.note}

    def lines(self) -> list[str]:
        """The result in a few sentences."""
        said = self.after
        found = [
            f"{self.report.jobs} jobs, {self.report.events_delivered} events delivered to the webhook; "
            f"{_listed(self.counts)}. In Slack: {len(self.titles)} messages.",
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
        found += [f"Wrong: {problem}." for problem in self.problems] or ["Nothing was lost, and everything holds."]
        return found


def true_counts(truths: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of jobs by their true last status."""
    found: dict[str, int] = {}
    for truth in truths:
        status = truth["transitions"][-1]["status"]
        found[status] = found.get(status, 0) + 1
    return dict(sorted(found.items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
