"""The dashboard in Chromium, against one relay that has something of everything.

Each page: no fault on the console, nothing that the Content-Security-Policy refuses, nothing of another host, no text
of strangers that runs, nothing that axe finds, no horizontal scrolling on a phone; and without JavaScript. Then what
people do with it: keys, live pages, many tabs, a lost connection, a token that is revoked.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from relay.web.pages import PAGES
from relay.web.texts import english
from tests.support.cut_proxy import cut_proxy
from tests.support.dashboard_tabs import DESK, PHONE, Faults, call, make_intent, until_live
from tests.support.dashboard_world import Shown
from tests.support.npm import npm_folder
from tests.support.scale import scaled, soak_only

ROUTES = sorted(page.path for page in PAGES if page.method == "GET")
FILLED: dict[str, str] = {
    "/ui/jobs/{id}": "/ui/jobs/{job}",
    "/ui/groups/{name}": "/ui/groups/{group}?source=revor&account=default",
    "/ui/deliveries/{id}": "/ui/deliveries/{dead}",
    "/ui/deliveries/{id}/request": "/ui/deliveries/{dead}/request",
    "/ui/replays/{id}": "/ui/replays/{replay}",
    "/ui/subscriptions/{id}": "/ui/subscriptions/{failing}",
    "/ui/subscriptions/{id}/edit": "/ui/subscriptions/{subscription}/edit",
    "/ui/incidents/{id}": "/ui/incidents/{incident}",
    "/ui/events/{id}": "/ui/events/{event}",
}
"""The pages of one thing. A new page that is missing here fails."""
PAGE_BYTES = 150_000
"""Over the wire, with all that it loads."""
PHONE_PIXELS = 8_000
"""Ten screens of a phone."""
AXE = "axe-core@4.14.1"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MAX_TABS = 150
BEYOND_KEYS = """() => [...document.querySelectorAll("main *")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.checkVisibility({contentVisibilityAuto: true})
    && ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
  .filter((one) => ![one, ...one.querySelectorAll("*")].some((at) => at.tabIndex >= 0))
  .map((one) => `${one.tagName} ${one.id} ${one.className} ${one.innerText.slice(0, 60)}`)"""
"""What scrolls sideways, has no part that Tab leads to, and is none itself: not every browser makes it one."""
FROM_ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}
"""From elsewhere than this machine a relay with --dev asks for a token too."""
PATIENCE_SECONDS = 120.0
t = english()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = npm_folder(tmp_path_factory.mktemp("npm"), [AXE])
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def items(shown: Shown, path: str) -> list[Any]:
    """The items of a list of the API."""
    found: list[Any] = call(shown, "GET", path)["items"]
    return found


def until_items(shown: Shown, path: str) -> list[Any]:
    """The items of a list, as soon as there are some."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := items(shown, path)):
        assert time.monotonic() < until, f"{path} has nothing"
        time.sleep(0.05)
    return found


def path_of(route: str, shown: Shown) -> str:
    """The path of a page in this relay."""
    return FILLED.get(route, route).format_map(vars_of(shown))


def vars_of(shown: Shown) -> dict[str, str]:
    return {name: getattr(shown, name) for name in Shown.__slots__}


# --- each page


@pytest.mark.parametrize("route", ROUTES)
def test_page_has_no_fault_and_fits_a_phone(route: str, open_tab: Callable[[str], Page], shown: Shown) -> None:
    page = open_tab("checked")
    faults = Faults().watch(page)
    answer = page.goto(path_of(route, shown))
    assert answer is not None
    assert answer.status == 200
    until_live(page)
    assert page.locator("h1").count() == 1
    assert page.evaluate("window.probed") is None
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollHeight") <= PHONE_PIXELS, "longer than ten screens"
    page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
    wide = page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= width) return [];
          return [...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > width + 1)
            .map((one) => `${one.tagName} ${one.id} ${one.className}`).slice(0, 5);
        }"""
    )
    assert wide == [], "wider than a phone"
    assert page.evaluate(BEYOND_KEYS) == [], "scrolls, and no key leads into it"
    page.set_viewport_size(DESK)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    assert faults.found == []
    assert faults.hosts == {shown.url.partition("://")[2]}
    if page.locator("[data-search]").count():  # else it leads to the jobs: below
        page.keyboard.press("/")
        expect(page.locator("[data-search]")).to_be_focused()


@pytest.mark.parametrize("route", ROUTES)
def test_axe_finds_nothing_in_either_theme(route: str, open_tab: Callable[[str], Page], axe: str, shown: Shown) -> None:
    page = open_tab("axe")
    page.goto(path_of(route, shown))
    until_live(page)
    page.evaluate(axe + ";0")
    assert axe_of(page, AXE_TAGS) == []
    page.emulate_media(color_scheme="dark")
    assert axe_of(page, ["color-contrast"], kind="rule") == []


def axe_of(page: Page, values: list[str], kind: str = "tag") -> list[str]:
    """What axe finds by rules with these tags, or by these rules, as lines."""
    options = {"runOnly": {"type": kind, "values": values}, "resultTypes": ["violations"]}
    found = page.evaluate("(options) => axe.run(options)", options)
    return [
        f"{one['id']}: {one['help']}: {node['html'][:160]} {node['any'][:1]}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


@pytest.mark.parametrize("route", ROUTES)
def test_page_works_without_javascript(route: str, open_tab: Callable[[str], Page], shown: Shown) -> None:
    page = open_tab("plain")
    answer = page.goto(path_of(route, shown))
    assert answer is not None
    assert answer.status == 200
    assert page.locator("h1").count() == 1
    # what only works with JavaScript is not shown
    assert page.locator("[data-copy]:visible, [data-theme-toggle]:visible, #live-state:visible").count() == 0


def test_every_page_is_small(browser: Browser, shown: Shown) -> None:
    sizes: dict[str, int] = {}
    for route in scaled(["/ui", "/ui/jobs", "/ui/subscriptions/{id}"], ROUTES):
        context = browser.new_context(base_url=shown.url)
        page, bytes_of = context.new_page(), []
        session = context.new_cdp_session(page)
        session.on("Network.loadingFinished", lambda event, into=bytes_of: into.append(event["encodedDataLength"]))
        session.send("Network.enable")
        page.goto(path_of(route, shown))
        until_live(page)
        sizes[route] = int(sum(bytes_of))
        context.close()
    assert {route: size for route, size in sizes.items() if size > PAGE_BYTES} == {}
    assert min(sizes.values()) > 10_000


# --- what people do


def test_actions_work_without_javascript(open_context: Callable[..., BrowserContext], shown: Shown) -> None:
    page = open_context(java_script_enabled=False).new_page()
    page.goto(f"/ui/subscriptions/{shown.subscription}")
    page.locator(f"form[action='/ui/subscriptions/{shown.subscription}/pause'] button").click()
    expect(page.locator(".notice")).to_be_visible()
    assert call(shown, "GET", f"/v1/subscriptions/{shown.subscription}")["state"] == "paused"
    page.locator(f"form[action='/ui/subscriptions/{shown.subscription}/resume'] button").click()
    expect(page.locator(".notice")).to_be_visible()
    assert call(shown, "GET", f"/v1/subscriptions/{shown.subscription}")["state"] == "enabled"


def test_keys_lead_everywhere(open_context: Callable[..., BrowserContext]) -> None:
    page = open_context().new_page()
    page.goto("/ui")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/ui/subscriptions")
    page.keyboard.press("/")
    page.wait_for_function("() => document.activeElement.matches('[data-search]')")
    page.keyboard.type("g j ? /")  # in a field they are letters
    assert page.evaluate("document.activeElement.value") == "g j ? /"
    assert page.locator("#help").is_hidden()


def test_tab_reaches_each_action_and_shows_where_it_is(
    open_context: Callable[..., BrowserContext], shown: Shown
) -> None:
    page = open_context().new_page()
    page.goto(f"/ui/subscriptions/{shown.failing}")
    until_live(page)
    wanted = page.evaluate(
        """() => {
          window.wanted = [...document.querySelectorAll("main :is(a[href], button, input, select, textarea, summary)")]
            .filter((one) => one.checkVisibility({contentVisibilityAuto: true}) && one.type !== "hidden");
          return window.wanted.length;
        }"""
    )
    reached, unmarked = set(), set()
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        index, marked = page.evaluate(
            """() => {
              const at = document.activeElement, style = getComputedStyle(at);
              return [window.wanted.indexOf(at), style.outlineStyle !== "none" || style.boxShadow !== "none"];
            }"""
        )
        if index >= 0:
            reached.add(index)
            if not marked:
                unmarked.add(index)
        if len(reached) == wanted:
            break
    assert len(reached) == wanted
    assert unmarked == set()


def test_theme_is_chosen_and_stays(open_context: Callable[..., BrowserContext]) -> None:
    page = open_context(color_scheme="light").new_page()
    page.goto("/ui/jobs")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(back)
    page.locator("[data-theme-toggle]").click()
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    dark = page.evaluate(back)
    assert dark != light
    page.goto("/ui/audit")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(back) == dark


def test_times_are_relative_and_local(open_context: Callable[..., BrowserContext]) -> None:
    page = open_context(timezone_id="Asia/Kolkata", locale="en-GB").new_page()
    page.goto("/ui/jobs")
    time = page.locator("main time").first
    assert "ago" in time.inner_text()
    absolute = page.evaluate(
        """(one) => new Intl.DateTimeFormat("en", {dateStyle: "medium", timeStyle: "medium", timeZone: "Asia/Kolkata"})
          .format(new Date(one))""",
        time.get_attribute("datetime"),
    )
    assert time.get_attribute("title") == absolute


@pytest.mark.parametrize("scripts", [True, False])
def test_token_signs_in_and_the_button_signs_out(
    scripts: bool, open_context: Callable[..., BrowserContext], shown: Shown
) -> None:
    page = open_context(java_script_enabled=scripts, extra_http_headers=FROM_ELSEWHERE).new_page()
    faults = Faults().watch(page)
    made = call(shown, "POST", "/v1/tokens", {"name": f"signs-{scripts}", "scopes": ["read"]})
    page.goto("/ui/groups")
    expect(page.get_by_label(t("login.token"))).to_be_focused()  # it can be typed at once
    page.keyboard.insert_text(made["token"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/groups")
    expect(page.locator("footer")).to_contain_text(f"signs-{scripts}")
    page.get_by_role("button", name=t("base.sign_out")).press("Enter")
    page.wait_for_url("**/ui/login")
    page.goto("/ui/groups")
    assert "/ui/login" in page.url
    assert faults.found == []
    actions = [one["action"] for one in items(shown, "/v1/audit?limit=20") if one["actor"] == f"signs-{scripts}"]
    assert actions == ["logout", "login"]


def test_preview_follows_what_is_typed(open_tab: Callable[[str], Page], shown: Shown) -> None:
    """The kind, the filter and the template, against an event that the relay has recorded; then, by the button, the
    whole page with all that was typed."""
    page = open_tab("checked")
    faults = Faults().watch(page)
    id, subject = ended(shown)
    page.goto("/ui/subscriptions/new")
    page.locator("a.tile").first.click()
    preview = page.locator("#preview")
    sink = page.get_by_label(t("forms.field_sink"), exact=True)
    sink.press_sequentially("https://crm.example/hooks")
    expect(preview).to_contain_text("POST https://crm.example/hooks")
    page.get_by_label(t("forms.field_event")).select_option(id)
    expect(preview).to_contain_text(subject)
    page.get_by_text(t("subscriptions.more"), exact=True).click()
    page.get_by_label("Template", exact=True).press_sequentially('{"about": "{{ event.subject }}"}')
    expect(preview.locator(".raw code")).to_have_text('{\n  "about": "' + subject + '"\n}')
    filter = page.get_by_label(t("forms.field_filters"), exact=True)
    filter.press_sequentially('[{"exact": {"subject": "another"}}]')
    expect(preview).to_contain_text(t("subscriptions.gets_not"))
    filter.press_sequentially(" ]")
    expect(preview).to_contain_text(t("subscriptions.preview_refused"))
    filter.press("Control+a")
    filter.press("Delete")
    expect(preview).to_contain_text(t("subscriptions.gets"))
    assert page.evaluate("document.activeElement.id") == "filters"
    page.get_by_label("Template", exact=True).fill("")
    page.get_by_label(t("subscriptions.type_succeeded"), exact=True).uncheck()
    sink.fill("https://hooks.slack.com/services/T0/B0/x")
    expect(preview).to_contain_text(t("subscriptions.gets_not"))
    page.get_by_label(t("subscriptions.type_succeeded"), exact=True).check()
    expect(preview).to_contain_text(t("subscriptions.gets_not"))  # the usual types are Slack's now
    page.get_by_label(t("subscriptions.type_queued"), exact=True).uncheck()
    expect(preview.locator(".drawn.slack .columns")).to_be_visible()
    page.get_by_label(t("forms.field_description"), exact=True).fill("typed")
    page.get_by_role("button", name=t("subscriptions.preview_now")).click()
    page.wait_for_url("**/ui/subscriptions/preview")
    assert (sink.input_value(), page.get_by_label(t("forms.field_description"), exact=True).input_value()) == (
        "https://hooks.slack.com/services/T0/B0/x",
        "typed",
    )
    assert faults.found == []


def ended(shown: Shown) -> tuple[str, str]:
    """The event of a job that has just succeeded, and what it is about."""
    order = {"account": "default", "channel": "email", "connect_account_id": "email-1", "final": "succeeded"}
    order |= {"start_delay_seconds": 1, "run_seconds": 4, "attempt_failures": 0, "in_lane": False}
    id = call(shown, "POST", "/_sandbox/jobs", order, at=shown.sandbox)["items"][0]["id"]
    call(shown, "POST", "/v1/jobs", {"id": id})
    path = f"/v1/events?subject={id}&type=ai.revor.job.succeeded"
    until_items(shown, path)
    return call(shown, "GET", path)["ids"][0], id


def test_progress_of_a_replay_is_live(open_tab: Callable[[str], Page], shown: Shown) -> None:
    """A paused subscription's replay waits; resumed, its bar runs to the end without a new page."""
    page = open_tab("checked")
    faults = Faults().watch(page)
    sink = call(shown, "GET", f"/v1/subscriptions/{shown.subscription}")["sink"]
    paused = call(shown, "POST", "/v1/subscriptions", {"sink": sink, "description": "Replayed"})["id"]
    call(shown, "POST", f"/v1/subscriptions/{paused}/pause")
    body = {"since": "1970-01-01T00:00:00Z", "only": "all"}
    made = call(shown, "POST", f"/v1/subscriptions/{paused}/replay", body)
    page.goto(f"/ui/replays/{made['replay_id']}")
    until_live(page)
    bar = page.locator("progress")
    assert bar.evaluate("one => [one.value, one.max]") == [0, made["matched"]]
    page.evaluate("window.same = true")
    call(shown, "POST", f"/v1/subscriptions/{paused}/resume")
    expect(page.locator(".lead")).to_contain_text(t("replays.done"), timeout=120_000)
    assert bar.evaluate("one => [one.value, one.max]") == [made["matched"], made["matched"]]
    assert page.evaluate("window.same") is True
    assert faults.found == []


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


# --- live pages


def test_live_page_shows_what_happens_and_keeps_what_the_reader_does(
    open_context: Callable[..., BrowserContext], shown: Shown
) -> None:
    page = open_context().new_page()
    faults = Faults().watch(page)
    page.goto("/ui/intents")
    until_live(page)
    page.evaluate(
        """() => {
          window.asking = document.querySelector("#live details:has(form)");
          window.asking.open = true;
          window.field = window.asking.querySelector("form :is(input:not([type=hidden]), select, textarea, button)");
          window.field.focus();
        }"""
    )
    before = page.locator("#live form").count()
    make_intent(shown)
    # A page that takes long to make, as on a busy machine, is made again less often.
    more = "(before) => document.querySelectorAll('#live form').length > before"
    page.wait_for_function(more, arg=before, timeout=120_000)
    kept = "[window.asking.isConnected, window.asking.open, document.activeElement === window.field]"
    assert page.evaluate(kept) == [True, True, True]
    assert faults.found == []


def test_lost_connection_is_said_and_comes_back(open_context: Callable[..., BrowserContext], shown: Shown) -> None:
    with cut_proxy(int(shown.url.rpartition(":")[2])) as proxy:
        page = open_context(base_url=f"http://127.0.0.1:{proxy.port}").new_page()
        page.goto("/ui/audit")
        until_live(page)
        proxy.cut()
        expect(page.locator("#live-state")).to_contain_text("Connection lost")
        assert page.locator("h1").is_visible()
        proxy.join()
        until_live(page)


def test_many_tabs_leave_connections_for_pages(open_context: Callable[..., BrowserContext], shown: Shown) -> None:
    """Chromium has six connections to a host, for all tabs together. All tabs here count as visible."""
    context = open_context()
    tabs = [context.new_page() for _ in range(scaled(8, 20))]
    for tab in tabs:
        tab.goto("/ui/jobs", wait_until="commit")
    paused = context.new_page()
    for _ in range(3):
        answer = paused.goto("/ui/audit", wait_until="load")
        assert answer is not None
        assert answer.status == 200
    states = [tab.locator("#live-state").inner_text() for tab in tabs]
    assert any(state.startswith("Paused") for state in states)


def test_revoked_token_leads_to_the_login_page(
    open_context: Callable[..., BrowserContext], axe: str, shown: Shown
) -> None:
    page = open_context(bypass_csp=True, extra_http_headers=FROM_ELSEWHERE).new_page()
    made = call(shown, "POST", "/v1/tokens", {"name": "browser", "scopes": ["read"]})
    page.goto("/ui/jobs?open=true")
    assert "/ui/login" in page.url
    page.evaluate(axe + ";0")
    assert axe_of(page, AXE_TAGS) == []
    page.locator("input[type=password]").fill(made["token"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/jobs?open=true")
    until_live(page)
    call(shown, "DELETE", f"/v1/tokens/{made['id']}")
    page.wait_for_url("**/ui/login**")
    expect(page.locator("input[type=password]")).to_be_visible()


@soak_only
def test_twenty_live_tabs_do_not_grow(
    open_context: Callable[..., BrowserContext], relay: subprocess.Popen[str], shown: Shown
) -> None:
    """Five minutes: the memory of the relay and of the pages stays."""
    context = open_context()
    paths = [path_of(route, shown) for route in ROUTES][:20]
    tabs = [context.new_page() for _ in range(20)]
    for tab, path in zip(tabs, paths * 2, strict=False):
        tab.goto(path, wait_until="commit")
    node = psutil.Process(relay.pid)

    def measured() -> tuple[float, float]:
        heap = 0.0
        for tab in tabs:
            session = context.new_cdp_session(tab)
            session.send("HeapProfiler.collectGarbage")
            heap += session.send("Runtime.getHeapUsage")["usedSize"]
            session.detach()
        return node.memory_info().rss / 2**20, heap / 2**20

    tabs[0].wait_for_timeout(60_000)
    before = measured()
    for number in range(24):
        call(shown, "POST", "/v1/jobs", {"id": f"soak-{number}"})
        tabs[number % 20].wait_for_timeout(10_000)
    after = measured()
    assert after[0] < before[0] + 24, f"MB of the relay: {before[0]:.1f}, then {after[0]:.1f}"
    assert after[1] < before[1] * 1.25 + 8, f"MB of the pages: {before[1]:.1f}, then {after[1]:.1f}"
