"""Takes the pictures of the dashboard for the documents: `make pictures`, or
`python -m tests.support.dashboard_pictures [FOLDER [PAGE…]]`.

Each page in light, in dark and on a phone, as PAGE-light.png and so on, and dashboard.png, the first picture of the
README. The relays are those of `dashboard_troubles`: after a day's work, with one trouble each. People run it, not CI.
"""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from relay.web.pages import PAGES
from tests.support.chromium import FLAGS, chromium

FOLDER = Path(__file__).parents[2] / "docs" / "img"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 800}
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "light": {"viewport": DESK, "color_scheme": "light"},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light"},
}
FIRST = "dashboard.png"
RECONNECT = ("overview", "incidents", "groups", "accounts", "jobs", "sources", "events")
"""Pages, with those below them, of a relay whose LinkedIn account needs reconnecting."""
UNKNOWN_SEND = ("intents",)
QUIET_MS = 1_500
"""After a page is there: the font and the live part come."""


def name_of(route: str) -> str:
    """The name of a page's pictures: `/ui/jobs/{id}` is `jobs-id`."""
    return re.sub(r"[{}]", "", route.removeprefix("/ui").strip("/")).replace("/", "-") or "overview"


def trouble_of(name: str) -> str:
    """The relay that a page is shown of."""
    head = name.partition("-")[0]
    return "reconnect" if head in RECONNECT else "unknown-send" if head in UNKNOWN_SEND else "sink"


def call(url: str, path: str, body: object = None) -> Any:
    """A call of the relay's API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def first(url: str, path: str) -> dict[str, Any]:
    """The first item of a list; {} if it is empty."""
    return next(iter(call(url, path)["items"]), {})


@contextmanager
def relay(trouble: str) -> Iterator[str]:
    """Runs a relay with this trouble. Gives its URL."""
    command = [sys.executable, "-m", "tests.support.dashboard_troubles", trouble]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"the relay with {trouble} did not start"
        try:
            yield url
        finally:
            process.stdin.close()
            process.wait(60)


def paths_of(url: str, trouble: str) -> dict[str, str]:
    """The path of each page of one thing, by its route."""
    paths = {
        "/ui/groups/{name}": "/ui/groups/Spring%20launch?source=revor&account=default",
        "/ui/jobs/{id}": f"/ui/jobs/{(first(url, '/v1/jobs?status=failed') or first(url, '/v1/jobs'))['uid']}",
        "/ui/events/{id}": f"/ui/events/{first(url, '/v1/events')['id']}",
    }
    if trouble == "reconnect":
        paths["/ui/incidents/{id}"] = f"/ui/incidents/{first(url, '/v1/incidents')['id']}"
    if trouble == "sink":
        for name, scopes in (("warehouse", ["read"]), ("crm-sync", ["read", "jobs:write"])):
            call(url, "/v1/tokens", {"name": name, "scopes": scopes})
        dead = first(url, "/v1/deliveries?state=dead")
        sink = f"/v1/subscriptions/{dead['subscription_id']}"
        replay = call(url, f"{sink}/replay", {"since": "1970-01-01T00:00:00Z", "only": "undelivered"})
        paths |= {
            "/ui/deliveries/{id}": f"/ui/deliveries/{dead['id']}",
            "/ui/deliveries/{id}/request": f"/ui/deliveries/{dead['id']}/request",
            "/ui/replays/{id}": f"/ui/replays/{replay['replay_id']}",
            "/ui/replays/new": f"/ui/replays/new?subscription={dead['subscription_id']}",
            "/ui/subscriptions/{id}": f"/ui/subscriptions/{dead['subscription_id']}",
            "/ui/subscriptions/{id}/edit": f"/ui/subscriptions/{dead['subscription_id']}/edit",
            "/ui/deliveries/retry": f"/ui/deliveries/retry?state=dead&subscription={dead['subscription_id']}",
        }
    return paths


def settle(page: Page) -> None:
    """Waits until the page looks as it stays."""
    page.wait_for_load_state("load")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(QUIET_MS)


def take(browser: Browser, url: str, routes: Mapping[str, str], folder: Path) -> None:
    """The pictures of these routes, whose paths are given."""
    for look, options in LOOKS.items():
        context = browser.new_context(base_url=url, reduced_motion="reduce", **options)
        page = context.new_page()
        for route, path in routes.items():
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200, f"{path}: {answer.status}"
            settle(page)
            page.screenshot(path=folder / f"{name_of(route)}-{look}.png")
            if (name_of(route), look) == ("overview", "light"):
                page.screenshot(path=folder / FIRST)
        context.close()


def main(folder: Path, wanted: Sequence[str]) -> None:
    """Takes the pictures of these pages; without any, of all."""
    routes = sorted(page.path for page in PAGES if page.method == "GET")
    routes = [route for route in routes if not wanted or name_of(route) in wanted]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        for trouble in sorted({trouble_of(name_of(route)) for route in routes}):
            with relay(trouble) as url:
                known = paths_of(url, trouble)
                shown = {one: known.get(one, one) for one in routes if trouble_of(name_of(one)) == trouble}
                take(browser, url, shown, folder)
        browser.close()
    if shutil.which("pngquant"):  # a third of the bytes
        made = [str(path) for path in folder.glob("*.png")]
        subprocess.run(["pngquant", "--quality=70-95", "--strip", "--skip-if-larger", "--ext=.png", "--force", *made])
    else:
        print("The pictures are large: install pngquant and run it again.", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:])
