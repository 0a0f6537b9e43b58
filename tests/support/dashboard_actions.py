"""The actions of the dashboard as a person takes them: `STORIES` are lists of steps, each of which sends one form.

A person works with the keyboard alone (`Keys`) or without JavaScript (`Pointer`). They find each control by what the
page calls it, so the steps use the texts of the catalogue.
"""

import re
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, Page, Request, expect

from relay.web.texts import english
from tests.support.dashboard_tabs import call, make_intent
from tests.support.dashboard_world import NEVER, Shown

FOCUSED = "one => one === document.activeElement"
MAX_TABS = 60
"""Presses of Tab from one control of a form to the next one that is wanted."""
PATIENCE_SECONDS = 20.0

Names = dict[str, str]
t = english()


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What the API says."""

    shown: Shown

    def get(self, path: str) -> Any:
        """An answer; None for what is not there."""
        try:
            return call(self.shown, "GET", path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None

    def post(self, path: str, body: Any = None) -> Any:
        """An answer."""
        return call(self.shown, "POST", path, body)

    def items(self, path: str) -> list[Any]:
        """The items of a list."""
        found: list[Any] = self.get(path)["items"]
        return found

    def ids(self, path: str) -> set[str]:
        """The ids of a list."""
        return {one["id"] for one in self.items(path)}

    def until(self, agrees: Callable[[], object]) -> None:
        """Waits until the API agrees."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not agrees():
            assert time.monotonic() < until, "the API does not say so"
            time.sleep(0.05)


class Pointer:
    """Somebody with a mouse."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def begin(self) -> None:
        """An action begins, anywhere on the page."""

    def press(self, control: Locator) -> None:
        """Presses a button or a link, or opens what is folded."""
        control.click()

    def tick(self, control: Locator) -> None:
        """Ticks a box, or chooses one of several."""
        control.check()

    def write(self, control: Locator, text: str) -> None:
        """Replaces what is in a field."""
        control.fill(text)


class Keys(Pointer):
    """Somebody without a mouse: Tab leads from the first control of an action to its last."""

    _begins = True

    def begin(self) -> None:
        self._begins = True

    def press(self, control: Locator) -> None:
        self._reach(control)
        self.page.keyboard.press("Enter")

    def tick(self, control: Locator) -> None:
        if control.get_attribute("type") == "radio":  # Tab leads to the group, arrows to its choices
            self._reach(control.locator("xpath=ancestor::fieldset").locator("input[type=radio]").first)
            while not control.evaluate(FOCUSED):
                self.page.keyboard.press("ArrowDown")
        self._reach(control)
        if not control.is_checked():
            self.page.keyboard.press("Space")
        expect(control).to_be_checked()

    def write(self, control: Locator, text: str) -> None:
        self._reach(control)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def _reach(self, control: Locator) -> None:
        if self._begins:
            control.focus()
            self._begins = False
        for _ in range(MAX_TABS):
            if control.evaluate(FOCUSED):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {control}")


Move = Callable[[Pointer, Locator, Names], None]


def follows(link: str) -> Move:
    """The first link with this text."""

    def move(person: Pointer, part: Locator, _names: Names) -> None:
        with person.page.expect_navigation():
            person.press(part.locator("a:visible", has_text=_all_of(link)).first)
        person.begin()

    return move


def opens(heading: str) -> Move:
    """What is folded below this heading."""
    return lambda person, part, _names: person.press(part.locator("summary:visible", has_text=_all_of(heading)))


def ticks(label: str) -> Move:
    """A box or a choice, by a part of its label."""
    return lambda person, part, names: person.tick(part.get_by_label(label.format_map(names)))


def writes(label: str, text: str) -> Move:
    """A text into a field, by its label."""
    return lambda person, part, names: person.write(
        part.get_by_label(label, exact=True).filter(visible=True), text.format_map(names)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An action.

    action  the route of the form that is sent, as in PAGES
    page    where it begins; empty: where the step before has ended
    within  the part of the page, where several have such a form
    moves   what comes before the button, in the order of the page
    button  what is pressed at last: its text, or how that reads
    says    what the page then says
    agrees  whether the API says the same; the names are those of the story, and `here` the end of the page's path
    """

    action: str
    page: str = ""
    within: str = "main"
    moves: tuple[Move, ...] = ()
    button: str | re.Pattern[str]
    says: str
    agrees: Callable[[Api, Names], object]

    def take(self, person: Pointer, names: Names, api: Api) -> None:
        """Takes it, and checks what follows."""
        page = person.page
        if self.page:
            page.goto(self.page.format_map(names))
        part = page.locator(self.within.format_map(names))
        person.begin()
        for move in self.moves:
            move(person, part, names)
        button = self.button if isinstance(self.button, re.Pattern) else _all_of(self.button)
        with page.expect_navigation() as led, page.expect_request(sends(self.action)):
            person.press(part.locator("button:visible", has_text=button))
        assert led.value is not None
        assert led.value.status == 200
        names["here"] = page.url.partition("?")[0].rpartition("/")[2]
        expect(page.locator("main")).to_contain_text(self.says.format_map(names))
        api.until(lambda: self.agrees(api, names))


def sends(action: str) -> Callable[[Request], bool]:
    """Whether a request is the form of this action."""
    route = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(action.removeprefix("POST ")))
    sent = re.compile(rf"\w+://[^/]+{route}(\?.*)?")
    return lambda request: (
        request.method == "POST" and request.is_navigation_request() and sent.fullmatch(request.url) is not None
    )


def _all_of(text: str) -> re.Pattern[str]:
    return re.compile(f"^{re.escape(text)}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Actions on the same things, in order. `begin` makes these things, and returns what paths and texts name. Who
    takes them: somebody with keys, and somebody without JavaScript."""

    begin: Callable[[Api], Names]
    steps: tuple[Step, ...]
    persons: tuple[str, ...] = ("keys", "plain")


# --- what stories begin with


def _jobs(api: Api) -> Names:
    """Two jobs that run for long, in a group of their own."""
    group = f"acts-{time.monotonic_ns()}"
    order = {"account": "default", "channel": "email", "connect_account_id": "email-1", "in_lane": False}
    order |= {"run_seconds": NEVER, "count": 2}
    made = call(api.shown, "POST", "/_sandbox/jobs", order, at=api.shown.sandbox)["items"]
    jobs = [api.post("/v1/jobs", {"id": one["id"], "group": group}) for one in made]
    return {"group": group, "job": jobs[0]["uid"], "other": jobs[1]["uid"], "id": made[0]["id"], "id2": made[1]["id"]}


def _intents(api: Api) -> Names:
    """Two creates of unknown fate."""
    before = api.ids("/v1/intents")
    for _ in range(2):
        make_intent(api.shown)
    api.until(lambda: len(api.ids("/v1/intents") - before) == 2)
    one, other = api.ids("/v1/intents") - before
    return {"intent": one, "other": other}


def _sink(api: Api) -> Names:
    """A sink that takes everything."""
    known = api.get(f"/v1/subscriptions/{api.shown.subscription}")
    return {"sink": known["sink"], "name": f"Acts {time.monotonic_ns()}"}


def _replays(api: Api) -> Names:
    """A paused subscription, and one whose deliveries were given up."""
    names = _sink(api)
    made = api.post("/v1/subscriptions", {"sink": names["sink"], "description": names["name"]})
    api.post(f"/v1/subscriptions/{made['id']}/pause")
    refused = [one["id"] for one in api.items("/v1/subscriptions") if one["description"] == "Old importer"]
    api.until(lambda: api.items(f"/v1/deliveries?state=dead&subscription={refused[0]}"))
    return {**names, "paused": made["id"], "refused": refused[0]}


def _deliveries(api: Api) -> Names:
    """A delivery that was given up, and one in doubt."""
    api.until(lambda: api.items("/v1/deliveries?state=uncertain"))
    dead = api.items(f"/v1/deliveries?state=dead&subscription={api.shown.failing}")[0]
    doubt = api.items("/v1/deliveries?state=uncertain")[0]
    return {"dead": dead["id"], "attempts": str(dead["attempt_count"]), "uncertain": doubt["id"]}


def _name(_api: Api) -> Names:
    return {"name": f"acts-{time.monotonic_ns()}"}


# --- what the API says afterwards


def _is_open(name: str, expected: bool) -> Callable[[Api, Names], object]:
    return lambda api, names: api.get(f"/v1/jobs/{names[name]}")["open"] is expected


def _is_state(state: str) -> Callable[[Api, Names], object]:
    return lambda api, names: api.get(f"/v1/subscriptions/{names['subscription']}")["state"] == state


def _is_audited(action: str) -> Callable[[Api, Names], object]:
    """Whether the newest such entry of the audit is about the subscription."""
    return lambda api, names: names["subscription"] in api.items(f"/v1/audit?action={action}")[0]["target"]


def _is_created(path: str, field: str) -> Callable[[Api, Names], object]:
    """Whether there is one thing of this name; `made` is its id then."""

    def agrees(api: Api, names: Names) -> bool:
        found = [one["id"] for one in api.items(path) if one[field] == names["name"]]
        names["subscription"] = names["token"] = "".join(found)
        return len(found) == 1

    return agrees


def _is_gone(path: str, name: str) -> Callable[[Api, Names], object]:
    return lambda api, names: names[name] not in api.ids(path)


def _is_settled(api: Api, names: Names) -> bool:
    found: bool = api.get(f"/v1/deliveries/{names['uncertain']}")["state"] == "delivered"
    return found


# --- the stories

SENDS = re.compile(r"^Send (one event|\d+ events)$")
RETRY = Step(
    action="POST /ui/deliveries/{id}/retry",
    page="/ui/deliveries/{dead}",
    button=t("deliveries.retry"),
    says=t("done.delivery_retried"),
    agrees=lambda api, names: api.get(f"/v1/deliveries/{names['dead']}")["attempt_count"] > int(names["attempts"]),
)


def _settles(fate: str) -> Step:
    return Step(
        action="POST /ui/deliveries/{id}/settle",
        page="/ui/deliveries/{uncertain}",
        moves=(opens(t(f"deliveries.settle_{fate}")),),
        button=t(f"deliveries.settle_{fate}_button"),
        says=t(f"done.delivery_settled_{fate}"),
        agrees=_is_settled,
    )


STORIES: dict[str, Story] = {
    "jobs": Story(
        begin=_jobs,
        steps=(
            Step(
                action="POST /ui/jobs/{id}/refresh",
                page="/ui/jobs/{job}",
                button=t("jobs.refresh"),
                says=t("done.job_refreshed"),
                agrees=lambda api, names: api.get(f"/v1/jobs/{names['job']}")["poll_count"] > 1,
            ),
            Step(
                action="POST /ui/jobs/{id}/untrack",
                moves=(opens(t("jobs.untrack")),),
                button=t("jobs.untrack_button"),
                says=t("done.job_untracked"),
                agrees=_is_open("job", False),
            ),
            Step(
                action="POST /ui/jobs/register",
                moves=(opens(t("jobs.register_again")),),
                button=t("jobs.register_button"),
                says=t("done.job_registered"),
                agrees=_is_open("job", True),
            ),
            Step(
                action="POST /ui/groups/{name}/close",
                page="/ui/groups/{group}",
                moves=(opens(t("groups.close")), writes(t("groups.close_expected"), "3")),
                button=t("groups.close_button"),
                says=t("done.group_closed"),
                agrees=lambda api, names: api.get(f"/v1/groups/{names['group']}")["expected"] == 3,
            ),
            Step(
                action="POST /ui/jobs/bulk",
                page="/ui/jobs?group={group}",
                moves=(ticks(t("jobs.choose")),),
                button=t("jobs.bulk_refresh"),
                says=t("done.jobs_refresh", n=1),
                agrees=_is_open("job", True),
            ),
            Step(
                action="POST /ui/jobs/bulk",
                moves=(
                    ticks(t("jobs.choose").replace("{id}", "{id2}")),
                    ticks(t("jobs.choose")),
                    opens(t("jobs.bulk_untrack")),
                ),
                button=t("jobs.bulk_untrack_button"),
                says=t("done.jobs_untrack", n=2),
                agrees=lambda api, names: _is_open("job", False)(api, names) and _is_open("other", False)(api, names),
            ),
            Step(
                action="POST /ui/jobs/{id}/purge",
                page="/ui/jobs/{job}",
                moves=(opens(t("jobs.purge")),),
                button=t("jobs.purge_button"),
                says=t("done.job_purged"),
                agrees=lambda api, names: api.get(f"/v1/jobs/{names['job']}") is None,
            ),
        ),
    ),
    "intents": Story(
        begin=_intents,
        steps=(
            Step(
                action="POST /ui/intents/{id}/resolve",
                page="/ui/intents",
                within="[id='{intent}']",
                moves=(opens(t("intents.resolve")), ticks(t("intents.not_sent_choice"))),
                button=t("intents.record"),
                says=t("done.intent_resolved"),
                agrees=_is_gone("/v1/intents", "intent"),
            ),
            Step(
                action="POST /ui/intents/{id}/dismiss",
                within="[id='{other}']",
                moves=(opens(t("intents.dismiss")),),
                button=t("intents.dismiss_button"),
                says=t("done.intent_dismissed"),
                agrees=_is_gone("/v1/intents", "other"),
            ),
        ),
    ),
    "subscriptions": Story(
        begin=_sink,
        steps=(
            Step(
                action="POST /ui/subscriptions/preview",
                page="/ui/subscriptions",
                moves=(
                    follows(t("subscriptions.new")),
                    writes(t("forms.field_description"), "{name}"),
                    writes(t("forms.field_sink"), "{sink}"),
                    ticks("job.succeeded"),
                ),
                button=t("subscriptions.preview_now"),
                says=t("subscriptions.gets"),
                agrees=lambda api, names: all(
                    one["description"] != names["name"] for one in api.items("/v1/subscriptions")
                ),
            ),
            Step(
                action="POST /ui/subscriptions/new",
                button=t("subscriptions.create"),
                says=t("subscriptions.made_enabled"),
                agrees=_is_created("/v1/subscriptions", "description"),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/test",
                moves=(follows(t("subscriptions.open")), opens(t("subscriptions.test"))),
                button=t("subscriptions.test"),
                says=t("subscriptions.test_delivered"),
                agrees=_is_audited("subscriptions.test"),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/pause",
                page="/ui/subscriptions/{subscription}",
                button=t("subscriptions.pause"),
                says=t("done.subscription_paused"),
                agrees=_is_state("paused"),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/resume",
                button=t("subscriptions.resume"),
                says=t("done.subscription_resumed"),
                agrees=_is_state("enabled"),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/edit",
                moves=(follows(t("subscriptions.change")), writes(t("forms.field_description"), "{name} again")),
                button=t("subscriptions.save"),
                says=t("done.subscription_changed"),
                agrees=lambda api, names: (
                    api.get(f"/v1/subscriptions/{names['subscription']}")["description"] == f"{names['name']} again"
                ),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/rotate-secret",
                moves=(opens(t("subscriptions.rotate")),),
                button=t("subscriptions.rotate"),
                says=t("subscriptions.secret_once"),
                agrees=_is_audited("subscriptions.rotate_secret"),
            ),
            Step(
                action="POST /ui/subscriptions/{id}/delete",
                moves=(follows(t("subscriptions.open")), opens(t("subscriptions.delete"))),
                button=t("subscriptions.delete"),
                says=t("done.subscription_removed"),
                agrees=_is_gone("/v1/subscriptions", "subscription"),
            ),
        ),
    ),
    "a delivery whose record is missing": Story(
        begin=_deliveries, steps=(RETRY, _settles("not_sent")), persons=("keys",)
    ),
    "a delivery whose record is there": Story(begin=_deliveries, steps=(RETRY, _settles("sent")), persons=("plain",)),
    "replays": Story(
        begin=_replays,
        steps=(
            Step(
                action="POST /ui/deliveries/retry",
                page="/ui/deliveries?state=dead&subscription={refused}",
                moves=(follows(t("deliveries.send_again")),),
                button=SENDS,
                says="Started.",
                agrees=lambda api, names: api.get(f"/v1/replays/{names['here']}")["matched"] > 0,
            ),
            Step(
                action="POST /ui/replays/new",
                page="/ui/subscriptions/{paused}",
                moves=(follows(t("subscriptions.replay")), ticks(t("replays.only_all"))),
                button=t("replays.count"),
                says="events would be sent again.",
                agrees=lambda api, names: not api.items(f"/v1/deliveries?subscription={names['paused']}"),
            ),
            Step(
                action="POST /ui/replays",
                button=SENDS,
                says=t("replays.running"),
                agrees=lambda api, names: api.get(f"/v1/replays/{names['here']}")["state"] == "running",
            ),
            Step(
                action="POST /ui/replays/{id}/stop",
                moves=(opens(t("replays.stop")),),
                button=t("replays.stop_button"),
                says=t("done.replay_stopped"),
                agrees=lambda api, names: api.get(f"/v1/replays/{names['here']}")["state"] == "stopped",
            ),
        ),
    ),
    "tokens": Story(
        begin=_name,
        steps=(
            Step(
                action="POST /ui/tokens/new",
                page="/ui/tokens",
                moves=(
                    follows(t("tokens.new")),
                    writes(t("tokens.name"), "{name}"),
                    ticks(t("tokens.scope_read")),
                ),
                button=t("tokens.create"),
                says=t("tokens.once"),
                agrees=_is_created("/v1/tokens", "name"),
            ),
            Step(
                action="POST /ui/tokens/{id}/revoke",
                page="/ui/tokens",
                within="[id='{token}']",
                moves=(opens(t("tokens.revoke")),),
                button=t("tokens.revoke"),
                says=t("done.token_revoked"),
                agrees=_is_gone("/v1/tokens", "token"),
            ),
        ),
    ),
    "audit": Story(
        begin=_name,
        steps=(
            Step(
                action="POST /ui/audit/verify",
                page="/ui/audit",
                button=t("audit.verify"),
                says="The audit is intact",
                agrees=lambda api, _names: api.get("/v1/audit/verify")["ok"],
            ),
        ),
    ),
}
