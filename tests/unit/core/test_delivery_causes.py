"""The likely cause of a failed attempt, and of a reason that many deliveries share."""

import pytest

from relay.core.deliveries.causes import BROKER_CAUSES, LIKELY_CAUSES, cause_of_reason, likely_cause


@pytest.mark.parametrize(
    ("attempt", "cause"),
    [
        ({"status_code": 503}, LIKELY_CAUSES["5xx"]),
        ({"status_code": 413}, LIKELY_CAUSES["413"]),
        ({"status_code": 403}, LIKELY_CAUSES["401"]),
        ({"status_code": 418}, LIKELY_CAUSES["4xx"]),
        ({"status_code": 204}, None),
        ({"error": "dns: no such host"}, LIKELY_CAUSES["dns"]),
        ({"error": "timeout", "timings": {"first_byte_ms": 9000.0}}, LIKELY_CAUSES["timeout"]),
        ({"error": "timeout", "timings": {"connect_ms": 9000.0}}, LIKELY_CAUSES["unreachable"]),
        ({"error": "timeout"}, LIKELY_CAUSES["dns"]),
        ({"error": "timeout", "request_headers": {"destination": "a.topic"}}, BROKER_CAUSES["timeout"]),
        ({"error": "nack", "request_headers": {"destination": "a.topic"}}, LIKELY_CAUSES["nack"]),
        ({"error": "unheard of"}, None),
        ({}, None),
    ],
)
def test_likely_cause_of_an_attempt(attempt, cause):
    assert likely_cause(attempt) == cause


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("http_503", LIKELY_CAUSES["5xx"]),
        ("http_405", LIKELY_CAUSES["404"]),
        ("http_", None),
        ("tls: expired", LIKELY_CAUSES["tls"]),
        ("unmatched", None),
        (None, None),
    ],
)
def test_likely_cause_of_a_reason(reason, cause):
    assert cause_of_reason(reason) == cause
