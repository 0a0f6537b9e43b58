"""Deliveries of several requests, as values: previews."""

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import MAX_STEPS, Ended, Step, Steps, group_key, person_key, previewed
from relay.core.records import MemoryTurn


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


def test_key_of_a_person_shows_neither_portal_nor_address() -> None:
    key = person_key("acme.pipedrive.com", "alex@example.com")
    assert key == person_key("acme.pipedrive.com", "alex@example.com")
    assert not any(part in key for part in ("acme", "alex", "example"))
    assert (
        len({key, person_key("acme.pipedrive.co", "malex@example.com"), person_key("other", "alex@example.com")}) == 3
    )


def test_turn_knows_what_the_subscriptions_of_the_portal_remember() -> None:
    person, phone = {"id": 1}, {"id": 2}
    shared = tuple(
        MemoryTurn(subscription_id="", key=key, token="t", memory=memory)
        for key, memory in (("person/1", person), ("person/2", phone))
    )
    assert MemoryTurn(subscription_id="sub_1", key="k", token="t", memory={}, shared=shared).known == (
        person,
        phone,
    )
