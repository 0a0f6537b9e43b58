"""Hostile URLs and names for the egress guard: the tables in `tests/fixtures`. Every way to a sink is tested with them.

`hostile-urls.json`   `url`, `why` it is hostile, part of the `rule` that refuses it, and the API's `code`
`hostile-names.json`  `name`, `why`, the addresses that each look-up of it `answers` (null: no such name; `hang`: none),
                      the `outcomes` of one request after each; 127.0.0.1 stands for the sink's own address
"""

import asyncio
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from relay.core.access.netguard import GuardPolicy

POLICY = GuardPolicy(own_address=("127.0.0.1", 8080), own_url="https://relay.example.com")
"""The default, with the addresses that every node refuses as its own."""

_FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileUrl:
    """One row of the table of URLs."""

    url: str
    why: str
    rule: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileName:
    """One row of the table of names."""

    name: str
    why: str
    answers: list[list[str] | str | None]
    outcomes: list[str]
    cname: str | None = None


def _rows(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((_FIXTURES / file).read_text())
    return rows


URLS = tuple(HostileUrl(**row) for row in _rows("hostile-urls.json"))
NAMES = tuple(HostileName(**row) for row in _rows("hostile-names.json"))


class HostileResolver(AbstractResolver):
    """Answers each look-up of a name with the next of its answers."""

    def __init__(self, *names: HostileName) -> None:
        self._left = {one.name: list(one.answers) for one in names}
        self._cnames = {one.name: one.cname for one in names}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answer = self._left[host].pop(0)
        if isinstance(answer, str):
            await asyncio.Event().wait()
        if not answer:
            raise OSError(None, "Name or service not known")
        return [
            ResolveResult(
                hostname=self._cnames[host] or host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer
        ]

    async def close(self) -> None:
        return
