"""Measurements of `relay doctor`: differences of clocks, and the ends of certificates. Nothing is sent to a sink: a
connection ends after its TLS handshake."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from relay.cli.node.checks import Finding, FindingState
from relay.clock import in_words, to_rfc3339
from relay.core.access.netguard import GuardPolicy, refusal_of_address
from relay.core.events.sentences import counted

MAX_SKEW_SECONDS, BAD_SKEW_SECONDS = 5.0, 60.0
"""Receivers refuse a signature whose time is 300 s away, so a larger difference leaves little room for delays."""
MAX_HOSTS = 100
MAX_HANDSHAKES = 16
"""Handshakes at the same time."""
HANDSHAKE_SECONDS, ALL_SECONDS = 5.0, 20.0
MIN_LEFT_SECONDS = 30 * 86_400.0


def seconds_of(date: str | None) -> float | None:
    """The epoch seconds of a Date header; None if there is none that can be read."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def clock_finding(whose: str, theirs: float, ours: float, *, exact: bool = False) -> Finding:
    """How far a clock is from this machine's. Without `exact` it shows whole seconds, so one of difference is none."""
    skew = theirs - ours
    size = max(0.0, abs(skew) - (0.0 if exact else 1.0))
    name = f"clock of {whose}"
    if size <= MAX_SKEW_SECONDS:
        return Finding(name, "ok", "the same as here, to a few seconds")
    way = "ahead of" if skew > 0 else "behind"
    fix = "Set both by NTP: receivers refuse signatures whose time is wrong, and polls come at the wrong time"
    state: FindingState = "problem" if size >= BAD_SKEW_SECONDS else "warning"
    return Finding(name, state, f"{in_words(size)} {way} this machine's. {fix}")


@dataclass(frozen=True, slots=True)
class Place:
    """A TLS server. `policy`: the egress rules, for a sink."""

    host: str
    port: int
    whose: str
    policy: GuardPolicy | None = None


def place_of(url: str | None, whose: str, policy: GuardPolicy | None = None) -> Place | None:
    """The place of an https URL; None for any other."""
    try:
        parts = urlsplit(url or "")
        if parts.scheme != "https" or not parts.hostname:
            return None
        return Place(parts.hostname, parts.port or 443, whose, policy)
    except ValueError:
        return None


async def certificates(places: Iterable[Place], now: float) -> list[Finding]:
    """Problems of the certificates of these places, or one line if there are none. Each host is asked once."""
    different = list({(place.host, place.port): place for place in places}.values())
    if not different:
        return []
    turns, tls = asyncio.Semaphore(MAX_HANDSHAKES), ssl.create_default_context()

    async def ask(place: Place) -> float | str:
        async with turns:
            return await _end_of(place, tls)

    asked = {place: asyncio.create_task(ask(place)) for place in different[:MAX_HOSTS]}
    await asyncio.wait(asked.values(), timeout=ALL_SECONDS)
    found, ends = [], []
    for place, task in asked.items():
        answer = task.result() if task.done() else "no answer in time"
        task.cancel()
        if isinstance(answer, float):
            ends.append((answer, place.host))
        finding = _finding(place, answer, now)
        if finding.state != "ok":
            found.append(finding)
    more = len(different) - MAX_HOSTS
    if more > 0:
        found.append(Finding("certificates", "warning", f"{more} more hosts were not asked"))
    if ends and not found:
        first, host = min(ends)
        days = f"ends in {in_words(first - now)}"
        found = [Finding("certificates", "ok", f"{counted(len(ends), 'host')}; the first, of {host}, {days}")]
    return found


def _finding(place: Place, answer: float | str, now: float) -> Finding:
    name = f"certificate of {place.host}"
    if isinstance(answer, str):
        state: FindingState = "problem" if answer.startswith("not valid") else "warning"
        what = "Deliveries to it fail" if place.policy is not None else "Programs refuse it"
        return Finding(name, state, f"{answer} ({place.whose})" + (f". {what}: renew it" if state == "problem" else ""))
    day = to_rfc3339(answer)[:10]
    if answer - now > MIN_LEFT_SECONDS:
        return Finding(name, "ok", f"until {day}")
    return Finding(name, "warning", f"ends in {in_words(answer - now)}, on {day} ({place.whose}). Let it be renewed")


async def _end_of(place: Place, tls: ssl.SSLContext) -> float | str:
    """When the certificate ends, in epoch seconds, or why it is not known."""
    writer = None
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            address = await _address(place)
            if address is None:
                return "not asked: its address is not public"
            _, writer = await asyncio.open_connection(address, place.port, ssl=tls, server_hostname=place.host)
        shown = writer.get_extra_info("peercert") or {}
        return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
    except ssl.SSLCertVerificationError as error:
        return f"not valid: {error.verify_message}"
    except TimeoutError:
        return f"not known: no answer in {HANDSHAKE_SECONDS:g} s"
    except OSError as error:
        number = error.errno or 0  # negative: of a name that does not resolve
        return f"not known: {os.strerror(number) if number > 0 else error.strerror or type(error).__name__}"
    except (UnicodeError, KeyError, ValueError) as error:
        return f"not known: {type(error).__name__}"
    finally:
        if writer is not None:
            writer.transport.abort()


async def _address(place: Place) -> str | None:
    """The first address of a place, of a sink the first that the rules allow."""
    loop = asyncio.get_running_loop()
    for *_, address in await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM):
        ip = str(address[0])
        if place.policy is None or refusal_of_address(ip, port=place.port, scheme="https", policy=place.policy) is None:
            return ip
    return None
