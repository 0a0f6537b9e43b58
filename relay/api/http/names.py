"""Names in a request that must exist: sources, accounts, event types. Each error suggests the nearest known name."""

from collections.abc import Mapping, Sequence
from itertools import islice

from relay.api.http.problems import MAX_ERRORS, MAX_WORD, did_you_mean, known_are, suggested
from relay.core.subscriptions.filters import full_type, nearest_type, wanted_type
from relay.errors import FieldError


def account_errors(source: str, account: str, accounts: Mapping[str, tuple[str, ...]]) -> list[FieldError]:
    """Errors for a source that is not configured, or that has no account of this name."""
    if source not in accounts:
        detail = f"no source {source[:100]!r} is configured{did_you_mean(source, accounts)}"
        return [FieldError(pointer="/source", code="unknown_source", detail=detail)]
    if account not in accounts[source]:
        near = did_you_mean(account, accounts[source])
        detail = f"source {source} has no account {account[:100]!r}{near}"
        return [FieldError(pointer="/account", code="unknown_account", detail=detail)]
    return []


def event_types(
    names: Sequence[str], known: Sequence[str], pointer: str, *, free: bool = True
) -> tuple[tuple[str, ...], list[FieldError]]:
    """The full event types for names that may be short (`failed`) or free, without repeats, and an error for each
    unknown name.

    `pointer` is the place of the list in the body; the index of the name is appended. `free`: with the types that other
    programs publish.
    """
    meaning = wanted_type if free else full_type
    found = [meaning(name, known) for name in names]
    errors = [
        FieldError(pointer=f"{pointer}/{index}", code="unknown_type", detail=_unknown_type(name, known))
        for index, name in islice(((at, one) for at, one in enumerate(names) if found[at] is None), MAX_ERRORS)
    ]
    return tuple(dict.fromkeys(one for one in found if one is not None)), errors


def event_type(name: str | None, known: Sequence[str], pointer: str) -> tuple[str | None, list[FieldError]]:
    """The full event type for one name, None for None, and an error if it is unknown."""
    if name is None:
        return None, []
    found = wanted_type(name, known)
    unknown = FieldError(pointer=pointer, code="unknown_type", detail=_unknown_type(name, known))
    return found, [] if found is not None else [unknown]


def _unknown_type(name: str, known: Sequence[str]) -> str:
    near = suggested(nearest_type, name[:MAX_WORD], tuple(known))
    hint = f": did you mean {near}?" if near else known_are(known)
    if not near and "." not in name:
        hint += ". Types that other programs publish have a dot, such as com.acme.order.paid"
    return f"{name[:MAX_WORD]!r} is no event type{hint}"
