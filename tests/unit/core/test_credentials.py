import base64
from typing import Any
from urllib.parse import parse_qs

import pytest

from relay.clock import from_rfc3339
from relay.core.deliveries import credentials
from relay.core.deliveries.credentials import (
    MAX_PAUSE_SECONDS,
    MAX_TOKEN_CHARACTERS,
    TOKEN_HERE,
    NoToken,
    SinkCredential,
    Token,
    bearer,
    fixed_header,
    header_name,
    instance_of,
    origin_text,
    pause_seconds,
    read_token,
    renewed,
    stored_token,
    token_request,
)
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.subscriptions.subscription import Subscription

NOW = 1_800_000_000.0
TOKEN_URL = "https://login.example/token"
ORIGIN = "https://sink.example:443"


def credential(type: str, **fields: str) -> SinkCredential:
    return SinkCredential(id="crd_1", origin=ORIGIN, fields={"credentialtype": type, **fields})


CLIENT = credential(
    "CLIENTCREDENTIALS", token_url=TOKEN_URL, client_id="re:lay", client_secret="s e+cret", scope="a b", audience="api"
)
REFRESH = credential("REFRESHTOKEN", refreshtoken="refresh-1", refreshtokenendpoint=TOKEN_URL)


def answer(body: bytes, status: int | None = 200, **fields: Any) -> Response:
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=body, **fields)


def token_of(body: bytes) -> Token:
    found = read_token(answer(body), NOW, ORIGIN)
    assert isinstance(found, Token), found
    return found


def refusal_of(body: bytes = b"", status: int | None = 200, **fields: Any) -> NoToken:
    found = read_token(answer(body, status, **fields), NOW, ORIGIN)
    assert isinstance(found, NoToken), found
    return found


def test_basic_credential_is_the_example_of_rfc_7617():
    given = credential("PLAIN", identifier="Aladdin", secret="open sesame")
    assert fixed_header(given, NOW) == ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    assert fixed_header(credential("PLAIN", identifier="test", secret="123£"), NOW) == (
        "Authorization",
        "Basic dGVzdDoxMjPCow==",
    )


def test_header_credential_is_sent_as_it_was_given():
    given = credential("HEADER", name="X-Team-Pass", value="opens it")
    assert fixed_header(given, NOW) == ("X-Team-Pass", "opens it")
    assert header_name(given.fields) == "X-Team-Pass"


def test_access_token_is_sent_until_it_expires():
    given = credential("ACCESSTOKEN", accesstoken="abc", accesstokentype="bearer")
    assert fixed_header(given, NOW) == ("Authorization", "Bearer abc") == bearer("abc")
    assert header_name(given.fields) == "Authorization"
    expiring = credential("ACCESSTOKEN", accesstoken="abc", accesstokenexpiresutc="2027-01-15T08:00:10Z")
    assert fixed_header(expiring, NOW) == ("Authorization", "Bearer abc")
    gone = fixed_header(expiring, NOW + 10)
    assert isinstance(gone, NoToken)
    assert "expired at 2027-01-15T08:00:10Z" in gone.detail


def test_credential_shows_everything_but_its_secrets():
    assert CLIENT.shown == {
        "credentialtype": "CLIENTCREDENTIALS",
        "token_url": TOKEN_URL,
        "client_id": "re:lay",
        "scope": "a b",
        "audience": "api",
    }
    assert set(CLIENT.secrets) == {
        "s e+cret",
        "s+e%2Bcret",
        base64.b64encode(b"re%3Alay:s+e%2Bcret").decode(),
    }
    plain = credential("PLAIN", identifier="relay", secret="password")
    assert plain.shown == {"credentialtype": "PLAIN", "identifier": "relay"}
    assert set(plain.secrets) == {"password", base64.b64encode(b"relay:password").decode()}
    assert REFRESH.secrets == ("refresh-1",)
    assert "password" not in repr(plain)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Sink.Example/hooks?a=b", "https://sink.example:443"),
        ("https://sink.example:443", "https://sink.example:443"),
        ("https://sink.example:8443/", "https://sink.example:8443"),
        ("http://sink.example/", "http://sink.example:80"),
        ("https://sink.example.evil.example/", "https://sink.example.evil.example:443"),
        ("https://sink.example@evil.example/", "https://sink.example@evil.example:443"),
        ("https://sink.example./", "https://sink.example.:443"),
        ("not a URL", ""),
    ],
)
def test_origin_is_scheme_host_and_port(url, origin):
    assert origin_text(url) == origin


def test_client_secret_goes_into_the_header_form_encoded():
    request = token_request(CLIENT)
    headers = dict(request.headers)
    assert (request.url, request.method) == (TOKEN_URL, "POST")
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"re%3Alay:s+e%2Bcret"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["a b"],
        "audience": ["api"],
    }


def test_client_secret_goes_into_the_body_if_the_endpoint_wants_that():
    request = token_request(CLIENT, secret_in_body=True)
    assert "Authorization" not in dict(request.headers)
    form = parse_qs(request.body.decode())
    assert (form["client_id"], form["client_secret"]) == (["re:lay"], ["s e+cret"])


def test_refresh_token_is_traded_without_a_client_or_with_one():
    request = token_request(REFRESH)
    assert "Authorization" not in dict(request.headers)
    assert parse_qs(request.body.decode()) == {"grant_type": ["refresh_token"], "refresh_token": ["refresh-1"]}
    public = credential("REFRESHTOKEN", refreshtoken="r", refreshtokenendpoint=TOKEN_URL, client_id="app")
    assert parse_qs(token_request(public).body.decode())["client_id"] == ["app"]
    confidential = credential(
        "REFRESHTOKEN", refreshtoken="r", refreshtokenendpoint=TOKEN_URL, client_id="app", client_secret="shh"
    )
    headers = dict(token_request(confidential).headers)
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"app:shh"


def test_refresh_token_keeps_what_it_was_traded_for():
    assert stored_token(REFRESH) is None
    assert stored_token(credential("ACCESSTOKEN", accesstoken="abc")) is None
    endless = credential("REFRESHTOKEN", refreshtoken="r", refreshtokenendpoint=TOKEN_URL, accesstoken="abc")
    assert stored_token(endless) == Token(value="abc", stale_at=float("inf"))
    after = renewed(endless, Token(value="def", stale_at=NOW + 540, refresh_token="r2"))
    assert after.fields["refreshtoken"] == "r2"
    assert from_rfc3339(after.fields["accesstokenexpiresutc"]) == NOW + 540
    assert stored_token(after) == Token(value="def", stale_at=NOW + 540)
    assert (after.id, after.origin) == (endless.id, endless.origin)
    assert renewed(after, Token(value="ghi", stale_at=NOW)).fields["refreshtoken"] == "r2", "not every endpoint rotates"


@pytest.mark.parametrize(
    ("life", "used_for"),
    [
        ("3600", 3540),
        ('"3600"', 3540),
        ("600", 540),
        ("100", 90),
        ("99.5", 89.55),
        ("10", 10),
        ("0", 10),
        ("-5", 10),
        ("1e300", 86_340),
        ("9" * 400, None),
        ("1e999", None),
        ("null", 3540),
        ("true", None),
        ('"soon"', None),
        ('"1e3"', None),
        ('"' + "9" * 5000 + '"', None),
        ("[]", None),
        ('"٣"', None),
    ],
)
def test_token_is_used_within_limits_whatever_life_it_claims(life, used_for):
    found = read_token(answer(b'{"access_token": "t", "expires_in": ' + life.encode() + b"}"), NOW, ORIGIN)
    if used_for is None:
        assert isinstance(found, NoToken)
        assert found.detail == "the token endpoint's expires_in is not a number of seconds"
    else:
        assert isinstance(found, Token)
        assert found.stale_at - NOW == pytest.approx(used_for, abs=0.001)


def test_token_type_is_bearer_in_any_case_or_absent():
    assert token_of(b'{"access_token": "t", "token_type": "BeareR"}').value == "t"
    assert token_of(b'{"access_token": "t"}').value == "t"
    for kind in (b'"mac"', b"null", b"7"):
        assert "not bearer" in refusal_of(b'{"access_token": "t", "token_type": ' + kind + b"}").detail


def test_new_refresh_token_is_taken_if_it_can_be_one():
    assert token_of(b'{"access_token": "t", "refresh_token": "r2"}').refresh_token == "r2"
    for odd in (b'"a\\r\\nb"', b"7", b'""', b"null"):
        assert token_of(b'{"access_token": "t", "refresh_token": ' + odd + b"}").refresh_token is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('"a\\r\\nX-Evil: 1"', "not text of printable ASCII"),
        ('"a b"', "not text of printable ASCII"),
        ('"töken"', "not text of printable ASCII"),
        ('"\\ud800"', "not text of printable ASCII"),
        ('"a\\u0000"', "not text of printable ASCII"),
        ('"a\\n"', "not text of printable ASCII"),
        ('""', "not text of printable ASCII"),
        ("7", "not text of printable ASCII"),
        ("null", "missing"),
        ('"' + "a" * (MAX_TOKEN_CHARACTERS + 1) + '"', "longer than 8192 characters"),
    ],
)
def test_token_that_no_header_can_hold_is_refused_and_not_quoted(value, problem):
    detail = refusal_of(b'{"access_token": ' + value.encode("utf-8", "surrogatepass") + b"}").detail
    assert problem in detail
    assert "Evil" not in detail
    assert len(detail) < 100


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"7", b"null", b'"t"', b"\xff\xfe", b"[" * 60_000, b'{"access_token": "t"']
)
def test_answer_that_is_no_json_object_is_refused(body):
    assert refusal_of(body).detail == "the token endpoint's answer is not a JSON object"
    assert refusal_of(body, detail="the rest broke off").detail.endswith("(the rest broke off)")


def test_error_code_is_quoted_if_it_is_a_known_one():
    refused = refusal_of(b'{"error": "invalid_client", "error_description": "s e+cret is wrong"}', 400)
    assert refused.detail == "the token endpoint answered 400 (invalid_client)"
    assert refused.other_method
    assert not refusal_of(b'{"error": "invalid_grant"}', 400).other_method
    for known in ("invalid_client_id", "invalid_client_credentials", "inactive_user", "inactive_org"):  # Salesforce's
        body = f'{{"error": "{known}", "error_description": "s e+cret"}}'.encode()
        assert refusal_of(body, 400).detail == f"the token endpoint answered 400 ({known})"
    for odd in (b'"<script>"', b'"' + b"a" * 65 + b'"', b"{}", b'"a\\nb"'):
        assert refusal_of(b'{"error": ' + odd + b"}", 400).detail == "the token endpoint answered 400"


def test_endpoint_that_gives_no_answer_is_named_with_the_reason():
    assert refusal_of(b"", None, error="dns", detail="no such name").detail == (
        "the token endpoint gave no answer (dns: no such name)"
    )
    assert refusal_of(b"", None, error="proxy").by_proxy
    assert not refusal_of(b"", None, error="timeout").by_proxy
    assert refusal_of(b"", None, error="timeout").detail == "the token endpoint gave no answer (timeout)"


def test_pauses_after_failures_double_up_to_five_minutes():
    assert [pause_seconds(nth, None) for nth in range(1, 5)] == [1, 2, 4, 8]
    assert pause_seconds(10_000, None) == MAX_PAUSE_SECONDS
    assert pause_seconds(1, 120.0) == 120.0
    assert pause_seconds(9, 3.0) == 256.0


@pytest.mark.parametrize(
    ("headers", "placed"),
    [
        ((("Accept", "*/*"),), ("Authorization", "Bearer abc")),
        ((("Accept", "*/*"), ("x-api-token", TOKEN_HERE)), ("x-api-token", "abc")),
        ((("x-api-token", f"{TOKEN_HERE} "),), ("Authorization", "Bearer abc")),
    ],
)
def test_token_is_put_where_the_request_wants_it(headers, placed):
    request = OutboundRequest(url="https://crm.example", headers=headers)
    assert credentials.placed(request, credentials.bearer("abc")) == placed


@pytest.mark.parametrize("instance", [b'"https://sink.example"', b'"https://SINK.example:443/"', b"null"])
def test_token_is_valid_at_the_instance_that_its_answer_names(instance):
    assert token_of(b'{"access_token": "t", "instance_url": ' + instance + b"}").value == "t"


@pytest.mark.parametrize(
    ("instance", "shown"),
    [
        (b'"https://acme--dev.sandbox.my.salesforce.com/"', "https://acme--dev.sandbox.my.salesforce.com"),
        (b'"https://s3cr3t.example"', "another origin"),
        (b'"http://sink.example"', "another origin"),
        (b'"https://sink.example:8443"', "another origin"),
        (b'"https://sink.example@acme.my.salesforce.com"', "another origin"),
        (b'"https://acme.my.salesforce.com@sink.example/"', "another origin"),
        (b'"https://acme.my.salesforce.com.sink.example/"', "another origin"),
        (b'"https://' + b"a." * 30_000 + b'salesforce.com"', "another origin"),
        (b"[]", "another origin"),
        (b'"https://169.254.169.254/"', "another origin"),
        (b'"s3cr3t"', "another origin"),
        (b"7", "another origin"),
    ],
)
def test_token_of_another_instance_is_not_sent_to_the_sink(instance, shown):
    body = b'{"access_token": "t", "instance_url": ' + instance + b"}"
    assert refusal_of(body).detail == f"the token is valid at {shown}, which is not the sink's: correct the sink"
    assert isinstance(read_token(answer(body), NOW, None), Token), "other kinds of sinks do not look at it"


@pytest.mark.parametrize(("kind", "instance"), [("salesforce", ORIGIN), ("webhook", None), ("hubspot", None)])
def test_only_salesforce_says_where_its_token_is_valid(kind, instance):
    assert instance_of(Subscription(id="sub_1", sink="https://sink.example", kind=kind, credential=CLIENT)) == instance
    assert instance_of(Subscription(id="sub_1", sink="https://sink.example", kind=kind)) is None
