"""Addresses of the upstream in its answers, given as the relay's own, so that a client that follows them stays here."""

import re
from collections.abc import Iterable, Sequence
from secrets import token_hex

from relay.core.access.forwarding import Header
from relay.core.jsontext import JSONDecodeError, loads
from relay.proxy.transport import MAX_ANSWER_BYTES, plain
from relay.proxy.types import ProxyResponse
from relay.sources.pointers import at

READ_SECONDS = 10.0
"""An answer that comes more slowly is passed on as it comes, with its own addresses: it might have no end."""
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_NAMES = frozenset({b"location", b"operation-location", b"azure-asyncoperation", b"content-location"})
"""Headers with an address at which a job is read."""
_OF_THE_BODY = frozenset(
    {*(b"content-length", b"content-encoding", b"content-md5"), *(b"digest", b"content-digest", b"repr-digest")}
)
_END = r"(?=[/?#]|\\/|\"|\Z)"


def own_url(scheme: str, headers: Iterable[Header], public_url: str | None) -> str | None:
    """The address at which a caller reaches this relay, without a slash at its end; None if its request does not say
    it in a form that can be repeated."""
    if public_url is not None:
        return public_url.rstrip("/")
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    return f"{scheme}://{hosts[0]}" if len(hosts) == 1 and _HOST.fullmatch(hosts[0]) else None


async def give_own(answer: ProxyResponse, upstream: str, own: str, places: Sequence[Sequence[str]]) -> None:
    """Puts `own` for `upstream`, both of them base URLs, where an address begins with that: in the texts at these
    places of a JSON body, and in headers. All else stays as it is, and so does a body too large to be parsed. Raises
    NoAnswer if the rest of the body does not come."""
    if answer.body is None and answer.upstream is not None and places and not answer.begun:
        begun, is_whole = await answer.upstream.read(MAX_ANSWER_BYTES, seconds=READ_SECONDS)
        answer.body, answer.begun = (begun, b"") if is_whole else (None, begun)
        if is_whole:
            answer.close()
            answer.upstream = None
    answer.headers = [(name, _in_header(name, value, upstream, own)) for name, value in answer.headers]
    body = plain(answer.body, answer.headers, MAX_ANSWER_BYTES) if answer.body and places else None
    changed = body if body is None else _in_body(body, upstream, own, places)
    if changed is not None and changed != body:
        kept = [header for header in answer.headers if header[0].lower() not in _OF_THE_BODY]
        answer.headers = [*kept, (b"content-length", b"%d" % len(changed))]
        answer.body = changed


def _in_header(name: bytes, value: bytes, upstream: str, own: str) -> bytes:
    if name.lower() not in _NAMES:
        return value
    if value.startswith(b"/") and not value.startswith(b"//"):
        return own.encode() + value
    found = re.match(re.escape(upstream) + _END, value.decode("latin-1"))
    return value if found is None else own.encode() + value[found.end() :]


def _in_body(body: bytes, upstream: str, own: str, places: Sequence[Sequence[str]]) -> bytes:
    """The body with the addresses replaced. Each text that begins as one gets a mark, and is judged by the place where
    the mark is found: so every other byte stays, whatever it looks like."""
    begin = re.escape(upstream).replace("/", r"\\?/")
    texts = list(re.finditer(rf'(?<!\\)"({begin}){_END}'.encode(), body))
    if not texts:
        return body
    mark = token_hex(16)
    marked, last = bytearray(), 0
    for number, text in enumerate(texts):
        marked += body[last : text.start(1)] + f"{mark}:{number}:".encode()
        last = text.end(1)
    try:
        document = loads(bytes(marked + body[last:]), repair=True)
    except JSONDecodeError:
        return body
    found = (at(document, place) for place in places)
    listed = sorted({int(text.split(":")[1]) for text in found if isinstance(text, str) and text.startswith(mark)})
    changed, last = bytearray(), 0
    for number in listed:
        changed += body[last : texts[number].start(1)] + own.encode()
        last = texts[number].end(1)
    return bytes(changed + body[last:])
