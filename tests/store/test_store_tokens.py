"""API tokens: names are unique, a revoked one is gone, uses come in batches, and each change raises the version."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from relay.errors import Conflict
from relay.store.store import Store
from tests.support.store_kit import NOW, access_token

FULL = access_token(
    "tok_2",
    scopes=frozenset({"jobs:write", "read"}),
    expires_at=NOW + 60.5,
    account=("revor", "acme"),
    networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")),
    requests_per_minute=600,
)


async def test_token_is_read_back_as_it_was_stored(store: Store) -> None:
    plain = access_token("tok_1")
    for token in (plain, FULL):
        await store.tokens.create(token, NOW)
        assert await store.tokens.get(token.id) == token
    assert (await store.tokens.page(limit=10)).items == (FULL, plain)
    assert (await store.tokens.all())[1] in ([plain, FULL], [FULL, plain])


async def test_two_tokens_cannot_have_one_name(store: Store) -> None:
    await store.tokens.create(access_token("tok_1", name="crm"), NOW)
    with pytest.raises(Conflict) as caught:
        await store.tokens.create(access_token("tok_2", name="crm"), NOW)
    assert caught.value.code == "name_taken"
    await store.tokens.revoke("tok_1")
    await store.tokens.create(access_token("tok_2", name="crm"), NOW)


async def test_repeated_create_gets_the_new_secret(store: Store) -> None:
    """A create that was cut off before its answer is repeated with the same id: nobody knows the first secret."""
    await store.tokens.create(access_token("tok_1", "rl_first"), NOW)
    again = access_token("tok_1", "rl_second")
    await store.tokens.create(again, NOW)
    assert (await store.tokens.all())[1] == [again]


async def test_every_change_raises_the_version(store: Store) -> None:
    seen = [await store.tokens.version()]
    await store.tokens.create(FULL, NOW)
    seen.append(await store.tokens.version())
    await store.tokens.create(replace(FULL, digest="00"), NOW)
    seen.append(await store.tokens.version())
    await store.tokens.used({FULL.id: NOW})  # a use changes nothing that nodes hold
    assert await store.tokens.version() == seen[-1]
    await store.tokens.revoke(FULL.id)
    seen.append(await store.tokens.version())
    assert seen == sorted(set(seen))
    assert (await store.tokens.all())[0] == seen[-1]
