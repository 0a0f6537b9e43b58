"""Signing in to the dashboard of a relay process: `relay ui`, a live page, and a reload that takes the token away."""

import asyncio
import re
import signal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.e2e.test_tokens import World
from tests.support.process_world import Start

TOKEN = "rl_a_0123456789abcdefghijklmnopqrstuvw"


async def test_link_signs_in_and_a_reload_without_its_token_ends_the_session(start: Start, tmp_path: Path) -> None:
    settings = tmp_path / "relay.yaml"
    one, other = (
        f"{{name: {name}, token: rl_{name}_0123456789abcdefghijklmnopqrstuvw, scopes: [read]}}" for name in "ab"
    )
    settings.write_text(f"auth: {{tokens: [{one}, {other}]}}\n")
    world = World(start)
    code, lines = world.run("ui", RELAY_TOKEN=TOKEN)
    link = next(line for line in lines if line.startswith("http"))
    assert (code, link.startswith(f"{world.url}/ui/login?link=")) == (0, True)
    (secret,) = parse_qs(urlsplit(link).query)["link"]
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address, not of a name
    async with aiohttp.ClientSession(world.url, cookie_jar=jar) as session:
        async with session.get("/ui/jobs", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/ui/login?next=%2Fui%2Fjobs")
        async with session.get(link) as answer:
            assert answer.status == 200
            (csrf,) = re.findall(r'name="_csrf" value="(\w+)"', await answer.text())
        form = {"_csrf": csrf, "link": secret, "next": "/ui/jobs"}
        async with session.post("/ui/login", data=form) as answer:
            assert (answer.status, answer.url.path) == (200, "/ui/jobs")
            assert "Signed in as a" in await answer.text()
        live = await session.get("/ui/jobs", headers={"Accept": "text/html, text/event-stream"})
        assert live.content_type == "text/event-stream"
        await live.content.readline()
        settings.write_text(f"auth: {{tokens: [{other}]}}\n")
        world.relay.popen.send_signal(signal.SIGHUP)
        async with asyncio.timeout(300):
            await live.content.read()
        async with session.get("/ui/jobs", allow_redirects=False) as answer:
            assert answer.status == 303
        cookies = [cookie.value for cookie in jar]
    assert world.relay.end() == 0
    told = "\n".join(world.relay.lines)
    assert all(one not in told for one in (TOKEN, secret, csrf, *cookies))
