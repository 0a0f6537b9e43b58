"""What a browser's request is believed: where it may go, who it is, and whether a form is the dashboard's own."""

from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.access.sign_in import (
    HOME,
    NOTICE_SECONDS,
    came_by_tls,
    csrf_of,
    digest_of,
    is_own_page,
    is_same,
    is_sealed,
    local_target,
    new_session,
    sealed,
    secret_in,
    user_named,
)
from relay.ids import new_secret


@pytest.mark.parametrize(
    "target",
    [
        *("/ui", "/ui/", "/ui/jobs", "/ui?a=b", "/ui/jobs?status=failed&group=a%20b", "/ui/jobs/job_01%2F..%2Fx"),
        *("/ui/jobs/a..b", "/ui/a//evil.example", "/ui/jobs?next=https://evil.example/../"),
        "/ui/" + "x" * 1_996,
    ],
)
def test_page_of_the_dashboard_is_a_target(target: str) -> None:
    assert local_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        *(None, "", "/", "ui", "//evil.example", "//evil.example/ui", "///evil.example", "/\\evil.example"),
        *("\\\\evil.example/ui", "/ui\\evil", "/ui/\\evil.example", "/ui/a\\..\\..", "https://evil.example/ui"),
        *("https:/ui", "javascript:alert(1)", "data:text/html,x", "/uix", "/ui.evil.example", "/ui@evil.example"),
        *("/ui:80", "/ui#a", "/ui/#a", "/v1/jobs", "/ui/../v1/jobs", "/ui/..", "/ui/.", "/ui/./x", "/ui/%2e%2e/v1"),
        *("/ui/.%2E/v1?x", "/ui/%2E", " /ui", "/ui ", "/ui/a b", "/ui\n", "/ui/\r\nSet-Cookie: a=b", "\t/ui"),
        *("/u\ti", "/ui/\0", "/ui/\x7f", "/ui/ä", "/ui/\u2028", "/ui/\ud800", "/ui/login", "/ui/login?link=x"),
        "/ui/logout",
        "/ui/" + "x" * 2_000,
    ],
)
def test_everything_else_leads_to_the_first_page(target: str | None) -> None:
    assert local_target(target) == HOME


@given(st.text(alphabet="/\\ui.%2eE5cC:@?#\t\n a", max_size=30).map("/ui".__add__) | st.text(max_size=30))
@example("/ui/..;/v1")
def test_whatever_is_asked_for_stays_in_the_dashboard(text: str) -> None:
    """As a browser reads it: `\\` is `/`, `%2e` is a dot, and dots are resolved."""
    target = local_target(text)
    read = urljoin("https://relay.example/ui/login", unquote(target.replace("\\", "/").partition("?")[0]))
    parts = urlsplit(read)
    assert (parts.scheme, parts.netloc) == ("https", "relay.example")
    assert f"{parts.path}/".startswith("/ui/")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([], None),
        ([""], None),
        (["  \t"], None),
        (["alice@example.com"], "user:alice@example.com"),
        ([" alice "], "user:alice"),
        (["CN=Alice,OU=Sales"], "user:CN=Alice,OU=Sales"),
        (["ops"], "user:ops"),
        (["user:ops"], "user:user:ops"),
        (["Jürgen".encode().decode("latin-1")], "user:Jürgen"),
        (["x" * 128], "user:" + "x" * 128),
    ],
)
def test_user_of_a_proxy(values: list[str], name: str | None) -> None:
    assert user_named(values) == name


@pytest.mark.parametrize(
    "values",
    [
        ["alice", "mallory"],
        ["alice", "alice"],
        ["", ""],
        ["x" * 129],
        ["x" * 10_000],
        ["a\nb"],
        ["a\0"],
        ["a\x1b[31m"],
        ["a\x7f"],
        ["\xff\xfe"],
        ["a\u202eb".encode().decode("latin-1")],
        ["\ud800"],
        ["a\u0100"],
        [b"\xed\xa0\x80".decode("latin-1")],
    ],
)
def test_header_that_names_no_single_user_is_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(has several|is not in|is no name)"):
        user_named(values)


@pytest.mark.parametrize(
    ("scheme", "public_url", "forwarded", "tls"),
    [
        ("http", None, [], False),
        ("https", None, [], True),
        ("http", "https://relay.example", [], True),
        ("http", "HTTPS://relay.example", [], True),
        ("http", "http://relay.example", [], False),
        ("http", "http://https.example", [], False),
        ("http", None, ["https"], True),
        ("http", None, ["HTTPS"], True),
        ("http", None, ["http"], False),
        ("http", None, ["https, http"], True),
        ("http", None, ["http, https"], False),
        ("http", None, ["http", "https"], False),
        ("http", None, [""], False),
        ("http", None, ["httpsx"], False),
        ("https", None, ["http"], True),
    ],
)
def test_cookie_is_for_tls_if_the_browser_came_by_it(
    scheme: str, public_url: str | None, forwarded: list[str], tls: bool
) -> None:
    assert came_by_tls(scheme, public_url=public_url, forwarded_proto=forwarded) is tls


def test_form_token_belongs_to_one_secret_and_one_user() -> None:
    secret, other = new_secret(), new_secret()
    token = csrf_of(secret)
    assert is_same(token, csrf_of(secret))
    assert secret not in token
    of_others = (csrf_of(other), csrf_of(secret, "user:alice"), csrf_of(secret, "user:bob"))
    assert len({token, *of_others}) == 4
    for wrong in (*of_others, "", token[:-1], token + "0", token.upper() + "x", secret, "ä", "\ud800", "\0"):
        assert not is_same(token, wrong), wrong


SECRET, OTHER = "a" * 43, "b" * 43


@pytest.mark.parametrize(
    ("cookies", "found"),
    [
        ([], None),
        ([f"s={SECRET}"], SECRET),
        ([f"a=b; s={SECRET}; c"], SECRET),
        (["a=b", f"s={SECRET}"], SECRET),
        ([f"s={SECRET};s={SECRET}"], SECRET),
        ([f"s={SECRET}; s={OTHER}"], None),
        ([f"s={SECRET}", f"s={OTHER}"], None),
        ([f"s={SECRET}; s="], None),
        ([f"S={SECRET}"], None),
        ([f"xs={SECRET}"], None),
        ([f's="{SECRET}"'], None),
        (["s"], None),
        ([f"s={SECRET}x"], None),
        (["=" * 10_000 + ";" * 10_000], None),
    ],
)
def test_cookie_counts_if_there_is_one(cookies: list[str], found: str | None) -> None:
    assert secret_in(cookies, "s") == found


@pytest.mark.parametrize(
    ("fetch_site", "own"),
    [
        ([], True),
        (["same-origin"], True),
        (["same-site"], False),
        (["cross-site"], False),
        (["none"], False),
        ([""], False),
        (["same-origin", "cross-site"], False),
        (["same-origin, cross-site"], False),
    ],
)
def test_write_comes_from_the_own_page(fetch_site: list[str], own: bool) -> None:
    assert is_own_page(fetch_site) is own


def test_a_session_lasts_twelve_hours_and_a_link_two_minutes() -> None:
    secret = "s" * 43
    made = [
        new_session(kind, secret, token_digest=b"\x01\xff", name="crm", now=1_000.0) for kind in ("session", "link")
    ]
    assert [(one.kind, one.expires_at - one.created_at) for one in made] == [("session", 43_200.0), ("link", 120.0)]
    assert {(one.digest, one.token_digest, one.name) for one in made} == {(digest_of(secret), "01ff", "crm")}


def test_a_notice_is_sealed_for_one_visitor_for_a_minute() -> None:
    seal = sealed("csrf", "job_refreshed 3", 1_000.0)
    assert is_sealed("csrf", "job_refreshed 3", seal, 1_000.0)
    assert is_sealed("csrf", "job_refreshed 3", seal, 1_000.0 + NOTICE_SECONDS)
    assert not is_sealed("csrf", "job_refreshed 3", seal, 1_001.0 + NOTICE_SECONDS)
    assert not is_sealed("other", "job_refreshed 3", seal, 1_000.0)
    assert not is_sealed("csrf", "job_purged 3", seal, 1_000.0)


@pytest.mark.parametrize("seal", ["", ".", "1", "9999999999.", "\u0662.x", "-1.x", "9" * 5_000, "\ud800", "1.\ud800"])
def test_what_is_no_seal_says_nothing(seal: str) -> None:
    assert not is_sealed("csrf", "job_refreshed", seal, 0.0)
