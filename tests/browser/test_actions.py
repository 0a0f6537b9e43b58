"""Every action of the dashboard in Chromium: through the page's own form, with the keyboard alone, and without
JavaScript. The page says what was done, and the API agrees. `tests/support/dashboard_actions.py` has the actions.
"""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from relay.web.pages import PAGES
from relay.web.texts import english
from tests.support.dashboard_actions import STORIES, Api, Keys, Pointer, sends
from tests.support.dashboard_tabs import Faults, call, until_live
from tests.support.dashboard_world import Shown

WINDOWS = {"keys": "checked", "plain": "plain"}
TAKEN = [(name, person) for name, story in STORIES.items() for person in story.persons]
FROM_ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}
"""From elsewhere than this machine a relay with --dev asks for a token too."""
t = english()


# --- each action


def test_every_action_is_taken_with_keys_and_without_javascript() -> None:
    """A new form that no browser sends fails here. Signing in and out has a test of its own, below."""
    actions = {f"POST {page.path}" for page in PAGES if page.method == "POST"}
    for person in WINDOWS:
        taken = {step.action for story in STORIES.values() if person in story.persons for step in story.steps}
        assert taken == actions, person


@pytest.mark.parametrize(("name", "person"), TAKEN)
def test_page_does_what_its_buttons_say(name: str, person: str, open_tab: Callable[[str], Page], shown: Shown) -> None:
    page, api = open_tab(WINDOWS[person]), Api(shown=shown)
    faults = Faults().watch(page)
    names = STORIES[name].begin(api)
    for step in STORIES[name].steps:
        step.take(Keys(page) if person == "keys" else Pointer(page), names, api)
    assert faults.found == []
    assert faults.hosts == {shown.url.partition("://")[2]}


@pytest.mark.parametrize("scripts", [True, False])
def test_token_signs_in_and_the_button_signs_out(
    scripts: bool, open_context: Callable[..., BrowserContext], shown: Shown
) -> None:
    page, api = (
        open_context(java_script_enabled=scripts, extra_http_headers=FROM_ELSEWHERE).new_page(),
        Api(shown=shown),
    )
    faults = Faults().watch(page)
    made = api.post("/v1/tokens", {"name": f"signs-{scripts}", "scopes": ["read"]})
    page.goto("/ui/groups")
    expect(page.get_by_label(t("login.token"))).to_be_focused()  # it can be typed at once
    page.keyboard.insert_text(made["token"])
    with page.expect_request(sends("POST /ui/login")):
        page.keyboard.press("Enter")
    page.wait_for_url("**/ui/groups")
    expect(page.locator("footer")).to_contain_text(f"signs-{scripts}")
    with page.expect_request(sends("POST /ui/logout")):
        page.get_by_role("button", name=t("base.sign_out")).press("Enter")
    page.wait_for_url("**/ui/login")
    page.goto("/ui/groups")
    assert "/ui/login" in page.url
    assert faults.found == []
    actions = [one["action"] for one in api.items("/v1/audit?limit=20") if one["actor"] == f"signs-{scripts}"]
    assert actions == ["logout", "login"]


# --- forms while they are filled in


def test_preview_follows_what_is_typed(open_tab: Callable[[str], Page], shown: Shown) -> None:
    """The kind, the filter and the template, against an event that the relay has recorded."""
    page, api = open_tab("checked"), Api(shown=shown)
    faults = Faults().watch(page)
    id, subject = ended(api)
    page.goto("/ui/subscriptions/new")
    preview = page.locator("#preview")
    sink = page.get_by_label(t("forms.field_sink"), exact=True)
    sink.press_sequentially("https://crm.example/hooks")
    expect(preview).to_contain_text("POST https://crm.example/hooks")
    page.get_by_label(t("forms.field_event")).select_option(id)
    expect(preview).to_contain_text(subject)
    page.get_by_label(t("forms.field_template"), exact=True).press_sequentially('{"about": "{{ event.subject }}"}')
    expect(preview.locator("code")).to_have_text('{\n  "about": "' + subject + '"\n}')
    filter = page.get_by_label(t("forms.field_filters"), exact=True)
    filter.press_sequentially('[{"exact": {"subject": "another"}}]')
    expect(preview).to_contain_text(t("subscriptions.gets_not"))
    filter.press_sequentially(" ]")
    expect(preview).to_contain_text(t("subscriptions.preview_refused"))
    filter.press("Control+a")
    filter.press("Delete")
    expect(preview).to_contain_text(t("subscriptions.gets"))
    assert page.evaluate("document.activeElement.id") == "filters"
    page.get_by_label(t("forms.field_template"), exact=True).fill("")
    sink.fill("https://hooks.slack.com/services/T0/B0/x")
    page.get_by_label(t("forms.field_kind"), exact=True).select_option("slack")
    expect(preview).to_contain_text(t("subscriptions.gets_not"))  # its default types are others
    page.get_by_label("job.succeeded").check()
    expect(preview).to_contain_text('"blocks"')
    assert page.url.endswith("/ui/subscriptions/new")
    assert faults.found == []


def ended(api: Api) -> tuple[str, str]:
    """The event of a job that has just succeeded, and what it is about."""
    order = {"account": "default", "channel": "email", "connect_account_id": "email-1", "final": "succeeded"}
    order |= {"start_delay_seconds": 1, "run_seconds": 4, "attempt_failures": 0, "in_lane": False}
    id = call(api.shown, "POST", "/_sandbox/jobs", order, at=api.shown.sandbox)["items"][0]["id"]
    api.post("/v1/jobs", {"id": id})
    path = f"/v1/events?subject={id}&type=ai.revor.job.succeeded"
    api.until(lambda: api.items(path))
    return api.get(path)["ids"][0], id


def test_progress_of_a_replay_is_live(open_tab: Callable[[str], Page], shown: Shown) -> None:
    """A paused subscription's replay waits; resumed, its bar runs to the end without a new page."""
    page, api = open_tab("checked"), Api(shown=shown)
    faults = Faults().watch(page)
    names = STORIES["replays"].begin(api)
    body = {"since": "1970-01-01T00:00:00Z", "only": "all"}
    made = api.post(f"/v1/subscriptions/{names['paused']}/replay", body)
    page.goto(f"/ui/replays/{made['replay_id']}")
    until_live(page)
    bar = page.locator("progress")
    assert bar.evaluate("one => [one.value, one.max]") == [0, made["matched"]]
    page.evaluate("window.same = true")
    api.post(f"/v1/subscriptions/{names['paused']}/resume")
    expect(page.locator(".lead")).to_contain_text(t("replays.done"), timeout=60_000)
    assert bar.evaluate("one => [one.value, one.max]") == [made["matched"], made["matched"]]
    assert page.evaluate("window.same") is True
    assert faults.found == []


# --- Escape and the theme


def test_escape_closes_what_asks_and_keeps_the_place(open_tab: Callable[[str], Page], shown: Shown) -> None:
    page = open_tab("checked")
    page.goto(f"/ui/subscriptions/{shown.subscription}")
    asks = page.locator("details.confirm").first
    asks.locator("summary").press("Enter")
    expect(asks.locator("form")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(asks.locator("form")).to_be_hidden()
    expect(asks.locator("summary")).to_be_focused()


def test_theme_keeps_what_was_typed(open_tab: Callable[[str], Page]) -> None:
    page = open_tab("checked")
    page.goto("/ui/tokens/new")
    page.get_by_label(t("tokens.name"), exact=True).fill("half typed")
    page.locator("[data-theme-toggle]").click()
    page.wait_for_function("() => document.documentElement.dataset.theme")
    page.wait_for_load_state()
    expect(page.get_by_label(t("tokens.name"), exact=True)).to_have_value("half typed")
    page.locator("[data-theme-toggle]").click()  # as it was, for the other tests
