"""Idempotency keys: the original answers, so that a repeated creation makes nothing new. Pure."""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from relay.sandbox.bodies import Refused
from relay.sandbox.wire import Answer

MAX_KEY_LENGTH = 255


@dataclass(kw_only=True)
class IdempotencyStore:
    """Answers by (API key, path, Idempotency-Key), the newest `max_answers` of them.

    Bodies are the same when they are the same JSON value: spacing and the order of fields do not matter.
    """

    max_answers: int = 100_000
    _answers: OrderedDict[tuple[str, str, str], tuple[bytes, Answer]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def find(self, *, api_key: str, path: str, name: str, body: Any) -> Answer | None:
        """The original answer, None for a new key. Raises Refused: 409 on another body, 400 on an overlong key."""
        if len(name) > MAX_KEY_LENGTH:
            raise Refused(400, "invalid_request", f"Idempotency-Key: at most {MAX_KEY_LENGTH} characters")
        known = self._answers.get((api_key, path, name))
        if known is None:
            return None
        if known[0] != _digest(body):
            raise Refused(409, "idempotency_conflict")
        return known[1]

    def keep(self, answer: Answer, *, api_key: str, path: str, name: str, body: Any) -> None:
        """Only for a success: after a refusal (503 among them) the same key may try again."""
        self._answers[api_key, path, name] = (_digest(body), answer)
        if len(self._answers) > self.max_answers:
            self._answers.popitem(last=False)


def _digest(body: Any) -> bytes:
    return sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
