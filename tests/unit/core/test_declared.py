from dataclasses import replace

import pytest

from relay.core.deliveries.credentials import SinkCredential
from relay.core.subscriptions.declared import (
    changed_fields,
    current_secret,
    pending_words,
    problem_of_id,
    qualified,
    same_credential,
)
from relay.core.subscriptions.subscription import SigningSecret, Subscription

ONE = Subscription(id="crm", sink="https://one.example", options={"a": 1, "b": 2})
TOKEN = SinkCredential(id="crd_1", origin="https://one.example:443", fields={"credentialtype": "ACCESSTOKEN"})


@pytest.mark.parametrize(
    ("id", "owner", "part"),
    [
        ("crm", None, None),
        ("sub_01jvpq3m8n0000000000000002", None, None),
        ("A.b-c_9", "revor/acme", None),
        ("crm@revor:acme", "revor/acme", None),
        ("", None, "an id of your own choice has up to 64"),
        ("-crm", None, "up to 64"),
        ("crm/1", None, "up to 64"),
        ("crm\n", None, "up to 64"),
        ("x" * 65, None, "up to 64"),
        ("ü", None, "up to 64"),
        ("preview", None, "the path of an operation"),
        ("crm@revor:acme", None, "limited to that account"),
        ("crm@revor:acme", "revor/other", "limited to that account"),
    ],
)
def test_an_id_has_a_form_and_never_that_of_another_account(id, owner, part):
    problem = problem_of_id(id, owner)
    assert problem is None if part is None else part in problem


def test_ids_of_accounts_never_meet():
    assert qualified("crm", None) == "crm"
    assert qualified("crm", "revor/acme") == qualified("crm@revor:acme", "revor/acme") == "crm@revor:acme"
    assert qualified("crm", "revor/other") != qualified("crm", "revor/acme")


def test_a_credential_is_the_same_by_its_id_or_by_what_was_given():
    renewed = replace(TOKEN, fields={"credentialtype": "ACCESSTOKEN", "accesstoken": "new"})
    assert same_credential(None, None)
    assert not same_credential(TOKEN, None)
    assert not same_credential(None, TOKEN)
    assert same_credential(TOKEN, renewed)
    assert same_credential(TOKEN, replace(TOKEN, id="crd_2"))
    assert not same_credential(TOKEN, replace(renewed, id="crd_2"))


def test_the_current_secret_is_the_one_that_does_not_expire():
    old, new = SigningSecret(value="old", expires_at=5.0), SigningSecret(value="new")
    assert current_secret((new, old)) == current_secret((old, new)) == "new"
    assert current_secret((old,)) is None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ()),
        ({"sink": "https://two.example", "types": ("a",)}, ("sink", "types")),
        ({"kind": "slack", "timeout_seconds": 3.0}, ("config.kind", "config.timeout_seconds")),
        ({"method": "PUT", "headers": (("a", "b"),)}, ("protocolsettings.method", "protocolsettings.headers")),
        ({"retry_schedule_seconds": (1.0,)}, ("config.retry_schedule",)),
        ({"options": {"a": 1, "c": 3}}, ("config.b", "config.c")),
        ({"credential": TOKEN}, ("sinkcredential",)),
        ({"declared": "*"}, ("declared",)),
        ({"state": "paused", "created_at": 5.0, "secrets": (SigningSecret(value="x"),)}, ()),
    ],
)
def test_changes_have_the_names_of_the_api(changes, names):
    assert changed_fields(ONE, replace(ONE, **changes)) == names


def test_types_in_another_order_are_no_change():
    two = replace(ONE, types=("job.queued", "job.failed"))
    assert changed_fields(two, replace(two, types=("job.failed", "job.queued"))) == ()
    assert changed_fields(two, replace(two, types=None)) == ("types",)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 pending deliveries"), (1, "1 pending delivery"), (2_345, "2,345 pending deliveries")],
)
def test_pending_deliveries_are_counted_in_words(count: int, words: str) -> None:
    assert pending_words(count) == words
