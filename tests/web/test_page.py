"""What a page's handler gets."""

from itertools import count
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request

from relay.core.access.sign_in import is_sealed
from relay.web.page import Done, Visit


def visit_at(clock: Any) -> Visit:
    request = Request({"type": "http", "method": "GET", "path": "/ui", "query_string": b"", "headers": []})
    none: Any = None
    context: Any = SimpleNamespace(ports=SimpleNamespace(clock=clock))
    return Visit(request, none, none, context, "csrf")


def test_the_time_is_the_same_all_through_a_page() -> None:
    ticks = count(1_000.25, 0.25)
    visit = visit_at(lambda: next(ticks))
    before = visit.now
    assert visit.now - visit.now % 3_600 == before - before % 3_600
    visit.begin()  # a live page is made again
    assert visit.now > before


def test_an_action_leads_to_a_page_that_says_so_and_keeps_its_filters() -> None:
    done = Done(key="jobs_refreshed", to="/ui/jobs?status=failed&done=old&n=1", n=3)
    path, _, seal = done.location("csrf", 1_000.0).partition("&seal=")
    assert path == "/ui/jobs?status=failed&done=jobs_refreshed&n=3"
    assert is_sealed("csrf", "jobs_refreshed 3", seal, 1_000.0)
    assert Done(key="", to="/ui/jobs/a?done=old&seal=x", n=3).location("csrf", 1_000.0) == "/ui/jobs/a"
