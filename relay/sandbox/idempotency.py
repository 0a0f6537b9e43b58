"""Idempotency keys: a repeated create gets the original answer and creates nothing. Pure."""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from relay.sandbox.fields import Refused
from relay.sandbox.wire import Answer

MAX_KEY_LENGTH = 255


@dataclass(kw_only=True)
class IdempotencyStore:
    """Answers by (API key, path, Idempotency-Key). Keeps the newest `max_answers`.

    Two bodies are equal if they are the same JSON value, whatever their white space and field order.
    """

    max_answers: int = 100_000
    _answers: OrderedDict[tuple[str, str, str], tuple[bytes, Answer]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def find(self, *, api_key: str, path: str, name: str, body: Any) -> Answer | None:
        """The original answer, or None for a new key. Raises Refused: 409 for another body, 400 for a key too long."""
        if len(name) > MAX_KEY_LENGTH:
            raise Refused(400, "invalid_request", f"Idempotency-Key: at most {MAX_KEY_LENGTH} characters")
        known = self._answers.get((api_key, path, name))
        if known is None:
            return None
        if known[0] != _digest(body):
            raise Refused(409, "idempotency_conflict")
        return known[1]

    def keep(self, answer: Answer, *, api_key: str, path: str, name: str, body: Any) -> None:
        """Stores a successful answer. Refusals are not stored: the same key may then be used again."""
        self._answers[api_key, path, name] = (_digest(body), answer)
        if len(self._answers) > self.max_answers:
            self._answers.popitem(last=False)


def _digest(body: Any) -> bytes:
    return sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
