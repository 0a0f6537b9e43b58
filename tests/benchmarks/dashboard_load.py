"""Browsers and a publisher for dashboard.py, each in a process of its own so that they cost the relay nothing.

`python dashboard_load.py pages|tabs|publish PORT` reads what to do as JSON from its input and prints what came of it.
"""

import asyncio
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

LATER_SECONDS = 20.0
"""After which a tab asks again that had to give its connection to another (`relay/web/live.py`)."""
LIVE = "text/event-stream"
UNDER_WAY = 8
"""Batches at once, at most: the relay takes no more of one token."""
_ASSETS = re.compile(rb'(?:src|href)="(/ui/static/[^"]+)"')


def request(path: str, cookie: str, *more: str) -> bytes:
    """A GET as a browser sends it. The connection ends with its answer."""
    lines = (f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Cookie: {cookie}", *more)
    return "\r\n".join((*lines, "", "")).encode()


async def first_byte(port: int, path: str, cookie: str) -> tuple[float, bytes]:
    """Seconds from connecting to the first byte of the answer; and the whole answer. Raises if it is no page."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, cookie, "Accept: text/html", "Accept-Encoding: gzip"))
    first = await reader.read(1)
    seconds = time.perf_counter() - began
    answer = first + await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path}: {answer[:300]!r}")
    return seconds, answer


async def pages(port: int, paths: Sequence[str], cookie: str, rounds: int) -> dict[str, Any]:
    """Loads the pages one after the other, in a new order each round. For each: seconds to its first byte, bytes of the
    answer, and bytes with all files that the page names."""
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    size, total, files = {}, {}, dict[str, int]()
    order = list(paths)
    for number in range(rounds + 1):
        for path in order:
            took, answer = await first_byte(port, path, cookie)
            if number:  # the first one warms
                seconds[path].append(took)
            size[path] = len(answer)
            names = {found.decode().replace("&amp;", "&") for found in _ASSETS.findall(answer)}
            for name in names - files.keys():
                files[name] = len((await first_byte(port, name, cookie))[1])
            total[path] = len(answer) + sum(files[name] for name in names)
        random.Random(number).shuffle(order)
    return {path: {"seconds": seconds[path], "bytes": size[path], "total": total[path]} for path in paths}


async def tab(port: int, path: str, cookie: str, count: dict[str, int], began: asyncio.Event) -> None:
    """One open tab, for ever: its stream is opened again when it ends, as relay.js does."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request(path, cookie, f"Accept: {LIVE}"))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{path}: {head!r}")
            last = b""
            while line := await reader.readline():
                line = line.strip()
                if line.startswith(b"event: "):
                    last = line.removeprefix(b"event: ")
                    count[last.decode()] = count.get(last.decode(), 0) + 1
                elif line.startswith(b"data:") and last != b"page":
                    last = b"page"
                    count["page"] = count.get("page", 0) + 1
                    began.set()
        finally:
            writer.close()
        await asyncio.sleep(LATER_SECONDS if last == b"later" else 1.0)


async def tabs(port: int, opened: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Keeps tabs (paths and cookies) open until the input ends. Says so once each has shown something or has had to
    wait. Returns how many frames of each kind came."""
    count: dict[str, int] = {}
    begun = [asyncio.Event() for _ in opened]
    tasks = [
        asyncio.create_task(tab(port, path, cookie, count, one))
        for (path, cookie), one in zip(opened, begun, strict=True)
    ]
    await asyncio.wait([asyncio.create_task(one.wait()) for one in begun], timeout=10)
    print("open", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {ended}:
        task.result()  # no tab ends by itself: it has failed
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return count


async def publish(port: int, bodies: Sequence[str], rate: float) -> dict[str, Any]:
    """Posts batches of events at a steady rate, again and again under new ids, until the input ends."""
    import aiohttp

    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    url, number, waiting, began = (
        f"http://127.0.0.1:{port}/v1/events",
        0,
        set[asyncio.Task[None]](),
        time.perf_counter(),
    )

    room = asyncio.Semaphore(UNDER_WAY)
    async with aiohttp.ClientSession(headers=headers) as session:

        async def post(body: str) -> None:
            async with room, session.post(url, data=body) as answer:
                assert answer.status == 202, await answer.text()

        while not ended.done():
            body = bodies[number % len(bodies)].replace("ROUND", f"{began}-{number}")
            task = asyncio.create_task(post(body))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        await asyncio.gather(*waiting)
    return {"batches": number, "seconds": time.perf_counter() - began}


async def main(what: str, port: int, given: Mapping[str, Any]) -> None:
    """Does it, and prints the result as JSON."""
    does: Any = {"pages": pages, "tabs": tabs, "publish": publish}[what]
    print(orjson.dumps(await does(port, **given)).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), orjson.loads(sys.stdin.readline())))
