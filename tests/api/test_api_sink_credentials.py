"""`sinkcredential`: write-only, encrypted, bound to the sink's origin, kept by a PUT without it."""

import pytest

from tests.support.api_world import HOOK
from tests.support.store_kit import rows

TOKEN_URL = "https://login.example/oauth/token"
PLAIN = {"credentialtype": "PLAIN", "identifier": "relay", "secret": "a-password-of-ours"}
GIVEN = {
    "PLAIN": PLAIN,
    "ACCESSTOKEN": {"credentialtype": "ACCESSTOKEN", "accesstoken": "an-access-token"},
    "REFRESHTOKEN": {
        "credentialtype": "REFRESHTOKEN",
        "accesstoken": "an-access-token",
        "accesstokenexpiresutc": "2020-01-01T00:00:00Z",
        "refreshtoken": "a-refresh-token",
        "refreshtokenendpoint": TOKEN_URL,
    },
    "CLIENTCREDENTIALS": {
        "credentialtype": "CLIENTCREDENTIALS",
        "token_url": TOKEN_URL,
        "client_id": "relay",
        "client_secret": "a-client-secret",
        "scope": "events.write",
        "audience": "https://receiver.example/",
    },
    "HEADER": {"credentialtype": "HEADER", "name": "X-Api-Key", "value": "a-header-value"},
}
SECRETS = ("a-password-of-ours", "an-access-token", "a-refresh-token", "a-client-secret", "a-header-value")


async def create(client, **body):
    answer = await client.post("/v1/subscriptions", json={"sink": HOOK, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def stored(world, made):
    found = await world.store.subscriptions.get(made["id"])
    return found.credential


def errors(answer):
    assert answer.status_code == 422, answer.text
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


@pytest.mark.parametrize("type", GIVEN)
async def test_credential_is_stored_encrypted_and_shown_without_its_secrets(client, world, type):
    made = await create(client, sinkcredential=GIVEN[type])
    kept = await stored(world, made)
    given = dict(GIVEN[type])
    if "accesstoken" in given:
        given["accesstokentype"] = "bearer"
    assert kept.fields == given
    assert kept.origin == "https://receiver.example:443"
    path = f"/v1/subscriptions/{made['id']}"
    answers = [made, (await client.get(path)).json(), (await client.get("/v1/subscriptions")).json()["items"][0]]
    rows_now = str(await rows(world.store, "SELECT * FROM subscriptions"))
    assert not any(secret in rows_now for secret in SECRETS)
    answers.append((await client.delete(path)).json())
    for answer in answers:
        assert answer["sinkcredential"] == {
            name: value
            for name, value in given.items()
            if name not in ("secret", "accesstoken", "refreshtoken", "client_secret", "value")
        }
        assert not any(secret in str(answer) for secret in SECRETS)


async def test_put_without_a_credential_keeps_it_and_null_removes_it(client, world):
    made = await create(client, sinkcredential=PLAIN)
    path, before = f"/v1/subscriptions/{made['id']}", await stored(world, made)
    assert (await client.put(path, json={"sink": HOOK, "description": "new"})).status_code == 200
    assert await stored(world, made) == before
    other_path = await client.put(path, json={"sink": HOOK + "/other"})
    assert other_path.json()["sinkcredential"] == {"credentialtype": "PLAIN", "identifier": "relay"}
    assert await stored(world, made) == before, "the same origin"
    assert (await client.put(path, json={"sink": HOOK, "sinkcredential": None})).json()["sinkcredential"] is None
    assert await stored(world, made) is None


@pytest.mark.parametrize("type", GIVEN)
async def test_shown_credential_that_is_sent_back_keeps_the_stored_one(client, world, type):
    made = await create(client, sinkcredential=GIVEN[type])
    path, before = f"/v1/subscriptions/{made['id']}", await stored(world, made)
    shown = (await client.get(path)).json()
    if "accesstokenexpiresutc" in shown["sinkcredential"]:
        shown["sinkcredential"]["accesstokenexpiresutc"] = "2019-12-31T00:00:00Z"  # as it was before a renewal
    answer = await client.put(path, json=shown)
    assert answer.status_code == 200, answer.text
    assert await stored(world, made) == before


async def test_put_drops_no_field_of_a_credential_in_silence(client, world) -> None:
    for type, stored_end, given, expected in [
        ("ACCESSTOKEN", "2099-01-01T00:00:00Z", {"accesstokenexpiresutc": "2098-01-01T00:00:00Z"}, "accesstoken"),
        ("ACCESSTOKEN", "2099-01-01T00:00:00Z", {"accesstokenexpiresutc": None}, "accesstoken"),
        ("ACCESSTOKEN", "2099-01-01T00:00:00Z", {"accesstokenexpiresutc": "soon"}, "accesstokenexpiresutc"),
        ("ACCESSTOKEN", None, {"accesstokenexpiresutc": "2098-01-01T00:00:00Z"}, "accesstoken"),
        ("REFRESHTOKEN", "2020-01-01T00:00:00Z", {"accesstokenexpiresutc": "soon"}, "accesstokenexpiresutc"),
        ("REFRESHTOKEN", "2020-01-01T00:00:00Z", {"accesstokenexpiresutc": 7}, "accesstokenexpiresutc"),
        ("CLIENTCREDENTIALS", None, {"accesstokenexpiresutc": "2098-01-01T00:00:00Z"}, "accesstokenexpiresutc"),
        ("HEADER", None, {"accesstokenexpiresutc": "2098-01-01T00:00:00Z"}, "accesstokenexpiresutc"),
        ("PLAIN", None, {"accesstokenexpiresutc": "2098-01-01T00:00:00Z"}, "accesstokenexpiresutc"),
    ]:
        end = {} if stored_end is None else {"accesstokenexpiresutc": stored_end}
        made = await create(client, sinkcredential={**GIVEN[type], **end})
        path, before = f"/v1/subscriptions/{made['id']}", await stored(world, made)
        body = {"sink": HOOK, "sinkcredential": {**made["sinkcredential"], **given}}
        answer = await client.put(path, json=body)
        assert f"/sinkcredential/{expected}" in [pointer for pointer, _ in errors(answer)], (type, given)
        assert await stored(world, made) == before
        whole = {**GIVEN[type], **given}
        if expected == "accesstoken" and given["accesstokenexpiresutc"]:
            assert (await client.put(path, json={"sink": HOOK, "sinkcredential": whole})).status_code == 200
            assert (await stored(world, made)).fields["accesstokenexpiresutc"] == given["accesstokenexpiresutc"]


async def test_sink_of_another_origin_needs_the_credential_again(open_client, world) -> None:
    for sink in [
        "https://evil.example/hooks",
        "https://receiver.example.evil.example/",
        "https://receiver.example./hooks",
        "https://sub.receiver.example/hooks",
        "https://receiver.example:8443/hooks",
    ]:
        client = open_client()
        made = await create(client, sinkcredential=PLAIN)
        path, before = f"/v1/subscriptions/{made['id']}", await stored(world, made)
        shown = (await client.get(path)).json()
        for body in ({"sink": sink}, {**shown, "sink": sink}):
            answer = await client.put(path, json=body)
            assert answer.status_code == 422
            if ":8443" not in sink:
                assert errors(answer) == [("/sinkcredential", "credential_bound")]
        assert await stored(world, made) == before
        if ":8443" not in sink:
            again = await client.put(path, json={"sink": sink, "sinkcredential": {**PLAIN, "secret": "theirs"}})
            assert again.status_code == 200
            assert (await stored(world, made)).origin != before.origin


async def test_credential_that_cannot_be_sent_is_refused_without_quoting_it(client) -> None:
    for credential, expected in [
        ({}, ("/sinkcredential/credentialtype", "missing")),
        ({"credentialtype": "plain"}, ("/sinkcredential/credentialtype", "unknown_value")),
        ({"credentialtype": ["PLAIN"]}, ("/sinkcredential/credentialtype", "unknown_value")),
        ("PLAIN", ("/sinkcredential", "wrong_type")),
        ({**PLAIN, "password": "x"}, ("/sinkcredential/password", "unknown_field")),
        ({**PLAIN, "identifier": "a:b"}, ("/sinkcredential/identifier", "invalid_credential")),
        ({**PLAIN, "secret": "a\r\nX-Evil: 1"}, ("/sinkcredential/secret", "invalid_credential")),
        ({**PLAIN, "secret": "a\0"}, ("/sinkcredential/secret", "invalid_credential")),
        ({**PLAIN, "secret": ""}, ("/sinkcredential/secret", "too_short")),
        ({**PLAIN, "secret": "a" * 4097}, ("/sinkcredential/secret", "too_long")),
        ({**PLAIN, "secret": 7}, ("/sinkcredential/secret", "wrong_type")),
        ({**GIVEN["ACCESSTOKEN"], "accesstoken": "a b"}, ("/sinkcredential/accesstoken", "invalid_credential")),
        ({**GIVEN["ACCESSTOKEN"], "accesstoken": "tökén"}, ("/sinkcredential/accesstoken", "invalid_credential")),
        ({**GIVEN["ACCESSTOKEN"], "accesstokentype": "mac"}, ("/sinkcredential/accesstokentype", "invalid_credential")),
        (
            {**GIVEN["ACCESSTOKEN"], "accesstokenexpiresutc": "2020-01-01T00:00:00Z"},
            ("/sinkcredential/accesstokenexpiresutc", "expired"),
        ),
        (
            {**GIVEN["ACCESSTOKEN"], "accesstokenexpiresutc": "tomorrow"},
            ("/sinkcredential/accesstokenexpiresutc", "invalid_time"),
        ),
        ({**GIVEN["HEADER"], "name": "Host"}, ("/sinkcredential/name", "reserved_header")),
        ({**GIVEN["HEADER"], "name": "webhook-signature"}, ("/sinkcredential/name", "reserved_header")),
        ({**GIVEN["HEADER"], "name": "a b"}, ("/sinkcredential/name", "invalid_header")),
        ({**GIVEN["HEADER"], "value": "a\r\nb"}, ("/sinkcredential/name", "invalid_header")),
        ({**GIVEN["CLIENTCREDENTIALS"], "scope": "a\nb"}, ("/sinkcredential/scope", "invalid_credential")),
    ]:
        answer = await client.post("/v1/subscriptions", json={"sink": HOOK, "sinkcredential": credential})
        assert expected in errors(answer)
        assert not any(secret in answer.text for secret in SECRETS)


async def test_token_endpoint_passes_the_guard_of_sinks(client) -> None:
    for url in [
        *("http://login.example/token", "https://127.0.0.1/token", "https://169.254.169.254/latest/"),
        *("https://[::ffff:10.0.0.1]/", "https://localhost/", "https://2130706433/", "https://login.example:8080/"),
        *("https://user:pass@login.example/", "https://login.internal/", "file:///etc/passwd"),
        "https://login.example/\\@evil",
    ]:
        for type in ["CLIENTCREDENTIALS", "REFRESHTOKEN"]:
            field = {"CLIENTCREDENTIALS": "token_url", "REFRESHTOKEN": "refreshtokenendpoint"}[type]
            body = {"sink": HOOK, "sinkcredential": {**GIVEN[type], field: url}}
            answer = await client.post("/v1/subscriptions", json=body)
            assert errors(answer) == [(f"/sinkcredential/{field}", "sink_refused")]
            made = await create(client)
            put = await client.put(f"/v1/subscriptions/{made['id']}", json=body)
            assert errors(put) == [(f"/sinkcredential/{field}", "sink_refused")]
