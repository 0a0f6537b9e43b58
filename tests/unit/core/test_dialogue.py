"""Deliveries of several requests, as values: previews."""

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import MAX_STEPS, Ended, Step, Steps, group_key, previewed


def step(url: str, expected: bytes = b"") -> Step:
    return Step(request=OutboundRequest(url=url), name="look up", expected=expected)


def look_up_and_write() -> Steps:
    found: Response = yield step("https://crm.example/find", b"{id}")
    yield step(f"https://crm.example/{found.excerpt.decode()}")
    return Ended(outcome=Outcome(verdict="delivered", reason="ok"))


def endless() -> Steps:
    while True:
        yield step("https://crm.example/again")


def nothing() -> Steps:
    yield from ()
    return Ended(outcome=Outcome(verdict="dead", reason="nothing to send"))


def test_preview_imagines_the_expected_answers() -> None:
    urls = [one.request.url for one in previewed(look_up_and_write())]
    assert urls == ["https://crm.example/find", "https://crm.example/{id}"]


def test_preview_of_no_request_is_empty() -> None:
    assert previewed(nothing()) == ()


def test_preview_ends() -> None:
    assert len(previewed(endless())) == MAX_STEPS


def test_groups_of_different_accounts_have_different_keys() -> None:
    assert group_key("revor/a", "b") == "group/revor/a/b"
