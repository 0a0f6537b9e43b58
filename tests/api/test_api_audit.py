"""The audit of API requests: which operations are recorded."""

import re

import pytest

from relay.api.catalogue import OPERATIONS

SECRETS_READ = {"GET /v1/signing-secret"}
"""Reads that are recorded, because their answer is a secret."""


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_write_is_in_the_audit(operation):
    reads = operation.method == "GET" and operation.route not in SECRETS_READ
    assert reads == (operation.audited is None and operation.counted is None), (
        "a write needs `audited` (one entry each) or `counted` (a number per token and hour)"
    )
    names = [name for name in (operation.audited, operation.counted) if isinstance(name, str)]
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", name) for name in names)
