"""What listings of connect accounts say, and what of it is news."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.jobs.connect_accounts import (
    FLAPPING_SECONDS,
    FREE_CHANGES,
    MAX_ACCOUNTS,
    Comparison,
    Known,
    ListedAccount,
    Listing,
    compare,
    confirm_at,
)
from relay.core.records import ListingRecord

NOW = 1_779_271_200.0
CONFIRM = 30.0
MINUTE = 60.0

States = Mapping[str, str | None]


def listing(states: States, *, is_complete: bool = True) -> Listing:
    accounts = {id: ListedAccount(id=id, channel="email", name=id.upper(), state=state) for id, state in states.items()}
    return Listing(accounts=accounts, is_complete=is_complete)


class Story:
    """Listings of one upstream account, one after another, and the events they make."""

    def __init__(self, *listed: States) -> None:
        self.known = Known(source="revor", account="default", accounts={})
        self.now = NOW
        self.events: list[tuple[float, str, str]] = []
        for states in listed:
            self.see(states)

    def see(self, states: States, after: float = CONFIRM, *, is_complete: bool = True) -> Comparison:
        self.now += after
        found = compare(self.known, listing(states, is_complete=is_complete), self.now, confirm_seconds=CONFIRM)
        self.events += [(self.now - NOW, account.id, kind) for account, kind in found.news]
        stored = {**self.known.accounts, **{one.id: one for one in found.changed}}
        self.known = replace(
            self.known,
            listed_at=self.now,
            accounts={id: one for id, one in stored.items() if id not in found.forgotten},
        )
        assert self.known.accounts == found.accounts, "what is stored is what was found"
        return found

    @property
    def kinds(self) -> list[str]:
        return [f"{id} {kind}" for _, id, kind in self.events]

    def state(self, id: str = "a") -> str:
        return self.known.accounts[id].state


@pytest.mark.parametrize(
    ("listed", "kinds"),
    [
        # the first listing is the baseline, whatever it shows
        ([{"a": "ok", "b": "needs_reconnect"}], []),
        ([{"a": "needs_reconnect"}, {"a": "needs_reconnect"}], []),
        ([{}, {}], []),
        # a change counts once a second listing shows it too
        ([{"a": "ok"}, {"a": "needs_reconnect"}], []),
        ([{"a": "ok"}, {"a": "needs_reconnect"}, {"a": "ok"}, {"a": "needs_reconnect"}], []),
        ([{"a": "ok"}, {"a": "needs_reconnect"}, {"a": "cannot_send"}], []),
        ([{"a": "ok"}, {"a": "needs_reconnect"}, {"a": "needs_reconnect"}], ["a needs_reconnect"]),
        ([{"a": "ok"}, {"a": "cannot_send"}, {"a": "cannot_send"}], ["a cannot_send"]),
        ([{"a": "ok"}, *[{"a": "cannot_send"}] * 9], ["a cannot_send"]),
        ([{"a": "cannot_send"}, *[{"a": "needs_reconnect"}] * 2], ["a needs_reconnect"]),
        ([{"a": "cannot_send"}, *[{"a": "ok"}] * 2], ["a recovered"]),
        # so does an account that comes or goes, and an empty listing
        ([{"a": "ok"}, {"a": "ok", "b": "ok"}], []),
        ([{"a": "ok"}, {"a": "ok", "b": "ok"}, {"a": "ok"}, {"a": "ok", "b": "ok"}], []),
        ([{"a": "ok"}, *[{"a": "ok", "b": "ok"}] * 2], ["b added"]),
        ([{}, *[{"b": "cannot_send"}] * 2], ["b added", "b cannot_send"]),
        ([{"a": "ok"}, {}], []),
        ([{"a": "ok"}, {}, {"a": "ok"}, {}], []),
        ([{"a": "ok", "b": "ok"}, {}, {}, {}], ["a removed", "b removed"]),
        ([{"a": "ok"}, {}, {}, *[{"a": "ok"}] * 2], ["a removed", "a added"]),
        ([{"a": "ok"}, {}, {}, *[{"a": "needs_reconnect"}] * 2], ["a removed", "a added", "a needs_reconnect"]),
        ([{"a": "needs_reconnect"}, {}, {}], ["a removed"]),
        # a state that cannot be read is neither a change nor a removal, and interrupts no confirmation
        ([{"a": "ok"}, {"a": None}, {"a": None}], []),
        ([{"a": "ok"}, {"a": "cannot_send"}, {"a": None}, {"a": "cannot_send"}], ["a cannot_send"]),
        ([{"a": "ok"}, {"b": None}, {"b": None}], ["a removed"]),
    ],
)
def test_only_a_confirmed_change_after_the_first_listing_is_news(listed: Sequence[States], kinds: list[str]) -> None:
    assert Story(*listed).kinds == kinds


def test_a_second_listing_too_soon_confirms_nothing() -> None:
    story = Story({"a": "ok"})
    story.see({"a": "cannot_send"})
    assert confirm_at(story.known.accounts.values(), CONFIRM) == story.now + CONFIRM
    story.see({"a": "cannot_send"}, CONFIRM - 0.001)
    assert story.kinds == []
    story.see({"a": "cannot_send"}, 0.001)
    assert story.kinds == ["a cannot_send"]
    assert story.known.accounts["a"].since == story.now - CONFIRM, "since the first listing that showed it"
    assert confirm_at(story.known.accounts.values(), CONFIRM) is None


def test_an_account_that_changes_more_than_four_times_in_an_hour_is_told_once_an_hour() -> None:
    story = Story({"a": "ok"})
    changes = 0
    while story.now < NOW + 5 * FLAPPING_SECONDS:
        state = ("cannot_send", "ok")[changes % 2]
        for _ in range(2):
            story.see({"a": state}, 4 * MINUTE)
        changes += 1
    first, later = story.events[:FREE_CHANGES], story.events[FREE_CHANGES:]
    assert [kind for _, _, kind in first] == ["cannot_send", "recovered"] * 2
    times = [first[-1][0], *(at for at, _, _ in later)]
    assert all(after - before >= FLAPPING_SECONDS for before, after in pairwise(times))
    assert 3 <= len(later) <= 5


def test_the_state_in_which_a_flapping_account_settles_is_told_within_the_hour() -> None:
    story = Story({"a": "ok"})
    for change in range(FREE_CHANGES + 1):
        for _ in range(2):
            story.see({"a": ("cannot_send", "ok")[change % 2]})
    assert (story.state(), story.kinds[-1], len(story.events)) == ("cannot_send", "a recovered", FREE_CHANGES)
    told_at = story.events[-1][0]
    while len(story.events) == FREE_CHANGES:
        story.see({"a": "cannot_send"}, MINUTE)
    at, _, kind = story.events[-1]
    assert (kind, FLAPPING_SECONDS <= at - told_at <= FLAPPING_SECONDS + MINUTE) == ("cannot_send", True)
    story.see({"a": "cannot_send"}, 9 * FLAPPING_SECONDS)
    assert len(story.events) == FREE_CHANGES + 1


@pytest.mark.parametrize(
    ("listed", "recovered"),
    [
        ([{"a": "ok"}], ()),  # the baseline
        ([{}, {"a": "ok"}, {"a": "ok"}], ("a",)),  # it is there again
        ([{"a": "cannot_send"}, {"a": "ok"}], ()),  # not confirmed
        ([{"a": "cannot_send"}, {"a": "ok"}, {"a": "ok"}], ("a",)),
        ([{"a": "cannot_send"}, {"a": "ok"}, {"a": "ok"}, {"a": "ok"}], ()),
        ([{"a": "cannot_send"}, {}, {}], ()),
        ([{"a": "ok"}, {"a": "cannot_send"}, {"a": "cannot_send"}], ()),
    ],
)
def test_account_has_recovered_once_a_second_listing_shows_it(
    listed: Sequence[States], recovered: tuple[str, ...]
) -> None:
    story = Story(*listed[:-1])
    known = story.known
    changed = story.see(listed[-1]).changed
    assert ListingRecord(known=known, now=story.now, changed=changed).recovered == recovered


def test_a_clock_that_was_set_back_delays_a_confirmation_and_loses_nothing() -> None:
    story = Story({"a": "ok"})
    story.see({"a": "cannot_send"})
    story.see({"a": "cannot_send"}, -86_400)
    assert story.kinds == []
    story.see({"a": "cannot_send"})
    assert story.kinds == ["a cannot_send"]
    for change in range(FREE_CHANGES):
        for _ in range(2):
            story.see({"a": ("ok", "cannot_send")[change % 2]})
    assert (story.state(), story.kinds[-1]) == ("cannot_send", "a recovered")
    story.see({"a": "cannot_send"}, -86_400)
    assert story.kinds[-1] == "a cannot_send", "a time in the future holds nothing back"


def test_known_accounts_are_bounded_and_removed_ones_make_room() -> None:
    story = Story({str(number): "ok" for number in range(MAX_ACCOUNTS)})
    everything = {str(number): "ok" for number in range(MAX_ACCOUNTS)}
    for _ in range(2):
        story.see({**everything, "one more": "ok"})
    assert (story.kinds, len(story.known.accounts)) == ([], MAX_ACCOUNTS)
    del everything["7"]
    for _ in range(2):
        story.see(everything)
    for _ in range(2):
        found = story.see({**everything, "one more": "ok", "and one": "ok"})
    assert story.kinds == ["7 removed", "one more added"]
    assert "7" not in story.known.accounts
    assert (len(story.known.accounts), found.forgotten) == (MAX_ACCOUNTS, ())


STATES: Any = st.sampled_from([None, "ok", "needs_reconnect", "cannot_send"])
STEPS = st.tuples(
    st.dictionaries(st.sampled_from("abc"), STATES, max_size=3),
    st.booleans(),
    st.sampled_from([0.0, 1.0, CONFIRM, 300.0, FLAPPING_SECONDS, -90_000.0]),
)


@settings(deadline=None, max_examples=200)
@given(steps=st.lists(STEPS, max_size=40))
def test_events_of_any_history_lead_from_the_first_state_to_the_last(steps: Any) -> None:
    """No event is told twice in a row, and each is about a state that the account then had."""
    story = Story()
    told: dict[str, str] = {}
    for number, (states, is_complete, after) in enumerate(steps):
        before = len(story.events)
        found = story.see(states, after, is_complete=is_complete)
        if number == 0:
            told = {id: one.state for id, one in story.known.accounts.items()}
        for _, id, kind in story.events[before:]:
            state = {"recovered": "ok", "added": "ok"}.get(kind, kind)
            if kind == "added":
                assert told.get(id, "removed") == "removed"
            else:
                assert told.get(id) != state
            told[id] = state
        for account in found.accounts.values():
            assert account.told_state in (told.get(account.id), "new")
            assert len(account.changes) <= FREE_CHANGES + 1
