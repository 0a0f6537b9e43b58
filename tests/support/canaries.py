"""Recognisable secrets, and the search for them in everything that the relay writes or shows."""

import base64
import secrets
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

ALPHABET = "bcdfghjkmnpqrstvwxzBCDFGHJKMNPQRSTVWXZ23456789"
LEAST_CHARACTERS = 12
"""A shorter text could occur by chance."""
BLOCK = 8
FRAME = 24 + 4_096
"""Bytes of a page in SQLite's log, with its head."""


def word(length: int = 24) -> str:
    """Random letters and digits, which no pattern recognises as a secret."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def forms(secret: bytes) -> Iterator[bytes]:
    """How a secret may look: plain, percent-encoded, hexadecimal, base64 at any offset, and as a bytes literal."""
    yield secret
    yield quote(secret, safe="").encode()
    yield "".join(f"%{byte:02X}" for byte in secret).encode()
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield secret[::-1]
    for offset in range(3):
        # the characters that the text around it decides are left out
        length = len(secret) + offset
        whole = length - length % 3
        text = base64.b64encode((b"\0" * offset + secret)[:whole])[4 if offset else 0 :]
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")


@dataclass
class Canaries:
    """The secrets of one world, by what they are."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    searched: dict[str, dict[str, bool]] = field(default_factory=dict)
    """By material: the secrets that were sought in it, and whether they were found."""

    def add(self, name: str, secret: str | bytes) -> str:
        """Remembers a secret, and returns it as text."""
        raw = secret.encode() if isinstance(secret, str) else secret
        assert len(raw) >= LEAST_CHARACTERS, name
        self.secrets[name] = raw
        return raw.decode("latin-1")

    def new(self, name: str) -> str:
        """A new secret."""
        return self.add(name, word())

    def add_signing(self, name: str, secret: str) -> str:
        """Remembers a signing secret: its text, and the key in it."""
        text = secret.partition("_")[2]
        self.add(name, text)
        self.add(f"{name} (raw)", base64.b64decode(text))
        return secret

    def found_in(self, material: bytes, among: Collection[str] | None = None) -> set[str]:
        """The names of the secrets, or of those of them, that occur in some form."""
        wanted = {self.secrets[name] for name in (self.secrets if among is None else among)}
        found = _Search.of(frozenset(wanted)).found_in(material)
        return {name for name in (self.secrets if among is None else among) if self.secrets[name] in found}


class _Search:
    """Looks for thousands of forms at once: a form of 15 bytes covers 8 whose place divides by 8, wherever it is."""

    def __init__(self, secrets: frozenset[bytes]) -> None:
        self._short: list[tuple[bytes, bytes]] = []
        self._by_block: dict[int, list[tuple[bytes, bytes]]] = {}
        for secret in secrets:
            for form in set(forms(secret)):
                if len(form) < 2 * BLOCK - 1:
                    self._short.append((form, secret))
                for at in range(len(form) - BLOCK + 1):
                    (block,) = struct.unpack_from("<Q", form, at)
                    self._by_block.setdefault(block, []).append((form, secret))

    @staticmethod
    @lru_cache(maxsize=8)
    def of(secrets: frozenset[bytes]) -> "_Search":
        return _Search(secrets)

    def found_in(self, material: bytes) -> set[bytes]:
        """The secrets that occur in some form."""
        blocks = struct.unpack_from(f"<{len(material) // BLOCK}Q", material)
        likely = {pair for block in self._by_block.keys() & set(blocks) for pair in self._by_block[block]}
        return {secret for form, secret in (*self._short, *likely) if form in material}


def of_files(folder: Path, pattern: str) -> dict[str, bytes]:
    """The bytes of the files of a folder."""
    found = {path.name: path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}
    return {name: _frames(raw) if name.endswith("-wal") else raw for name, raw in found.items()}


def _frames(wal: bytes) -> bytes:
    """SQLite's log without repeated frames: each transaction writes the same pages again."""
    pages = (wal[at + 24 : at + FRAME] for at in range(32, len(wal), FRAME))
    return wal[:32] + b"".join(dict.fromkeys(pages))


async def of_postgres(url: str) -> dict[str, bytes]:
    """Every value of every table, by table."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found: dict[str, bytes] = {}
        for row in tables:
            rows = await connection.fetch(f'SELECT * FROM "{row[0]}"')
            found[row[0]] = b"\n".join(_bytes(value) for one in rows for value in one.values())
        return found
    finally:
        await connection.close()


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def leaks(canaries: Canaries, materials: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Where which secret occurs. In materials of an earlier search only new secrets are sought: they are unchanged."""
    for where, material in materials.items():
        known = canaries.searched.setdefault(where, {})
        new = canaries.secrets.keys() - known.keys()
        known |= dict.fromkeys(new, False) | dict.fromkeys(canaries.found_in(material, new), True)
    return sorted((where, name) for where, known in canaries.searched.items() for name, found in known.items() if found)
