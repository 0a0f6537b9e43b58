"""Which subscription gets which event, and which type a misspelt one means."""

import pytest

from relay.core.events.event import job_event_kind, job_kind_in
from relay.core.subscriptions.filters import (
    full_type,
    known_types,
    matches,
    nearest_type,
    wanted_types,
)
from relay.core.subscriptions.subscription import Subscription, has_failures
from tests.support.job_events import origin_of

SOURCE = "https://api.example/jobs"
FAILED = "ai.revor.job.failed"
KNOWN = known_types([origin_of()])


def subscription(**changes: object) -> Subscription:
    return Subscription(id="sub_1", sink="https://x.example/", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("types", "source", "event_type", "event_source", "wanted"),
    [
        (None, None, FAILED, SOURCE, True),
        (None, None, "relay.source.down", "/relay", False),
        (None, None, "relay.incident.opened", "/relay", False),
        (None, None, "ai.revor.account.recovered", SOURCE, False),
        (("ai.revor.account.recovered",), None, "ai.revor.account.recovered", SOURCE, True),
        (None, SOURCE, FAILED, SOURCE, True),
        (None, SOURCE, FAILED, SOURCE + "/", False),
        (None, SOURCE.upper(), FAILED, SOURCE, False),
        ((FAILED,), None, FAILED, SOURCE, True),
        ((FAILED,), None, "ai.revor.job.succeeded", SOURCE, False),
        (("ai.revor.job",), None, FAILED, SOURCE, False),
        (("AI.revor.job.failed",), None, FAILED, SOURCE, False),
        (("ai.revor.job.succeeded", FAILED), SOURCE, FAILED, SOURCE, True),
        ((FAILED,), "/relay", FAILED, SOURCE, False),
        (("relay.source.down",), None, "relay.source.down", "/relay", True),
        (("relay.source.down",), SOURCE, "relay.source.down", "/relay", False),
        ((), None, FAILED, SOURCE, False),
    ],
)
def test_types_and_source_match_exactly(
    types: tuple[str, ...] | None, source: str | None, event_type: str, event_source: str, wanted: bool
) -> None:
    job_event = ".job." in event_type
    one = subscription(types=types, source=source)
    assert matches(one, event_type, event_source, job_event=job_event, owner=None) is wanted


def test_a_callback_matches_by_its_jobs_and_never_here() -> None:
    assert not matches(subscription(callback=True), FAILED, SOURCE, job_event=True, owner=None)
    assert not matches(subscription(callback=True, types=(FAILED,)), FAILED, SOURCE, job_event=True, owner=None)


@pytest.mark.parametrize(
    ("owner", "about", "wanted"),
    [
        (None, None, True),
        (None, "revor/a", True),
        ("revor/a", "revor/a", True),
        ("revor/a", "revor/b", False),
        ("revor/a", "other/a", False),
        ("revor/a", None, False),
    ],
)
def test_a_subscription_of_an_account_gets_only_events_about_that_account(
    owner: str | None, about: str | None, wanted: bool
) -> None:
    for type, source, job_event in ((FAILED, SOURCE, True), ("relay.source.down", "/relay", False)):
        one = subscription(types=(type,), owner=owner)
        assert matches(one, type, source, job_event=job_event, owner=about) is wanted


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("failed", FAILED),
        ("FAILED ", FAILED),
        (".failed", FAILED),
        ("job.failed", FAILED),
        ("ai.revor.job.fail", FAILED),
        ("ai.revor.job.suceeded", "ai.revor.job.succeeded"),
        ("faild", FAILED),
        ("com.other.job.canceled", "ai.revor.job.cancelled"),
        ("relay.source.unauthorised", "relay.source.unauthorized"),
        ("subscription.disabled", "relay.subscription.disabled"),
        ("recovered", "relay.subscription.recovered"),
        ("test", "relay.test"),
        ("", None),
        (" . ", None),
        ("com.github.push", None),
        ("x" * 100_000, None),
    ],
)
def test_similar_type_is_suggested(text: str, meant: str | None) -> None:
    assert nearest_type(text, KNOWN) == meant


@pytest.mark.parametrize(
    ("name", "full"),
    [
        (FAILED, FAILED),
        ("failed", FAILED),
        ("job.failed", FAILED),
        ("not_found", "ai.revor.job.not_found"),
        ("relay.test", "relay.test"),
        ("recovered", "relay.subscription.recovered"),
        ("account.recovered", "ai.revor.account.recovered"),
        ("group.finished", "relay.group.finished"),
        ("incident.opened", "relay.incident.opened"),
        ("ailed", None),
        ("Failed", None),
        (".failed", None),
        ("", None),
    ],
)
def test_a_short_name_stands_for_one_type(name: str, full: str | None) -> None:
    assert full_type(name, KNOWN) == full


SEVERAL = known_types(
    [origin_of(), origin_of("ai.revor.webset", succeeded_as="completed"), origin_of("com.acme.render.job")]
)


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("failed", ("ai.revor.job.failed", "ai.revor.webset.failed", "com.acme.render.job.failed")),
        ("succeeded", ("ai.revor.job.succeeded", "ai.revor.webset.completed", "com.acme.render.job.succeeded")),
        ("completed", ("ai.revor.webset.completed",)),
        ("ai.revor.webset.succeeded", ()),
        ("job.failed", ("ai.revor.job.failed", "com.acme.render.job.failed")),
        ("webset.failed", ("ai.revor.webset.failed",)),
        ("ai.revor.webset.failed", ("ai.revor.webset.failed",)),
        ("down", ("relay.source.down",)),
        ("recovered", ("relay.subscription.recovered",)),
        ("account.recovered", ("ai.revor.account.recovered",)),
        ("com.acme.order.paid", ("com.acme.order.paid",)),
        ("webset.faild", ()),
        ("ai.revor.webset.paid", ()),
    ],
)
def test_a_short_name_of_a_job_event_stands_for_that_of_every_resource(name: str, types: tuple[str, ...]) -> None:
    assert wanted_types(name, SEVERAL) == types


def test_resources_of_a_source_share_the_types_of_its_accounts() -> None:
    assert len(set(SEVERAL)) == len(SEVERAL)
    assert [one for one in SEVERAL if one.endswith(".account.added")] == [
        "ai.revor.account.added",
        "com.acme.render.account.added",
    ]


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        ("ai.revor.job.failed", "failed"),
        ("ai.revor.webset.status_unknown", "status_unknown"),
        ("com.acme.batch.succeeded", "succeeded"),
        ("ai.revor.webset.completed", "succeeded"),
        ("relay.source.completed", None),
        ("ai.revor.account.recovered", None),
        ("ai.revor.account.failed", None),
        ("relay.source.failed", None),
        ("acme.failed", None),
        ("com.acme.order.paid", None),
        ("failed", None),
        ("", None),
    ],
)
def test_the_kind_of_a_job_event_is_the_last_word_of_its_type(type: str, kind: str | None) -> None:
    assert job_event_kind(type) == kind
    document = {"type": type, "dataschema": "http://relay.example/schemas/job-status.v1.json"}
    assert job_kind_in(document) == kind
    assert job_kind_in({**document, "dataschema": "http://acme.example/order.json"}) is None
    assert job_kind_in({"type": type}) is None


@pytest.mark.parametrize(
    ("type", "has"),
    [
        *(("ai.revor.job.failed", True), ("ai.revor.webset.failed", True), ("com.acme.render.job.failed", True)),
        *(("ai.revor.webset.succeeded", False), ("com.acme.render.failed", True), ("relay.delivery.expired", True)),
        *(("ai.revor.account.failed", False), ("relay.source.down", False)),
    ],
)
def test_incidents_are_made_of_failed_jobs_of_every_resource(type: str, has: bool) -> None:
    assert has_failures([type]) is has


@pytest.mark.parametrize(
    "name",
    [
        *("com.acme.order.paid", "order.paid", "com.acme.job.failed", "COM.Acme.Order", "relayed.order.paid"),
        *("a" * 98 + "." + "b" * 101, "com.github.pull_request.opened", "urn:acme:order.paid/2"),
    ],
)
def test_a_type_of_another_program_is_free(name: str) -> None:
    assert wanted_types(name, KNOWN) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("order", "faild", "", ".", "com.acme order.paid", "com.acme.\xfcber", "a." + "b" * 199, "com.acme.\n"),
        *("relay.order.paid", "Relay.x", "ai.revor.job.paid", "AI.revor.account.moved", "relay.source.down.twice"),
        "ai.revor.order.paid",
        *("ai.rever.job.failed", "ai.revor.jobs.failed", "job.faild", "Job.Failed", "revor.job.failed.", "rely.test"),
    ],
)
def test_a_reserved_or_misspelt_type_is_not_free(name: str) -> None:
    assert wanted_types(name, KNOWN) == ()


def test_a_source_with_one_prefix_reserves_what_is_under_it_only() -> None:
    known = known_types([origin_of("com.acme.render", account_source=None)])
    assert wanted_types("com.acme.order.paid", known) == ("com.acme.order.paid",)
    assert wanted_types("com.acme.render.paid", known) == ()
    assert not [name for name in known if ".account." in name], "it has no connect accounts"
