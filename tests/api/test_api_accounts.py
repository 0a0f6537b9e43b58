"""Tokens that are bound to an account: to them other accounts do not exist.

Every operation has a case here. Two properties are checked: with the ids of another account each operation answers as
with ids that nobody has, and nothing that another account does changes a single byte of any answer.
"""

import base64
import contextlib
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import orjson
import pytest

from relay.api.app import create_api
from relay.api.catalogue import OPERATIONS
from relay.api.http.auth import ADMIN, Identity
from relay.core.events.event import Origin, owner_of, relay_event
from relay.core.figures import FIGURES, TimeSeries, rows_of
from relay.core.jobs.job import Job
from relay.core.records import Intent
from relay.errors import Unauthorized
from relay.ids import new_id
from tests.support.api_conformity import check_answer
from tests.support.api_world import ORIGIN, World
from tests.support.store_databases import open_new
from tests.support.store_kit import claim, list_accounts, result_of

Client = httpx2.AsyncClient

MINE, OTHERS = ("revor", "default"), ("revor", "emea")
SHARED = "an id that both accounts have"
ID = re.compile(r"\b(job|sub|evt|dlv|int|rpl|req|att|acc|grp|inc)_[0-9a-z]{26}")
SECRET = re.compile(r"whsec_[\w+/=-]+|v1,[\w+/=]+|link=[\w-]{43}")


@pytest.fixture
async def two(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator["Two"]:
    def identify(scope: Any, headers: Any, *_: Any) -> Identity:
        value = headers.get("authorization", "").removeprefix("Bearer ")
        if value == "ops":
            return Identity(name="ops", scopes=frozenset({ADMIN}))
        if value in ("default", "emea"):
            return Identity(name=value, scopes=frozenset({ADMIN}), token_id=value, account=("revor", value))
        raise Unauthorized("no")

    monkeypatch.setattr("relay.api.front.identify", identify)
    made = Two(world=world)
    yield made
    for client in made.clients:
        await client.aclose()


@pytest.fixture
async def populated(two: "Two", tmp_path: Path) -> AsyncIterator[tuple["Two", "Things", "Things"]]:
    """A relay whose two accounts have everything, and what each has. The first test makes it, the others copy that."""
    path = tmp_path / "populated.db"
    if not _populated:
        mine, theirs = await two.populate(MINE), await two.populate(OTHERS)
        with contextlib.closing(sqlite3.connect(tmp_path / "relay.db")) as database:
            database.execute("VACUUM INTO ?", (str(path),))
        _populated.append((path.read_bytes(), mine, theirs, two.world.now))
    file, mine, theirs, now = _populated[0]
    path.write_bytes(file)
    async with another(path) as made:
        made.world.now = now
        yield made, mine, theirs


_populated: list[tuple[bytes, "Things", "Things", float]] = []


@dataclass
class Two:
    """A relay with two accounts, and what each of them has."""

    world: World
    clients: list[Client] = field(default_factory=list)

    def client(self, token: str, **settings: Any) -> Client:
        api = create_api(self.world.dependencies(dev=False, **settings), self.world.proxy)
        transport = httpx2.ASGITransport(app=api, client=("192.0.2.7", 5000), raise_app_exceptions=False)
        self.clients.append(
            Client(
                transport=transport,
                base_url="http://relay.example",
                headers={"Authorization": f"Bearer {token}"},
                event_hooks={"response": [check_answer]},
            )
        )
        return self.clients[-1]

    async def populate(self, account: tuple[str, str]) -> "Things":
        """Everything that an account can have, some of it made by its token and some by the relay."""
        world, name = self.world, account[1]
        client = self.client(name)
        hook = f"https://{name}.receiver.example"
        sink = {"sink": f"{hook}/hooks", "types": ["failed", "relay.source.down"], "description": name}
        subscription = (await client.post("/v1/subscriptions", json=sink)).json()["id"]
        uids = []
        for id in (SHARED, f"only in {name}"):
            callback = {"callback_url": "https://callback.receiver.example/both", "callback_types": ["queued"]}
            callback |= {"group": SHARED if id == SHARED else f"group of {name}"}
            world.now += 1  # ids of one millisecond have no order
            answer = await client.post("/v1/jobs", json={"id": id, "metadata": {"of": name}, **callback})
            assert answer.status_code == 201, answer.text
            uids.append(answer.json()["uid"])
        jobs = [await self._job(uid) for uid in uids]
        assert {(job.source, job.account) for job in jobs} == {account}
        for job, status in ((jobs[0], "queued"), (jobs[1], "queued"), (jobs[1], "failed")):
            await world.poll(job, status)
            world.now += 1
        trouble = relay_event(
            new_id("evt", world.now), "relay.source.down", world.now, {"account": name}, dataschema="x:/y",
            subject=f"revor/{name}", owner=owner_of(*account),
        )  # fmt: skip
        await world.store.events.record(trouble)
        dead, uncertain = await claim(world.store, subscription, count=2, now=world.now)
        for one, state, reason in ((dead, "dead", "refused"), (uncertain, "uncertain", "not known")):
            ended = result_of(one, state, now=world.now, reason=f"{reason} by {name}")
            await world.store.deliveries.record(ended)
        await list_accounts(
            world.store, account, "shared", f"acc {name}", state="cannot_send", now=world.now, name=f"Ada of {name}"
        )
        intent = Intent(
            id=new_id("int", world.now), source=account[0], account=name, path="/x", body_digest="0" * 64,
            created_at=world.now, metadata={"of": name},
        )  # fmt: skip
        await world.store.intents.begin(intent)
        await world.store.intents.unknown(intent.id, "no_answer")
        for nth in range(2):
            world.now += 1
            await world.fail(f"failure {nth} of {name}", f"code {nth}", account=name)
        tally = TimeSeries()
        for counted in FIGURES:
            label = {"account": owner_of(*account), "subscription": subscription, "": ""}[FIGURES[counted].label]
            tally.add(counted, label, world.now, 1.5)
        await world.store.figures.add(rows_of(tally.take(100)))
        found = {}
        for kind in ("deliveries", "events"):
            page = (await client.get(f"/v1/{kind}", params={"limit": 500})).json()
            found[kind] = [item["id"] for item in page["items"]]
        world.now += 1
        replay = (await client.post("/v1/deliveries/retry", json={"filter": {"reason": "nobody"}})).json()["replay_id"]
        return Things(
            account=account,
            jobs=uids,
            own_id=f"only in {name}",
            subscription=subscription,
            callback=await self._callback(client),
            events=found["events"],
            deliveries=found["deliveries"],
            intent=intent.id,
            replay=replay,
            own_group=f"group of {name}",
            group=(await world.store.groups.find(f"group of {name}"))[0].id,
            incidents=[one["id"] for one in (await client.get("/v1/incidents")).json()["items"]],
        )

    async def _job(self, uid: str) -> Job:
        job = await self.world.store.jobs.get(uid)
        assert job is not None
        return job

    async def _callback(self, client: Client) -> str:
        listed = (await client.get("/v1/subscriptions", params={"callbacks": "true"})).json()["items"]
        (found,) = [one["id"] for one in listed if one["sink"].endswith("/both")]
        return str(found)

    async def rows(self, account: tuple[str, str]) -> dict[str, list[Any]]:
        """Every row of an account."""
        owner = {"owner": owner_of(*account)}
        place = {"source": account[0], "account": account[1]}

        def read(connection: Any) -> dict[str, list[Any]]:
            queries = {
                **{
                    table: (f"SELECT * FROM {table} WHERE owner = :owner ORDER BY id", owner)
                    for table in ("events", "deliveries", "subscriptions", "replays")
                },
                "jobs": ("SELECT * FROM jobs WHERE source = :source AND account = :account ORDER BY uid", place),
                "groups": ("SELECT * FROM groups WHERE source = :source AND account = :account ORDER BY id", place),
                "incidents": ("SELECT * FROM incidents WHERE owner = :owner ORDER BY id", owner),
                "connect_accounts": (
                    "SELECT * FROM connect_accounts WHERE source = :source AND account = :account ORDER BY id",
                    place,
                ),
                "intents": ("SELECT * FROM intents WHERE source = :source AND account = :account ORDER BY id", place),
                "attempts": (
                    "SELECT * FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE owner = :owner)"
                    " ORDER BY position",
                    owner,
                ),
            }
            return {
                name: [tuple(row) for row in connection.exec_driver_sql(query, values)]
                for name, (query, values) in queries.items()
            }

        return await self.world.store.database.read(read)  # type: ignore[no-any-return]


@dataclass
class Things:
    """The ids of one account's things."""

    account: tuple[str, str]
    jobs: Sequence[str]
    own_id: str
    subscription: str
    callback: str
    events: Sequence[str]
    deliveries: Sequence[str]
    intent: str
    replay: str
    own_group: str
    group: str
    incidents: Sequence[str]

    @property
    def traces(self) -> set[str]:
        """Texts that no other account may see."""
        return {
            *self.jobs, *self.events, *self.deliveries, self.own_id, self.subscription, self.callback, self.intent,
            self.replay, self.account[1], self.own_group, self.group, *self.incidents,
        }  # fmt: skip


def nobody_s(things: Things) -> Things:
    """Ids of the same form that nobody has."""

    def other(id: str) -> str:
        return id[:20] + id[:19:-1] if len(set(id[20:])) > 1 else id[:-1] + "0"

    return Things(
        account=("revor", "nowhere"),
        jobs=[other(uid) for uid in things.jobs],
        own_id="only in nobody",
        subscription=other(things.subscription),
        callback=other(things.callback),
        events=[other(id) for id in things.events],
        deliveries=[other(id) for id in things.deliveries],
        intent=other(things.intent),
        replay=other(things.replay),
        own_group="group of nobody",
        group=other(things.group),
        incidents=[other(id) for id in things.incidents],
    )


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


SINK = {"sink": "https://new.receiver.example/hooks"}
DECLARED = {**SINK, "config": {"secret": "whsec_" + "A" * 32}}
SINCE = {"since": "2020-01-01T00:00:00Z"}


def by_id(method: str, path: str, *ids: str, body: Any = None, **query: str) -> list[Request]:
    return [Request(method, path.format(id=id), query, body) for id in ids]


def declared(*subscriptions: Any, **options: bool) -> Request:
    return Request("POST", "/v1/subscriptions/apply", body={"subscriptions": list(subscriptions), **options})


def published(id: str, **attributes: str) -> Request:
    event = {"specversion": "1.0", "id": id, "source": "/shop", "type": "com.acme.order.paid", **attributes}
    return Request("POST", "/v1/events", body=event, headers={"Content-Type": "application/cloudevents+json"})


def preview_of(subscription: Any, **body: Any) -> Request:
    return Request("POST", "/v1/subscriptions/preview", body={"subscription": subscription, **body})


def job_requests(method: str, path: str = "", **query: str) -> Callable[[Things], list[Request]]:
    """A job of another account, by uid and by its id upstream, alone and with the account named."""

    def requests(of: Things) -> list[Request]:
        where = "/v1/jobs/{id}" + path
        named = {"source": of.account[0], "account": of.account[1]}
        return [
            *by_id(method, where, *of.jobs, of.own_id, **query),
            *by_id(method, where, *of.jobs, of.own_id, SHARED, **{**query, **named}),
        ]

    return requests


def on_group(method: str, path: str = "") -> Callable[[Things], list[Request]]:
    """A group that only another account has, alone and with the account named, and one that both have."""
    where = "/v1/groups/{id}" + path
    return lambda of: [
        *by_id(method, where, of.own_group),
        *by_id(method, where, of.own_group, SHARED, **named(of)),
    ]


def on_subscription(method: str, path: str = "", body: Any = None) -> Callable[[Things], list[Request]]:
    return lambda of: by_id(method, "/v1/subscriptions/{id}" + path, of.subscription, of.callback, body=body)


def on_delivery(method: str, path: str = "") -> Callable[[Things], list[Request]]:
    return lambda of: by_id(method, "/v1/deliveries/{id}" + path, *of.deliveries)


def lists(path: str, *queries: Callable[[Things], Mapping[str, str]]) -> Callable[[Things], list[Request]]:
    return lambda of: [Request("GET", path, query(of)) for query in queries]


def named(of: Things) -> dict[str, str]:
    return {"source": of.account[0], "account": of.account[1]}


def cursor_of(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


# What a token of one account can ask with what it knows of another account, by operation.
CASES: Mapping[str, Callable[[Things], list[Request]]] = {
    "registerJob": lambda of: [
        Request("POST", "/v1/jobs", body={"id": "new", "account": of.account[1]}),
        Request("POST", "/v1/jobs", body={"ok": True, "item": {"id": "new"}, "account": of.account[1]}),
    ],
    "registerJobs": lambda of: [
        Request("POST", "/v1/jobs/batch", body={"jobs": [{"id": "new", "account": of.account[1]}]})
    ],
    "changeJobs": lambda of: [
        Request("POST", "/v1/jobs/bulk", body={"action": action, "ids": [*of.jobs, of.own_id]})
        for action in ("refresh", "untrack")
    ],
    "listJobs": lists(
        "/v1/jobs", named, lambda of: {"group": of.own_group}, lambda of: {"cursor": cursor_of(of.jobs[0])}
    ),
    "getJob": job_requests("GET"),
    "refreshJob": job_requests("POST", "/refresh"),
    "explainJob": job_requests("GET", "/explain"),
    "untrackJob": lambda of: [*job_requests("DELETE")(of), *job_requests("DELETE", purge="true")(of)],
    "listJobEvents": job_requests("GET", "/events"),
    "createSubscription": lambda of: [
        Request("POST", "/v1/subscriptions", {"reuse": "true"}, {"sink": f"https://{of.account[1]}.receiver.example/x"})
    ],
    "applySubscriptions": lambda of: [
        declared({"id": id, **DECLARED}, prune=True) for id in (of.subscription, of.callback, "crm")
    ],
    "previewSubscription": lambda of: [
        *(preview_of(subscription) for subscription in (of.subscription, of.callback)),
        *(preview_of(SINK, event_id=id) for id in of.events),
    ],
    "listSubscriptions": lists(
        "/v1/subscriptions", lambda of: {"callbacks": "true", "cursor": cursor_of(f"subscription {of.subscription}")}
    ),
    "getSubscription": on_subscription("GET"),
    "replaceSubscription": on_subscription("PUT", body=SINK),
    "deleteSubscription": on_subscription("DELETE"),
    "testSubscription": on_subscription("POST", "/test", {}),
    "pullDeliveries": on_subscription("POST", "/pull", {}),
    "ackDeliveries": on_subscription("POST", "/ack", {"ids": ["dlv_x"]}),
    "nackDeliveries": on_subscription("POST", "/nack", {"ids": ["dlv_x"]}),
    "pauseSubscription": on_subscription("POST", "/pause"),
    "resumeSubscription": on_subscription("POST", "/resume"),
    "rotateSecret": on_subscription("POST", "/rotate-secret", {}),
    "replaySubscription": on_subscription("POST", "/replay", SINCE),
    "getSigningSecret": lambda of: [Request("GET", "/v1/signing-secret")],
    "publishEvents": lambda of: [published("evt", partitionkey=of.own_id)],
    "listEvents": lists(
        "/v1/events",
        lambda of: {"subject": of.own_id},
        lambda of: {"subject": "/".join(of.account)},
        lambda of: {"cursor": cursor_of(f"{(1e10).hex()} {of.events[0]}")},
    ),
    "streamEvents": lambda of: [Request("GET", "/v1/events/stream", headers={"Last-Event-ID": id}) for id in of.events],
    "getEvent": lambda of: by_id("GET", "/v1/events/{id}", *of.events),
    "listDeliveries": lists(
        "/v1/deliveries",
        lambda of: {"subscription": of.subscription},
        lambda of: {"subscription": of.callback},
        lambda of: {"event": of.events[0]},
        lambda of: {"event": of.events[0], "group_by": "reason,sink,day"},
        lambda of: {"subscription": of.subscription, "group_by": "sink"},
        lambda of: {"cursor": cursor_of(of.deliveries[0])},
    ),
    "getDelivery": on_delivery("GET"),
    "getDeliveryRequest": on_delivery("GET", "/request"),
    "retryDelivery": on_delivery("POST", "/retry"),
    "settleDelivery": lambda of: [
        *by_id("POST", "/v1/deliveries/{id}/settle", *of.deliveries, body={"fate": "sent"}),
        *by_id("POST", "/v1/deliveries/{id}/settle", *of.deliveries, body={"fate": "not_sent"}),
    ],
    "retryDeliveries": lambda of: [
        Request("POST", "/v1/deliveries/retry", body={"filter": {"subscription": of.subscription}}),
        Request("POST", "/v1/deliveries/retry", body={"filter": {"reason": f"refused by {of.account[1]}"}}),
        Request("POST", "/v1/deliveries/retry", body={"filter": {"state": "uncertain"}}),
    ],
    "listReplays": lists("/v1/replays", lambda of: {}, lambda of: {"cursor": cursor_of(of.replay)}),
    "getReplay": lambda of: by_id("GET", "/v1/replays/{id}", of.replay),
    "stopReplay": lambda of: by_id("DELETE", "/v1/replays/{id}", of.replay),
    "listGroups": lists("/v1/groups", named, lambda of: {"cursor": cursor_of(of.group)}),
    "getGroup": on_group("GET"),
    "getGroupEnds": on_group("GET", "/ends"),
    "closeGroup": on_group("POST", "/close"),
    "listIncidents": lists("/v1/incidents", named, lambda of: {"cursor": cursor_of(of.incidents[0])}),
    "getIncident": lambda of: by_id("GET", "/v1/incidents/{id}", *of.incidents),
    "listIncidentJobs": lambda of: by_id("GET", "/v1/incidents/{id}/jobs", *of.incidents),
    "listFigures": lists(
        "/v1/figures",
        lambda of: {"label": of.subscription},
        lambda of: {"label": owner_of(*of.account)},
        lambda of: {"label": owner_of(*of.account), "span": "minute"},
    ),
    "listIntents": lists("/v1/intents", lambda of: {"cursor": cursor_of(of.intent)}),
    "resolveIntent": lambda of: [
        *by_id("POST", "/v1/intents/{id}/resolve", of.intent, body={"fate": "not_sent"}),
        *by_id("POST", "/v1/intents/{id}/resolve", of.intent, body={"fate": "sent", "job_id": "new"}),
    ],
    "dismissIntent": lambda of: by_id("DELETE", "/v1/intents/{id}", of.intent),
    "showRecipient": lambda of: by_id("POST", "/v1/intents/{id}/recipient", of.intent),
    "listSources": lists("/v1/sources", lambda of: {}),
    "listConnectAccounts": lists("/v1/connect-accounts", lambda of: {}, named, lambda of: {"state": "cannot_send"}),
    "getKeys": lambda of: [Request("GET", "/v1/keys")],
    "rotateEncryptionKey": lambda of: [Request("POST", "/v1/keys/encryption/rotate", body={})],
    "rotateSigningKey": lambda of: [Request("POST", "/v1/keys/signing/rotate", body={})],
    "rotateCallbackSecret": lambda of: [Request("POST", "/v1/keys/callback-secret/rotate", body={})],
    "getPublicKeys": lambda of: [Request("GET", "/.well-known/webhook-keys.json")],
    "createSession": lambda of: [Request("POST", "/v1/sessions", body={})],
    "createToken": lambda of: [Request("POST", "/v1/tokens", body={"name": "new", "scopes": ["read"], **named(of)})],
    "listAudit": lists("/v1/audit", lambda of: {}),
    "verifyAudit": lambda of: [Request("GET", "/v1/audit/verify")],
    "listTokens": lists("/v1/tokens", lambda of: {}),
    "getToken": lambda of: by_id("GET", "/v1/tokens/{id}", "tok_1"),
    "revokeToken": lambda of: by_id("DELETE", "/v1/tokens/{id}", "tok_1"),
    "eraseData": lambda of: [
        Request("POST", "/v1/erasures", body={"job": of.own_id, **named(of)}),
        Request("POST", "/v1/erasures", body={"metadata": {"of": of.account[1]}}),
    ],
    "listSettings": lambda of: [Request("GET", "/v1/settings")],
    "getMetrics": lambda of: [Request("GET", "/metrics")],
    "getLiveness": lambda of: [Request("GET", "/livez")],
    "getReadiness": lambda of: [Request("GET", "/readyz")],
    "getOpenApi": lambda of: [Request("GET", "/openapi.json")],
    "getAsyncApi": lambda of: [Request("GET", "/asyncapi.json")],
    "getSchema": lambda of: [Request("GET", "/schemas/job-status.v1.json")],
}

# What a token asks about its own account, in this order.
OWN: Mapping[str, Callable[[Things], list[Request]]] = {
    "listJobs": lists(
        "/v1/jobs",
        lambda of: {},
        lambda of: {"limit": "1"},
        lambda of: {"status": "failed"},
        lambda of: {"open": "true", **named(of)},
    ),
    "getJob": lambda of: by_id("GET", "/v1/jobs/{id}", *of.jobs, of.own_id, SHARED),
    "listGroups": lists("/v1/groups", lambda of: {}, lambda of: {"limit": "1"}, lambda of: {"state": "open"}),
    "getGroup": lambda of: by_id("GET", "/v1/groups/{id}", of.own_group, SHARED),
    "getGroupEnds": lambda of: by_id("GET", "/v1/groups/{id}/ends", of.own_group, SHARED),
    "closeGroup": lambda of: by_id("POST", "/v1/groups/{id}/close", SHARED, body={"expected": 7}),
    "explainJob": lambda of: by_id("GET", "/v1/jobs/{id}/explain", SHARED),
    "listJobEvents": lambda of: [
        *by_id("GET", "/v1/jobs/{id}/events", of.own_id, limit="1"),
        Request("GET", f"/v1/jobs/{of.own_id}/events", headers={"Accept": "text/event-stream"}),
    ],
    "listSubscriptions": lists("/v1/subscriptions", lambda of: {}, lambda of: {"callbacks": "true", "limit": "1"}),
    "getSubscription": on_subscription("GET"),
    "publishEvents": lambda of: [published(SHARED, partitionkey=SHARED), published(SHARED), published("a")],
    "listEvents": lists(
        "/v1/events",
        lambda of: {},
        lambda of: {"limit": "2"},
        lambda of: {"type": "queued"},
        lambda of: {"subject": SHARED},
        lambda of: SINCE,
    ),
    "streamEvents": lambda of: [
        Request("GET", "/v1/events/stream", headers={"Last-Event-ID": of.events[-1]}),
        Request("GET", "/v1/events/stream"),
    ],
    "getEvent": lambda of: by_id("GET", "/v1/events/{id}", *of.events),
    "listDeliveries": lists(
        "/v1/deliveries",
        lambda of: {},
        lambda of: {"limit": "1"},
        lambda of: {"state": "dead"},
        lambda of: {"state": "pending"},
        lambda of: {"state": "uncertain"},
        lambda of: {"state": "uncertain", "group_by": "reason"},
        lambda of: {"group_by": "reason,sink,day"},
        lambda of: {"group_by": "reason", "state": "dead"},
        lambda of: {"event": of.events[-1], "group_by": "day"},
        lambda of: {"subscription": of.subscription, "group_by": "reason"},
    ),
    "getDelivery": on_delivery("GET"),
    "getDeliveryRequest": on_delivery("GET", "/request"),
    "listIncidents": lists("/v1/incidents", lambda of: {}, lambda of: {"limit": "1"}, lambda of: {"state": "open"}),
    "getIncident": lambda of: by_id("GET", "/v1/incidents/{id}", *of.incidents),
    "listIncidentJobs": lambda of: by_id("GET", "/v1/incidents/{id}/jobs", *of.incidents, repeat="may_send_twice"),
    "listFigures": lists(
        "/v1/figures",
        lambda of: {},
        lambda of: {"span": "day", "name": "attempts,events,jobs_open,deliveries_undelivered"},
        lambda of: {"label": of.subscription},
        lambda of: {"label": owner_of(*of.account)},
    ),
    "listIntents": lists("/v1/intents", lambda of: {}),
    "listSources": lists("/v1/sources", lambda of: {}),
    "listConnectAccounts": lists(
        "/v1/connect-accounts",
        lambda of: {},
        lambda of: {"limit": "1"},
        lambda of: {"state": "cannot_send", **named(of)},
    ),
    "registerJob": lambda of: [
        Request("POST", "/v1/jobs", body={"id": SHARED}),
        Request("POST", "/v1/jobs", body={"id": "only in emea"}),
        Request("POST", "/v1/jobs", body={"ok": True, "item": {"id": "made upstream"}}),
    ],
    "registerJobs": lambda of: [
        Request("POST", "/v1/jobs/batch", body={"jobs": [{"id": SHARED}, {"id": "b"}, {"id": "c", "account": "x"}]})
    ],
    "refreshJob": lambda of: by_id("POST", "/v1/jobs/{id}/refresh", SHARED),
    "changeJobs": lambda of: [Request("POST", "/v1/jobs/bulk", body={"action": "refresh", "ids": [SHARED]})],
    "createSubscription": lambda of: [
        Request("POST", "/v1/subscriptions", {"reuse": "true"}, {"sink": "https://emea.receiver.example/hooks"}),
        Request("POST", "/v1/subscriptions", body={**SINK, "config": {"start": "earliest"}}),
    ],
    "applySubscriptions": lambda of: [
        declared({"id": "crm", **DECLARED}),
        declared({"id": of.subscription, **DECLARED}, {"id": "crm", **DECLARED, "types": ["failed"]}, dry_run=True),
        declared({"id": "other", **DECLARED}, prune=True),
    ],
    "previewSubscription": lambda of: [
        preview_of(of.subscription),
        preview_of(SINK, type="relay.source.down"),
        *(preview_of({**SINK, "types": ["queued", "failed", "relay.source.down"]}, event_id=id) for id in of.events),
    ],
    "replaceSubscription": lambda of: by_id("PUT", "/v1/subscriptions/{id}", of.subscription, of.callback, body=SINK),
    "testSubscription": lambda of: [
        *on_subscription("POST", "/test", {"type": "failed"})(of),
        *on_subscription("POST", "/test", {"type": "relay.source.down"})(of),
        *on_subscription("POST", "/test", {"type": "account.recovered"})(of),
        *on_subscription("POST", "/test", {"type": "group.finished"})(of),
        *on_subscription("POST", "/test", {"type": "incident.opened"})(of),
    ],
    "pullDeliveries": on_subscription("POST", "/pull", {}),
    "ackDeliveries": on_subscription("POST", "/ack", {"ids": ["dlv_x"]}),
    "nackDeliveries": on_subscription("POST", "/nack", {"ids": ["dlv_x"]}),
    "pauseSubscription": on_subscription("POST", "/pause"),
    "resumeSubscription": on_subscription("POST", "/resume"),
    "rotateSecret": on_subscription("POST", "/rotate-secret", {}),
    "settleDelivery": lambda of: [
        *by_id("POST", "/v1/deliveries/{id}/settle", *of.deliveries[::2], body={"fate": "not_sent"}),
        *by_id("POST", "/v1/deliveries/{id}/settle", *of.deliveries, body={"fate": "sent"}),
    ],
    "retryDelivery": on_delivery("POST", "/retry"),
    "replaySubscription": on_subscription("POST", "/replay", {**SINCE, "only": "all"}),
    "retryDeliveries": lambda of: [
        Request("POST", "/v1/deliveries/retry", body={"filter": {"state": state}})
        for state in ("pending", "dead", "delivered", "cancelled", "uncertain")
    ],
    "listReplays": lists("/v1/replays", lambda of: {}, lambda of: {"cursor": cursor_of(of.replay)}),
    "getReplay": lambda of: by_id("GET", "/v1/replays/{id}", of.replay),
    "stopReplay": lambda of: by_id("DELETE", "/v1/replays/{id}", of.replay),
    "showRecipient": lambda of: by_id("POST", "/v1/intents/{id}/recipient", of.intent),
    "resolveIntent": lambda of: by_id(
        "POST", "/v1/intents/{id}/resolve", of.intent, body={"fate": "sent", "job_id": SHARED}
    ),
    "dismissIntent": lambda of: by_id("DELETE", "/v1/intents/{id}", of.intent),
    "createSession": lambda of: [Request("POST", "/v1/sessions")],
    "untrackJob": lambda of: [
        *by_id("DELETE", "/v1/jobs/{id}", SHARED),
        *by_id("DELETE", "/v1/jobs/{id}", of.own_id, purge="true"),
    ],
    "deleteSubscription": on_subscription("DELETE"),
}

BOUND = {operation.id: operation for operation in OPERATIONS if operation.bound}


async def send(client: Client, request: Request) -> httpx2.Response:
    return await client.request(
        request.method, request.path, params=request.query, json=request.body, headers=request.headers
    )


def shown(answer: httpx2.Response, *, ids: bool) -> tuple[int, str, list[tuple[str, str]]]:
    """An answer for comparison. `ids`: with ids, which are random, replaced by their prefix, also inside cursors."""
    text = answer.text

    def cursor(found: re.Match[str]) -> str:
        raw = found[1]
        return "cursor:" + base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).decode()

    text = re.sub(r'"next_cursor":"([\w-]+)"', cursor, text)
    headers = []
    for name, value in answer.headers.multi_items():
        if name == "link":
            url, _, rest = value[1:].partition(">")
            parts = urlsplit(url)
            pairs = [(key, cursor_text(one) if key == "cursor" else one) for key, one in parse_qsl(parts.query)]
            value = f"{parts.path}?{urlencode(pairs)}{rest}"
        if name not in ("x-request-id", "content-length"):
            headers.append((name, SECRET.sub("secret", ID.sub(r"\1", value)) if ids else value))
    text = SECRET.sub("secret", ID.sub(r"\1", text)) if ids else text
    return answer.status_code, text, headers


def cursor_text(raw: str) -> str:
    return base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).decode()


def test_every_operation_has_a_case() -> None:
    """A new operation needs one here: what does a token get that is bound to another account?"""
    assert CASES.keys() == {operation.id for operation in OPERATIONS}
    assert OWN.keys() == BOUND.keys()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_what_belongs_to_another_account_does_not_exist(
    populated: tuple[Two, "Things", "Things"], operation: Any
) -> None:
    two, mine, theirs = populated
    before = await two.rows(OTHERS)
    assert all(before.values())
    client, absent = two.client("default"), nobody_s(theirs)
    for real, invented in zip(CASES[operation.id](theirs), CASES[operation.id](absent), strict=True):
        answer, expected = await send(client, real), await send(client, invented)
        assert answer.status_code == expected.status_code
        if operation.scopes is not None and not operation.bound:
            assert (answer.status_code, answer.json()["code"]) == (403, "account_bound")
        told, wanted = (
            orjson.dumps(shown(answer, ids=False)).decode(),
            orjson.dumps(shown(expected, ids=False)).decode(),
        )
        for known, unknown in zip(sorted_traces(theirs), sorted_traces(absent), strict=True):
            if f'"{known}"' not in wanted:
                told, wanted = told.replace(known, "?"), wanted.replace(unknown, "?")
        if answer.status_code >= 400:
            assert told == wanted
        asked = orjson.dumps([real.path, real.query, real.body, real.headers]).decode()
        for trace in theirs.traces - {trace for trace in theirs.traces if trace in asked}:
            assert re.search(rf"(?<!\w){re.escape(trace)}(?!\w)", answer.text) is None
    assert await two.rows(OTHERS) == before
    assert mine.traces.isdisjoint(theirs.traces)


def sorted_traces(things: Things) -> list[str]:
    return [
        *things.jobs, *things.events, *things.deliveries, things.own_id, things.subscription, things.callback,
        things.intent, things.replay, things.own_group, things.group, *things.incidents, things.account[1],
    ]  # fmt: skip


@pytest.mark.verify
async def test_no_answer_depends_on_what_another_account_has(
    two: Two, tmp_path: Any, empty_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same requests of one account, alone on a relay and with a busy neighbour, get the same answers."""
    alone = await transcript(two, neighbour=False)
    async with another(Path(shutil.copy(empty_database, tmp_path / "other.db"))) as crowded:
        beside = await transcript(crowded, neighbour=True)
    for (request, one), (_, other) in zip(alone, beside, strict=True):
        assert other == one, request


@asynccontextmanager
async def another(path: Path) -> AsyncIterator[Two]:
    """A relay on this file."""
    store = await open_new(path)
    made = Two(world=World(store=store))
    yield made
    for client in made.clients:
        await client.aclose()
    await store.close()


async def transcript(two: Two, *, neighbour: bool) -> list[tuple[Request, Any]]:
    """The answers to every request of OWN. With a neighbour, it acts before, between and after."""
    began = two.world.now
    if neighbour:
        await two.populate(OTHERS)
    two.world.now = began
    mine = await two.populate(MINE)
    busy = two.client("emea")
    client = two.client("default")
    found: list[tuple[Request, Any]] = []
    for id, requests in OWN.items():
        for request in requests(mine):
            two.world.node.stopping = False
            two.world.now += 1
            if neighbour and id != "registerJob":
                await busy.post("/v1/jobs", json={"id": f"busy {len(found)}", "callback_url": SINK["sink"]})
                assert (await send(busy, published(SHARED, partitionkey=SHARED))).status_code == 202
                assert (await busy.post("/v1/subscriptions", json=SINK)).status_code == 201
            answer = await send(client, request)
            assert answer.status_code in (200, 201, 202, 409) or id == "dismissIntent", (request, answer.text)
            found.append((request, shown(answer, ids=True)))
    return found


async def test_an_id_that_another_account_tracks_is_a_new_job(two: Two) -> None:
    theirs = await two.populate(OTHERS)
    client = two.client("default")
    first = await client.post("/v1/jobs", json={"id": SHARED})
    assert first.status_code == 201
    assert first.json()["account"] == "default"
    assert first.json()["uid"] not in theirs.traces
    assert (await client.post("/v1/jobs", json={"id": SHARED})).status_code == 200
    counted = (await client.post("/v1/jobs/batch", json={"jobs": [{"id": theirs.own_id}, {"id": SHARED}]})).json()
    assert (counted["created"], counted["existing"]) == (1, 1)


async def test_accounts_that_declare_the_same_id_have_one_each(two: Two) -> None:
    ours, theirs, admin = two.client("default"), two.client("emea"), two.client("ops")
    for client in (ours, theirs, admin):
        answer = await send(client, declared({"id": "crm", **DECLARED}))
        assert [one["action"] for one in answer.json()["changes"]] == ["add"]

    async def ids(client: Client) -> set[str]:
        return {one["id"] for one in (await client.get("/v1/subscriptions")).json()["items"]}

    assert await ids(ours) == {"crm@revor:default"}
    assert await ids(admin) == {"crm@revor:default", "crm@revor:emea", "crm"}
    for client in (ours, admin):  # each removes what it has declared
        await send(client, declared(prune=True))
    assert await ids(admin) == {"crm@revor:emea"}
    refused = await send(theirs, declared({"id": "crm", **DECLARED, "owner": "revor/default"}))
    assert refused.json()["errors"][0]["pointer"] == "/subscriptions/0/owner"
    again = await send(theirs, declared({"id": "crm@revor:emea", **DECLARED}, prune=True))
    assert [one["action"] for one in again.json()["changes"]] == ["unchanged"], "the whole id names it as well"


async def test_a_retry_of_all_deliveries_is_one_of_the_own_deliveries(two: Two) -> None:
    theirs, mine = await two.populate(OTHERS), await two.populate(MINE)
    answer = await two.client("default").post("/v1/deliveries/retry", json={"filter": {}})
    assert answer.json()["matched"] == 1
    replay = answer.json()["replay_id"]
    while not (await two.world.store.replays.advance(replay, "node", two.world.now + 1)).ended:
        states = {one["id"]: one["state"] for one in (await two.client("ops").get("/v1/deliveries")).json()["items"]}
        if all(states[id] != "dead" for id in mine.deliveries):
            break
    assert "dead" in {states[id] for id in theirs.deliveries}


async def test_a_token_of_an_account_that_the_settings_no_longer_have_reads_and_adds_nothing(two: Two) -> None:
    world = two.world
    mine = await two.populate(MINE)
    api = create_api(world.dependencies(accounts={"revor": ("emea",)}), world.proxy)
    transport = httpx2.ASGITransport(app=api, client=("192.0.2.7", 5000))
    async with Client(transport=transport, base_url="http://x", headers={"Authorization": "Bearer default"}) as client:
        assert (await client.get(f"/v1/jobs/{SHARED}")).status_code == 200
        refused = await client.post("/v1/jobs", json={"id": "new"})
        assert (refused.status_code, "emea" in refused.text) == (422, False)
        answer = await client.post(f"/v1/subscriptions/{mine.subscription}/test", json={"type": "failed"})
        assert answer.json()["event"]["account"] == "default"


@pytest.mark.parametrize(("token", "stands_for"), [("default", "default"), ("emea", "emea"), ("ops", None)])
async def test_in_the_drop_in_a_token_stands_for_its_account(
    two: Two, monkeypatch: pytest.MonkeyPatch, token: str, stands_for: str | None
) -> None:
    account = None if stands_for is None else ("revor", stands_for)
    found = Identity(name=token, scopes=frozenset({ADMIN}), account=account)
    monkeypatch.setattr("relay.api.access.callers.Access.identify", lambda *_: found)
    api = create_api(two.world.dependencies(passed_paths=("/api/v1/",)), two.world.proxy)
    async with Client(transport=httpx2.ASGITransport(app=api), base_url="http://relay.example") as client:
        await client.get("/api/v1/accounts", headers={"Authorization": f"Bearer {token}"})
    (request,) = two.world.gateway.passed
    assert (request.caller.account, request.caller.bound) == (stands_for or "default", stands_for is not None)
    assert dict(request.headers)[b"authorization"] == f"Bearer {request.caller.key}".encode()


async def test_pull_of_one_account_never_touches_what_another_one_pulls(two: Two) -> None:
    """The store of pulls knows no account: what it is asked for was found through one that does."""
    paths, ids = {}, {}
    for account in ("default", "emea"):
        client = two.client(account)
        made = (await client.post("/v1/subscriptions", json={"protocol": "PULL"})).json()["id"]
        paths[account] = f"/v1/subscriptions/{made}"
        await two.world.poll(await two.world.job(f"pulled of {account}", account=account), "queued")
        two.world.now += 1
        (item,) = (await client.post(f"{paths[account]}/pull")).json()["items"]
        assert item["event"]["account"] == account
        ids[account] = item["delivery_id"]
    client = two.client("default")
    for action in ("pull", "ack", "nack"):
        body = {} if action == "pull" else {"ids": [ids["emea"]]}
        assert (await client.post(f"{paths['emea']}/{action}", json=body)).status_code == 404
    for action in ("ack", "nack"):
        answer = await client.post(f"{paths['default']}/{action}", json={"ids": [ids["emea"]]})
        assert [one["result"] for one in answer.json()["results"]] == ["unknown"]
    answer = await two.client("emea").post(f"{paths['emea']}/ack", json={"ids": [ids["emea"]]})
    assert [one["result"] for one in answer.json()["results"]] == ["acked"]


async def test_a_bound_token_publishes_in_the_name_of_its_own_account_only(two: Two) -> None:
    unseen = Origin(source="https://unseen.example/v1/tasks", type_prefix="com.unseen.job", dataschema="http://x/s")
    mine = two.client("default", origins={("revor", ""): ORIGIN, ("unseen", ""): unseen})
    batch = [{**EVENT, "id": id, **given} for id, given in PUBLISHED.items()]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    answer = (await mine.post("/v1/events", content=orjson.dumps(batch), headers=headers)).json()
    assert [(list(PUBLISHED)[one["index"]], one["code"]) for one in answer["rejected"]] == [
        *(("other", "account_not_allowed"), ("empty", "account_not_allowed")),
        *(("relay", "reserved_source"), ("upstream", "reserved_source"), ("unseen", "reserved_source")),
        ("unseen type", "reserved_type"),
    ]
    found = (await two.client("ops").get("/v1/events", params={"type": EVENT["type"]})).json()["items"]
    assert {one["id"]: one["account"] for one in found} == {"none": "default", "own": "default"}
    alone = await mine.post("/v1/events", content=orjson.dumps(batch[2]), headers={"Content-Type": STRUCTURED})
    assert (alone.status_code, alone.json()["code"]) == (403, "account_not_allowed")


STRUCTURED = "application/cloudevents+json"
EVENT = {"specversion": "1.0", "source": "/shop", "type": "com.acme.order.paid"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "none": {},
    "own": {"account": "default"},
    "other": {"account": "emea"},
    "empty": {"account": ""},
    "relay": {"source": "/relay"},
    "upstream": {"source": "https://revor.ai/api/v1/outreach/jobs"},
    "unseen": {"source": "https://unseen.example/v1/tasks/7"},
    "unseen type": {"type": "com.unseen.job.failed"},
}
