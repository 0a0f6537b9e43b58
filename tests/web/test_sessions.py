"""Who may see the dashboard: signing in and out, sessions that end with their token, proxies, and forged requests."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import ip_network
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest
from starlette.requests import Request

from relay.core.access.sign_in import SESSION_SECONDS, csrf_of, digest_of
from relay.core.access.tokens import FREE_MISTAKES
from relay.errors import StoreError
from relay.ids import new_secret
from relay.web.sessions import MAX_FORM_BYTES, SESSION_COOKIE, VISITOR_COOKIE, WebSettings
from tests.support.api_world import NOW, TOKENS, World, scope_of
from tests.support.scale import scaled
from tests.support.store_kit import access_token, session
from tests.support.web_world import Answer, Browser, sign_in

OpenAs = Callable[..., Awaitable[Browser]]
TLS = "https://relay.example"
PROXY, STRANGER = "10.0.0.1", "203.0.113.9"
TRUSTED = (ip_network("10.0.0.0/8"),)
BY_PROXY = WebSettings(user_header="X-Forwarded-User", user_scopes=frozenset({"read", "jobs:write"}))


@pytest.fixture
async def guest(open_as: OpenAs) -> Browser:
    """A browser without a session, of a relay that needs one."""
    return await open_as(dev=False, tokens=TOKENS)


async def login(browser: Browser, token: str = "rl_read", **fields: str) -> Answer:
    """What the form answers. Nothing is followed."""
    page = await browser.get("/ui/login")
    sent = {"_csrf": field(page, "_csrf"), "token": token, **fields}
    return Answer(await browser.client.post("/ui/login", data=sent))


def field(page: Answer, name: str) -> str:
    """The value of a hidden field."""
    (found,) = page.soup.all(f"//input[@name='{name}']")
    return str(found.get("value"))


def cookie(answer: Answer, name: str) -> str:
    """The Set-Cookie of this name."""
    (found,) = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{name}=")]
    return found


async def link_of(browser: Browser, token: str = "rl_read") -> str:
    """The path and query of a new one-time link."""
    made = await browser.client.post("/v1/sessions", headers={"Authorization": f"Bearer {token}"})
    parts = urlsplit(made.json()["url"])
    return f"{parts.path}?{parts.query}"


async def use(browser: Browser, link: str, **fields: str) -> Answer:
    """Opens a one-time link and confirms it."""
    page = await browser.get(link)
    (secret,) = parse_qs(urlsplit(link).query)["link"]
    sent = {"_csrf": field(page, "_csrf"), "link": secret, **fields}
    return Answer(await browser.client.post("/ui/login", data=sent))


async def entries(world: World) -> list[tuple[str, str | None, str]]:
    """The audit: action, actor and result, oldest first."""
    await world.audit.flush(everything=True)
    page = await world.store.audit.page(limit=100)
    found = sorted(page.items, key=lambda one: one.number)
    return [(one.record.action, one.record.actor, one.record.result) for one in found]


# --- the form


async def test_without_a_session_every_page_leads_to_the_form_and_back(guest: Browser) -> None:
    for path, target in (
        ("/ui", "/ui"),
        ("/ui/jobs?status=failed&group=a%20b", "/ui/jobs?status=failed&group=a%20b"),
        ("/ui/jobs/a%2Fb", "/ui/jobs/a%2Fb"),
        ("/ui/nothing", "/ui/nothing"),
    ):
        refused = await guest.get(path)
        assert (refused.status, refused.headers["location"]) == (303, f"/ui/login?next={quote(target, safe='')}")
        page = await guest.get(refused.headers["location"])
        assert (page.status, field(page, "next")) == (200, target)
    posted = await guest.client.post("/ui/jobs/x/refresh")
    assert (posted.status_code, posted.headers["location"]) == (303, "/ui/login")


async def test_token_signs_in(guest: Browser, world: World) -> None:
    done = await login(guest, " rl_read\n", next="/ui/jobs?status=failed")
    assert (done.status, done.headers["location"]) == (303, "/ui/jobs?status=failed")
    page = await guest.get("/ui/jobs")
    assert page.status == 200
    assert "Signed in as viewer" in page.html
    assert (await guest.get("/ui/login?next=/ui/groups")).headers["location"] == "/ui/groups"
    assert await entries(world) == [("login", "viewer", "ok")]


async def test_cookie_has_a_secret_that_is_nowhere_else(guest: Browser, world: World) -> None:
    found = cookie(await login(guest), SESSION_COOKIE)
    secret, _, attributes = found.partition("=")[2].partition("; ")
    assert attributes == "Path=/ui; HttpOnly; SameSite=Strict; Max-Age=43200"
    stored = await world.store.sessions.find(digest_of(secret), "session", world.now)
    assert stored is not None
    assert stored.token_digest == sha256(b"rl_read").hexdigest()
    page = await guest.get("/ui/jobs")
    assert all(one not in page.html + repr(stored) for one in (secret, "rl_read"))


async def test_cookies_are_for_tls_only_where_there_is_tls(open_as: OpenAs) -> None:
    for base_url, peer, headers, settings, secure in [
        ("http://127.0.0.1:8080", STRANGER, {}, {}, False),
        (TLS, STRANGER, {}, {}, True),
        ("http://127.0.0.1:8080", STRANGER, {}, {"public_url": TLS}, True),
        ("http://127.0.0.1:8080", STRANGER, {"X-Forwarded-Proto": "https"}, {"trusted_proxies": TRUSTED}, False),
        ("http://127.0.0.1:8080", PROXY, {"X-Forwarded-Proto": "https"}, {"trusted_proxies": TRUSTED}, True),
        ("http://127.0.0.1:8080", PROXY, {"X-Forwarded-Proto": "http"}, {"trusted_proxies": TRUSTED}, False),
        ("http://127.0.0.1:8080", PROXY, {"X-Forwarded-Proto": "https"}, {}, False),
    ]:
        guest = await open_as(dev=False, tokens=TOKENS, base_url=base_url, peer=peer, headers=headers, **settings)
        page = await guest.get("/ui/login")
        visitor = cookie(page, VISITOR_COOKIE)
        assert visitor.endswith("; Secure") is secure
        # elsewhere a browser logs an error of the page, unless it is on loopback
        assert ("cross-origin-opener-policy" in page.headers) is secure
        assert "Path=/ui; HttpOnly; SameSite=Strict" in visitor
        # httpx keeps a Secure cookie to itself on http, as Safari does
        own = {"Cookie": visitor.partition(";")[0]}
        sent = {"_csrf": field(page, "_csrf"), "token": "rl_read"}
        done = Answer(await guest.client.post("/ui/login", data=sent, headers=own))
        assert done.status == 303
        assert cookie(done, SESSION_COOKIE).endswith("; Secure") is secure


async def test_what_is_no_token_to_sign_in_with_is_refused_in_words(guest: Browser, world: World) -> None:
    for token, status, words in [
        ("", 422, "Enter a token"),
        ("   ", 422, "Enter a token"),
        ("rl_wrong", 401, "not accepted"),
        ("rl_read ä", 401, "not accepted"),
        ("\u202e", 401, "not accepted"),
        ("rl_read\nx", 401, "not accepted"),
        ("x" * 10_000, 401, "not accepted"),
        ("rl_events", 403, "this needs"),  # nothing to see
        ("rl_proxy", 403, "this needs"),
    ]:
        refused = await login(guest, token, next="/ui/jobs")
        assert refused.status == status
        (said,) = refused.soup.texts("//*[@id='login-error']")
        assert words in said
        assert field(refused, "next") == "/ui/jobs"
        assert SESSION_COOKIE not in guest.client.cookies
        assert (await guest.get("/ui")).status == 303
        assert ("login", "viewer", "ok") not in await entries(world)


async def test_wrong_tokens_are_slowed_down_like_everywhere(guest: Browser, world: World) -> None:
    for _ in range(FREE_MISTAKES):
        assert (await login(guest, "rl_wrong")).status == 401
    for answer in (await login(guest, "rl_wrong"), await use(guest, "/ui/login?link=" + new_secret())):
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert "too many wrong tokens" in answer.html
    api = await guest.client.get("/v1/jobs", headers={"Authorization": "Bearer rl_wrong"})
    assert api.status_code == 429
    assert (await login(guest)).status == 303, "a valid token never waits"
    assert ("login.refused", None, "refused") in await entries(world)


async def test_what_is_no_form_is_refused(guest: Browser) -> None:
    for body, media_type, status in [
        (b"token=%ff", "application/x-www-form-urlencoded", 422),
        (b"token=\xff", "application/x-www-form-urlencoded", 422),
        (b"token=%ED%A0%80", "application/x-www-form-urlencoded", 422),
        (b"token=a%00b", "application/x-www-form-urlencoded", 422),
        (b"&".join([b"a=b"] * 1_000), "application/x-www-form-urlencoded", 422),
        (b"token=" + b"x" * MAX_FORM_BYTES, "application/x-www-form-urlencoded", 413),
        (b"token=rl_read", "text/plain", 415),
        (b'{"token": "rl_read"}', "application/json", 415),
        (b"token=rl_read", "", 415),
        (b"token=rl_read", "application/x-www-form-urlencoded", 403),
        (b"", "application/x-www-form-urlencoded", 403),
        (b"%", "application/x-www-form-urlencoded;charset=utf-16", 403),
    ]:
        for path in ("/ui/login", "/ui/logout") if status != 403 else ("/ui/login",):
            answer = await guest.client.post(path, content=body, headers={"Content-Type": media_type})
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/html")
            assert SESSION_COOKIE not in guest.client.cookies


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "/ui/../v1", "/ui\n"])
async def test_sign_in_leads_to_no_other_site(guest: Browser, target: str) -> None:
    page = await guest.get("/ui/login", next=target)
    assert field(page, "next") == "/ui"
    assert (await login(guest, next=target)).headers["location"] == "/ui"
    assert (await guest.get("/ui/login", next=target)).headers["location"] == "/ui"


# --- forged forms


async def test_form_of_another_visitor_does_not_sign_in(guest: Browser, open_as: OpenAs) -> None:
    """Else another site could sign a browser in as somebody else, and watch what is done."""
    other = await open_as(dev=False, tokens=TOKENS)
    theirs = field(await other.get("/ui/login"), "_csrf")
    await guest.get("/ui/login")
    for wrong in (theirs, "", "x", csrf_of("")):
        answer = Answer(await guest.client.post("/ui/login", data={"_csrf": wrong, "token": "rl_read"}))
        assert answer.status == 403
        assert "Try again" in answer.html
    guest.client.cookies.clear()
    assert (await guest.client.post("/ui/login", data={"_csrf": theirs, "token": "rl_read"})).status_code == 403
    assert SESSION_COOKIE not in guest.client.cookies


@pytest.mark.parametrize(
    ("site", "allowed"),
    [(None, True), ("same-origin", True), ("same-site", False), ("cross-site", False), ("none", False)],
)
async def test_other_sites_cannot_act(open_as: OpenAs, world: World, site: str | None, allowed: bool) -> None:
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    browser = await open_as(token="rl_admin", headers=headers)
    job = await world.job("job_1")
    acted = await browser.post(f"/ui/jobs/{job.uid}/refresh", follow=False)
    assert (acted.status, world.tracking.refreshed) == ((303, [job.uid]) if allowed else (403, []))
    guest = await open_as(dev=False, tokens=TOKENS, headers=headers)
    assert ((await login(guest)).status == 303) is allowed


async def test_action_needs_the_token_of_its_own_session(open_as: OpenAs, world: World) -> None:
    job = await world.job("job_1")
    browser, other = await open_as(token="rl_admin"), await open_as(token="rl_jobs")
    own, theirs = await browser.csrf(), await other.csrf()
    path = f"/ui/jobs/{job.uid}/refresh"
    assert (await browser.client.get(path, params={"_csrf": own})).status_code == 405
    for fields, headers in (
        ({}, {}),
        ({"_csrf": ""}, {}),
        ({"_csrf": theirs}, {}),
        ({"_csrf": own[:-1]}, {}),
        ({"_csrf": [own, own]}, {}),
        ({"_csrf": "ä\ud7ff"}, {}),
        ({"_csrf": browser.client.cookies[SESSION_COOKIE]}, {}),
        ({"_csrf": own}, {"X-CSRF-Token": theirs}),
        ({}, {"X-CSRF-Token": ""}),
    ):
        answer = await browser.client.post(path, data=fields, headers=headers)
        assert answer.status_code == 403, fields
    assert (await browser.client.post(f"{path}?_csrf={own}")).status_code == 403
    assert world.tracking.refreshed == []
    assert (await browser.client.post(path, headers={"X-CSRF-Token": own})).status_code == 303
    assert world.tracking.refreshed == [job.uid]


async def test_cookie_that_a_neighbour_has_set_beside_ours_signs_nobody_in(open_as: OpenAs, world: World) -> None:
    """A site on a sibling domain can set a cookie of this name, so that what is done is done as somebody else."""
    browser = await open_as(token="rl_admin")
    own = browser.client.cookies[SESSION_COOKIE]
    theirs = new_secret()
    await world.store.sessions.create(
        session(digest_of(theirs), sha256(b"rl_read").hexdigest(), expires_at=NOW + 1_000)
    )
    browser.client.cookies.clear()
    for value, status in (
        (f"{SESSION_COOKIE}={own}", 200),
        (f"{SESSION_COOKIE}={theirs}; {SESSION_COOKIE}={own}", 303),
        (f"{SESSION_COOKIE}={own}; {SESSION_COOKIE}={theirs}", 303),
    ):
        assert (await browser.client.get("/ui/jobs", headers={"Cookie": value})).status_code == status


async def test_sign_in_begins_a_new_session_and_ends_the_old_one(guest: Browser, world: World) -> None:
    """A secret that somebody has planted in the browser beforehand is worth nothing afterwards."""
    planted = new_secret()
    guest.client.cookies.set(SESSION_COOKIE, planted, path="/ui")
    first = cookie(await login(guest), SESSION_COOKIE).partition(";")[0]
    assert planted not in first
    guest.client.cookies.clear()
    guest.client.cookies.set(*first.split("=", 1), path="/ui")
    assert "viewer" in (await guest.get("/ui")).html
    second = cookie(await use(guest, await link_of(guest, "rl_admin")), SESSION_COOKIE).partition(";")[0]
    guest.client.cookies.clear()
    for value, status in ((f"{SESSION_COOKIE}={planted}", 303), (first, 303), (second, 200)):
        assert (await guest.client.get("/ui/jobs", headers={"Cookie": value})).status_code == status
    assert [action for action, _, _ in await entries(world)] == ["login", "sessions.create", "login"]


async def test_nothing_that_a_stranger_sends_fails_inside(guest: Browser, world: World) -> None:
    """Random cookies, headers, queries and bodies, of the characters that parsers stumble over."""
    chance = random.Random(int(os.environ.get("FUZZ_TEST_SEED", "1")))
    pieces = [b"%", b"%ff", b"%00", b"=", b"&", b";", b'"', b"\\", b"\xff", b"/ui", b"//", b"relay_session=", b"_csrf="]
    pieces += [new_secret().encode(), b"link=", b"next=", b"token=", b"a" * 500, b",", b" "]

    def noise() -> bytes:
        return b"".join(chance.choices(pieces, k=chance.randrange(12)))

    names = (b"Cookie", b"X-CSRF-Token", b"Sec-Fetch-Site", b"X-Forwarded-Proto", b"X-Forwarded-User", b"Accept")
    for _ in range(scaled(150, 20_000)):
        path = chance.choice(("/ui", "/ui/login", "/ui/logout", "/ui/jobs", "/ui/static/x"))
        query = "".join(one for one in noise().decode("latin-1") if one not in "#\\ \xff")
        headers = [(name, noise()) for name in names if chance.random() < 0.5]
        headers.append((b"Content-Type", b"application/x-www-form-urlencoded"))
        method, body = chance.choice((("GET", None), ("POST", noise())))
        answer = await guest.client.request(method, f"{path}?{query}", headers=headers, content=body)
        assert answer.status_code in (200, 303, 401, 403, 404, 405, 413, 415, 422, 429), (path, query, headers, body)
        assert all(
            one.startswith((VISITOR_COOKIE, f"{SESSION_COOKIE}=;")) for one in answer.headers.get_list("set-cookie")
        )
        guest.client.cookies.clear()


# --- one-time links


async def test_link_asks_first_and_then_signs_in_once(guest: Browser, open_as: OpenAs, world: World) -> None:
    """Programs that look at links, such as those of chats and mail servers, use nothing up."""
    link = await link_of(guest)
    for _ in range(3):
        page = await guest.get(link + "&next=/ui/jobs")
        assert page.status == 200
        assert "Sign in as viewer" in page.html
        assert page.soup.all("//input[@type='password']") == []
    done = await use(guest, link, next="/ui/jobs")
    assert (done.status, done.headers["location"]) == (303, "/ui/jobs")
    assert "Signed in as viewer" in (await guest.get("/ui/jobs")).html
    other = await open_as(dev=False, tokens=TOKENS)
    for answer in (await other.get(link), await use(other, link)):
        assert answer.status == 401
        assert "does not work any more" in answer.html
        assert len(answer.soup.all("//input[@type='password']")) == 1, "the form is there instead"
    assert SESSION_COOKIE not in other.client.cookies


async def test_link_ends_in_time_and_with_its_token(guest: Browser, world: World) -> None:
    limited = access_token("tok_1", "rl_mine", name="mine", networks=(ip_network("127.0.0.0/8"),))
    await world.store.tokens.create(limited, NOW)
    await world.node.tokens_changed()
    late, revoked, elsewhere = [await link_of(guest, "rl_mine") for _ in range(3)]
    transport = httpx2.ASGITransport(app=guest.client._transport.app, client=(STRANGER, 1))  # type: ignore[attr-defined]
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        assert (await use(Browser(client, guest.web), elsewhere)).status == 401
    assert (await use(guest, elsewhere)).status == 303, "an attempt from a network that is not allowed uses nothing up"
    await world.store.tokens.revoke("tok_1")
    await world.node.tokens_changed()
    assert (await use(guest, revoked)).status == 401
    world.now += 120
    assert (await guest.get(late)).status == 401
    assert (await use(guest, late)).status == 401


async def test_link_that_two_nodes_use_at_the_same_moment_signs_one_in(open_as: OpenAs, world: World) -> None:
    nodes = [await open_as(dev=False, tokens=TOKENS) for _ in range(2)]
    link = await link_of(nodes[0])
    answers = await asyncio.gather(*(use(node, link) for node in nodes))
    assert sorted(answer.status for answer in answers) == [303, 401]
    assert sum(SESSION_COOKIE in node.client.cookies for node in nodes) == 1


# --- the end of a session


async def test_session_dies_with_its_token(open_as: OpenAs, world: World) -> None:
    fields = {"name": "mine", "expires_at": NOW + 100.0}
    await world.store.tokens.create(access_token("tok_1", "rl_mine", **fields), NOW)
    await world.store.tokens.create(access_token("tok_2", "rl_other", name="other"), NOW)
    mine, other, viewer = [await open_as(dev=False, tokens=TOKENS) for _ in range(3)]
    await world.node.tokens_changed()
    for browser, token in ((mine, "rl_mine"), (other, "rl_other"), (viewer, "rl_read")):
        assert (await login(browser, token)).status == 303
        assert (await browser.get("/ui/jobs")).status == 200
    await world.store.tokens.revoke("tok_2")
    await world.node.tokens_changed()
    assert [(await one.get("/ui/jobs")).status for one in (mine, other, viewer)] == [200, 303, 200]
    world.now += 100
    assert [(await one.get("/ui/jobs")).status for one in (mine, other, viewer)] == [303, 303, 200]
    viewer.web._shared.context.dependencies.access.configure(TOKENS[:1])  # a reload without it
    assert (await viewer.get("/ui/jobs")).status == 303


async def test_session_is_worth_what_its_token_is_now(open_as: OpenAs, world: World) -> None:
    browser = await open_as(token="rl_admin")
    job = await world.job("job_1")
    access = browser.web._shared.context.dependencies.access
    reader = next(one for one in TOKENS if one.name == "viewer")
    access.configure([type(reader)(name="ops", value="rl_admin", scopes=reader.scopes)])
    assert (await browser.get("/ui/jobs")).status == 200
    assert (await browser.post(f"/ui/jobs/{job.uid}/refresh")).status == 403


async def test_session_is_bound_to_the_networks_of_its_token(open_as: OpenAs, world: World) -> None:
    limited = access_token("tok_1", "rl_mine", name="mine", networks=(ip_network("203.0.113.0/24"),))
    await world.store.tokens.create(limited, NOW)
    for peer, status in ((STRANGER, 200), ("198.51.100.1", 303), ("", 303)):
        browser = await open_as(dev=False, tokens=TOKENS, peer=peer)
        await world.node.tokens_changed()
        await sign_in(world, browser.client, "rl_mine")
        assert (await browser.get("/ui/jobs")).status == status


async def test_pages_spend_the_quota_of_the_token_and_sign_out_does_not(open_as: OpenAs, world: World) -> None:
    await world.store.tokens.create(access_token("tok_1", "rl_mine", name="mine", requests_per_minute=2), NOW)
    browser = await open_as(dev=False, tokens=TOKENS)
    await world.node.tokens_changed()
    csrf = await sign_in(world, browser.client, "rl_mine")
    assert [(await browser.get("/ui/jobs")).status for _ in range(3)] == [200, 200, 429]
    page = await browser.get("/ui/jobs")
    assert page.headers["retry-after"] == "60"
    assert page.headers["content-type"].startswith("text/html")
    assert "2 requests a minute" in page.html
    answer = await browser.client.post("/ui/logout", data={"_csrf": csrf})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")


async def test_sign_out_ends_the_session_for_good(guest: Browser, open_as: OpenAs, world: World) -> None:
    secret = cookie(await login(guest), SESSION_COOKIE).partition("=")[2].partition(";")[0]
    own = {"Cookie": f"{SESSION_COOKIE}={secret}"}
    other = await open_as(dev=False, tokens=TOKENS)  # another node
    assert (await other.client.get("/ui/jobs", headers=own)).status_code == 200
    for fields in ({}, {"_csrf": "x"}):
        assert (await guest.client.post("/ui/logout", data={"a": "b", **fields})).status_code == 403
    assert (await guest.get("/ui/jobs")).status == 200
    done = Answer(await guest.client.post("/ui/logout", data={"_csrf": csrf_of(secret)}))
    assert (done.status, done.headers["location"]) == (303, "/ui/login")
    assert cookie(done, SESSION_COOKIE) == f"{SESSION_COOKIE}=; Path=/ui; HttpOnly; SameSite=Strict; Max-Age=0"
    assert (await guest.client.get("/ui/jobs", headers=own)).status_code == 303
    assert (await other.client.get("/ui/jobs", headers=own)).status_code == 303
    again = await guest.client.post("/ui/logout", data={"_csrf": csrf_of(secret)}, headers=own)
    assert (again.status_code, again.headers["location"]) == (303, "/ui/login")
    assert await entries(world) == [("login", "viewer", "ok"), ("logout", "viewer", "ok")]


async def test_sign_out_that_the_database_refuses_can_be_repeated(
    guest: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = cookie(await login(guest), SESSION_COOKIE).partition("=")[2].partition(";")[0]

    async def fails(_digest: str) -> bool:
        raise StoreError("the database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.sessions, "delete", fails)
        answer = await guest.client.post("/ui/logout", data={"_csrf": csrf_of(secret)})
    assert answer.status_code == 503
    assert (await guest.get("/ui/jobs")).status == 200
    await guest.client.post("/ui/logout", data={"_csrf": csrf_of(secret)})
    assert await world.store.sessions.find(digest_of(secret), "session", world.now) is None
    assert await entries(world) == [
        ("login", "viewer", "ok"),
        ("logout", "viewer", "failed"),
        ("logout", "viewer", "ok"),
    ]


@pytest.mark.parametrize("end", ["revoked", "signed out elsewhere", "twelve hours"])
async def test_open_page_ends_with_its_session(open_as: OpenAs, world: World, end: str) -> None:
    await world.store.tokens.create(access_token("tok_1", "rl_mine", name="mine"), NOW)
    browser = await open_as(dev=False, tokens=TOKENS)
    await world.node.tokens_changed()
    await login(browser, "rl_mine")
    sessions = browser.web._shared.sessions
    header = f"{SESSION_COOKIE}={browser.client.cookies[SESSION_COOKIE]}".encode()
    visitor = await sessions.visitor(Request(scope_of("/ui/jobs", [(b"cookie", header)])))
    assert visitor is not None
    assert await sessions.holds(visitor)
    if end == "revoked":
        await world.store.tokens.revoke("tok_1")
        await world.node.tokens_changed()
    elif end == "signed out elsewhere":
        await world.store.sessions.delete(digest_of(visitor.secret))
    else:
        world.now += SESSION_SECONDS
    assert not await sessions.holds(visitor)
    streamed = await browser.client.get("/ui/jobs", headers={"Accept": "text/html, text/event-stream"})
    assert streamed.status_code == 401
    assert "signed out" in streamed.text
    assert "<html" not in streamed.text, "it is shown inside the page"


# --- users of a proxy


async def test_user_is_believed_from_a_trusted_proxy_only(open_as: OpenAs) -> None:
    for peer, headers, settings, user in [
        (PROXY, {"X-Forwarded-User": "alice@example.com"}, {}, "user:alice@example.com"),
        (PROXY, {"x-forwarded-USER": "alice"}, {}, "user:alice"),
        (PROXY, {"X-Forwarded-User": "ops"}, {}, "user:ops"),
        (PROXY, {"X-Forwarded-User": "alice", "X-Forwarded-For": STRANGER}, {}, "user:alice"),
        (PROXY, {}, {}, None),
        (PROXY, {"X-Forwarded-User": ""}, {}, None),
        (PROXY, {"X-Forwarded_User": "alice", "X_Forwarded_User": "alice", "Remote-User": "alice"}, {}, None),
        (STRANGER, {"X-Forwarded-User": "alice"}, {}, None),
        (STRANGER, {"X-Forwarded-User": "alice", "X-Forwarded-For": PROXY}, {}, None),
        (STRANGER, {"X-Forwarded-User": "alice", "Forwarded": f"for={PROXY}"}, {}, None),
        ("", {"X-Forwarded-User": "alice"}, {}, None),
        (PROXY, {"X-Forwarded-User": "alice"}, {"trusted_proxies": ()}, None),
        (PROXY, {"X-Forwarded-User": "alice"}, {"web": WebSettings()}, None),
        ("127.0.0.1", {"X-Forwarded-User": "alice"}, {"dev": True}, None),
    ]:
        given = {"dev": False, "tokens": TOKENS, "trusted_proxies": TRUSTED, "web": BY_PROXY, **settings}
        browser = await open_as(peer=peer, headers=headers, **given)
        page = await browser.get("/ui/jobs")
        if user is None:
            assert page.status == 303
        else:
            assert f"Signed in as {user}" in page.html
            assert "Sign out" not in page.html


async def test_what_names_no_single_user_is_refused(open_as: OpenAs) -> None:
    for values in [
        ["alice", "bob"],
        ["a\x01b"],
        ["x" * 10_000],
        ["a\x1b[31mb"],
        ["\xff"],
        ["a\u202eb".encode().decode("latin-1")],
    ]:
        browser = await open_as(dev=False, tokens=TOKENS, peer=PROXY, trusted_proxies=TRUSTED, web=BY_PROXY)
        headers = [(b"X-Forwarded-User", value.encode("latin-1")) for value in values]
        answer = await browser.client.get("/ui/jobs", headers=headers)
        assert answer.status_code == 403
        assert "user_header_invalid" in answer.text
        assert values[0] not in answer.text


async def test_user_of_a_proxy_acts_with_the_scopes_of_the_settings(open_as: OpenAs, world: World) -> None:
    job = await world.job("job_1")
    given = {"dev": False, "tokens": TOKENS, "trusted_proxies": TRUSTED, "web": BY_PROXY, "peer": PROXY}
    browser = await open_as(headers={"X-Forwarded-User": "alice"}, **given)
    refresh = f"/ui/jobs/{job.uid}/refresh"
    await browser.get("/ui/jobs")
    secret = browser.client.cookies[VISITOR_COOKIE]
    for who in ("", "loopback", "user:bob"):  # whoever used this browser before
        assert (await browser.client.post(refresh, data={"_csrf": csrf_of(secret, who)})).status_code == 403
    done = await browser.client.post(refresh, data={"_csrf": csrf_of(secret, "user:alice")})
    assert done.status_code == 303
    assert (await browser.client.get("/ui/tokens")).status_code in (200, 403)
    await world.audit.flush(everything=True)
    assert ("jobs.refresh", "user:alice", "ok") in await entries(world)


# --- with --dev, and links from other sites


async def test_with_dev_a_caller_on_this_machine_needs_no_sign_in(open_as: OpenAs) -> None:
    for peer, headers, status in [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("127.0.0.1", {"Origin": "http://127.0.0.1:8080"}, 200),
        ("127.0.0.1", {"Origin": "http://evil.example"}, 303),
        ("127.0.0.1", {"Origin": "null"}, 303),
        ("127.0.0.1", {"Host": "evil.example"}, 303),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 303),
        (STRANGER, {}, 303),
    ]:
        browser = await open_as(peer=peer, headers=headers)
        page = await browser.get("/ui/jobs")
        assert page.status == status
        if status == 200:
            assert "On this machine, without a token" in page.html
            assert (await browser.get("/ui/login")).headers["location"] == "/ui"


CROSSING = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}


def leads_on_to(page: Answer) -> str:
    """Where the page leads that a link on another site gets."""
    assert page.status == 200
    assert "set-cookie" not in page.headers, "the cookies that did not come are still there"
    (link,) = page.soup.all("//a")
    (found,) = page.soup.all("//meta[@http-equiv='refresh']")
    assert found.get("content") == f"0;url={link.get('href')}"
    return str(link.get("href"))


async def test_requests_of_other_sites_change_no_cookie(open_as: OpenAs, world: World) -> None:
    """They bring none, because of SameSite=Strict: an answer that set one would end forms, or sign somebody out."""
    given = {"dev": False, "tokens": TOKENS, "trusted_proxies": TRUSTED, "web": BY_PROXY, "peer": PROXY}
    by_proxy = await open_as(headers={"X-Forwarded-User": "alice"}, **given)
    for browser in (await open_as(), by_proxy, await open_as(dev=False, tokens=TOKENS)):
        page = Answer(await browser.client.get("/ui/jobs", headers=CROSSING))
        target = leads_on_to(page)
        for method, path in (
            ("GET", "/ui/jobs"),
            ("GET", "/ui/login"),
            ("POST", "/ui/login"),
            ("POST", "/ui/login?arrived=1"),
            ("POST", "/ui/logout"),
            ("POST", "/ui/jobs/x/refresh"),
        ):
            for mode in ("navigate", "no-cors"):
                headers = {**CROSSING, "Sec-Fetch-Mode": mode}
                data = {"token": "rl_admin", "arrived": "1"} if method == "POST" else None
                answer = await browser.client.request(method, path, data=data, headers=headers)
                assert "set-cookie" not in answer.headers, (method, path)
                assert answer.status_code in (200, 303, 403)
        assert (await browser.get(target)).status in (200, 303)
