"""Kinds of brokers: where an event goes, its key and its content, read by the CloudEvents SDK."""

from dataclasses import replace
from itertools import islice
from urllib.parse import quote

import pytest
from cloudevents.core.bindings import amqp as sdk_amqp
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.formats.json import JSONFormat

from relay.core.deliveries.broker import Login
from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Response
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest, NotRenderable
from subscribers import base
from subscribers.common.brokers import ToBroker
from subscribers.kafka import Kafka
from subscribers.nats import Nats
from subscribers.rabbitmq import RabbitMq
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.kind_checks import check
from tests.support.scale import scaled

CONTEXT = base.RenderContext()
DATA = {"deal": 42, "text": "ü"}
DOCUMENT = {
    **{"specversion": "1.0", "id": "evt_1", "source": "https://x.example/jobs", "type": "ai.revor.job.failed"},
    **{"subject": "j 1.2*", "time": "2026-05-20T10:00:08Z", "datacontenttype": "application/json"},
    **{"partitionkey": "j1", "channel": "linkedin", "status": "failed", "data": DATA},
}
EVENT = Event(
    id="evt_1",
    source="https://x.example/jobs",
    type="ai.revor.job.failed",
    subject="j 1.2*",
    time=1.0,
    recorded_at=1.0,
    body=dumps(DOCUMENT),
    job_uid="job_1",
)
SINKS = {"kafka": "kafkas://k.example:9093", "nats": "tls://n.example", "rabbitmq": "amqps://r.example/v"}
SETTINGS = {
    "kafka": {"topicname": "jobs"},
    "nats": {"subject": "jobs.{{ event.channel }}.{{ event.status }}"},
    "rabbitmq": {"address": "/exchanges/jobs/{{ event.channel }}"},
}
KINDS: tuple[ToBroker, ...] = (Kafka(), Nats(), RabbitMq())
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def subscription(kind: ToBroker, *, settings: dict[str, str] | None = None, **changes: object) -> Subscription:
    options = {"protocolsettings": SETTINGS[kind.name] if settings is None else settings, **changes.pop("options", {})}  # type: ignore[dict-item]
    return Subscription(id="sub_1", sink=SINKS[kind.name], kind=kind.name, options=options, **changes)  # type: ignore[arg-type]


def needed(kind: ToBroker) -> str:
    return kind.settings.needed()


def errors_of(kind: ToBroker, made: Subscription) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        check(kind, made)
    return {error.pointer: error.code for error in caught.value.errors}


def test_destinations_come_from_templates():
    kafka, nats, rabbit = (kind.message(EVENT, subscription(kind), CONTEXT) for kind in KINDS)
    assert (kafka.destination, kafka.key) == ("jobs", "j1")
    assert dict(kafka.headers)["webhook-id"] == "evt_1"
    assert nats.destination == "jobs.linkedin.failed"
    assert (rabbit.exchange, rabbit.destination) == ("jobs", "linkedin")


@pytest.mark.parametrize(
    ("kind", "settings", "pointer"),
    [
        (Kafka(), {"topicname": "{{ event.group }}"}, "/protocolsettings/topicname"),
        (Nats(), {"subject": "jobs.{{ data.long }}"}, "/protocolsettings/subject"),
        (RabbitMq(), {"address": "/queues/{{ event.group }}"}, "/protocolsettings/address"),
    ],
)
def test_destination_that_the_broker_would_refuse_is_not_rendered(kind, settings, pointer):
    event = replace(EVENT, body=dumps({**DOCUMENT, "data": {"long": "x" * 600}}))
    with pytest.raises(NotRenderable) as caught:
        kind.message(event, subscription(kind, settings=settings), CONTEXT)
    assert [error.pointer for error in caught.value.errors] == [pointer]


@pytest.mark.parametrize(
    ("kind", "settings", "subject"),
    [
        (Kafka(), {"topicname": "{{ event.subject }}"}, "__consumer_offsets"),
        (Kafka(), {"topicname": "{{ event.subject }}"}, "$_transaction_state"),
        (Nats(), {"subject": "{{ event.subject }}"}, "$JS.API.STREAM.DELETE.X"),
        (Nats(), {"subject": "{{ event.subject }}.{{ event.status }}"}, "$SYS.REQ"),
        (Nats(), {"subject": "{{ event.subject }}"}, ".._INBOX.of.another"),
        (RabbitMq(), {"address": "/exchanges/{{ event.subject }}/x"}, "amq.fanout"),
        (RabbitMq(), {"address": "/queues/{{ event.subject | url_decode }}"}, "%61mq.rabbitmq.reply-to.g1h2"),
    ],
)
def test_event_cannot_choose_a_place_that_is_the_brokers_own(kind, settings, subject):
    event = replace(EVENT, body=dumps({**DOCUMENT, "subject": subject}))
    with pytest.raises(NotRenderable) as caught:
        kind.message(event, subscription(kind, settings=settings), CONTEXT)
    assert [error.pointer for error in caught.value.errors] == [f"/protocolsettings/{next(iter(settings))}"]


@pytest.mark.parametrize(
    ("kind", "settings", "place"),
    [
        (Kafka(), {"topicname": "jobs.{{ event.subject }}"}, ("", "jobs.a.__b___c__2F")),
        (Nats(), {"subject": "jobs.{{ event.subject }}"}, ("", "jobs.a.__b_$_c/%2F")),
        (RabbitMq(), {"address": "/exchanges/amq.topic/jobs.{{ event.subject }}"}, ("amq.topic", "jobs.a.__b>$*c/%2F")),
        (RabbitMq(), {"address": "/queues/{{ event.subject }}"}, ("", "a.__b>$*c/%2F")),
    ],
)
def test_event_stays_behind_the_words_that_the_setting_begins_with(kind, settings, place):
    event = replace(EVENT, body=dumps({**DOCUMENT, "subject": "a.__b>$*c/%2F"}))
    message = kind.message(event, subscription(kind, settings=settings), CONTEXT)
    assert (message.exchange, message.destination) == place


def test_binary_mode_of_kafka_is_read_by_the_sdk():
    message = Kafka().message(EVENT, subscription(Kafka(), options={"content_mode": "binary"}), CONTEXT)
    headers = {name: value.encode() for name, value in message.headers}
    read = sdk_kafka.from_binary(sdk_kafka.KafkaMessage(headers=headers, key=b"j1", value=message.body), JSONFormat())
    assert (read.get_id(), read.get_data()) == ("evt_1", DATA)
    assert read.get_subject() == "j 1.2*"


def test_binary_mode_of_rabbitmq_is_read_by_the_sdk():
    message = RabbitMq().message(EVENT, subscription(RabbitMq(), options={"content_mode": "binary"}), CONTEXT)
    read = sdk_amqp.from_binary(
        sdk_amqp.AMQPMessage(
            properties={"content-type": message.content_type},
            application_properties=dict(message.headers),
            application_data=message.body,
        ),
        JSONFormat(),
    )
    assert (read.get_id(), read.get_data(), read.get_subject()) == ("evt_1", DATA, "j 1.2*")


SEED = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY"


PLAIN = {"credentialtype": "PLAIN", "identifier": "me", "secret": "s"}
BEARER = {"credentialtype": "ACCESSTOKEN", "accesstoken": "t"}
SCRAM = {"saslmechanism": "SCRAM-SHA-512"}


@pytest.mark.parametrize(
    ("kind", "fields", "settings", "login"),
    [
        (Kafka(), PLAIN, {}, Login(name="me", secret="s")),
        (Kafka(), PLAIN, SCRAM, Login(name="me", secret="s", mechanism="SCRAM-SHA-512")),
        (Kafka(), BEARER, {}, Login(secret="t", mechanism="OAUTHBEARER")),
        (Nats(), BEARER, {}, Login(secret="t")),
        (Nats(), {"credentialtype": "NKEY", "seed": SEED}, {}, Login(secret=SEED, mechanism="NKEY")),
        (RabbitMq(), PLAIN, {}, Login(name="me", secret="s")),
    ],
)
def test_credential_is_the_brokers_login(kind, fields, settings, login):
    credential = SinkCredential(id="c", origin=origin_text(SINKS[kind.name]), fields=fields)
    made = subscription(kind, settings={**SETTINGS[kind.name], **settings}, credential=credential)
    check(kind, made)
    assert kind.broker(made).login == login
    assert kind.broker(replace(made, sink=SINKS[kind.name].replace(".example", ".evil"))).login is None


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(None, "delivered"), ("timeout", "retry"), ("no_stream", "retry"), ("behind", "retry"), ("too_large", "dead")],
)
@EACH
def test_acknowledgement_decides(kind, error, verdict):
    assert kind.classify(Response(started_at=1.0, duration_ms=1.0, error=error), 1.0).verdict == verdict


def test_kafka_sends_no_secret_in_the_clear():
    sink = "kafka://127.0.0.1:9092"
    for fields, settings in ((PLAIN, {}), (BEARER, {}), (PLAIN, SCRAM)):
        credential = SinkCredential(id="c", origin=origin_text(sink), fields=fields)
        made = subscription(Kafka(), settings={"topicname": "jobs", **settings}, credential=credential)
        if settings:
            check(Kafka(), replace(made, sink=sink))
        else:
            assert errors_of(Kafka(), replace(made, sink=sink)) == {"/sinkcredential": "credential_unsuitable"}


HOSTILE_SETTINGS = {
    "kafka": {"topicname": "jobs.{{ event.subject }}", "partitionkeyextractor": "{{ event.subject }}"},
    "nats": {"subject": "jobs.{{ event.subject }}.{{ event.channel }}"},
    "rabbitmq": {"address": "/exchanges/jobs/{{ event.subject }}"},
}


@EACH
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_hostile_texts_give_a_message_that_the_broker_takes_or_none(kind, mode):
    made = subscription(kind, settings=HOSTILE_SETTINGS[kind.name], options={"content_mode": mode})
    taken, refused = 0, set[str]()
    for text in TEXTS:
        for event in islice(events_with(text, part=len(text), parts=9), scaled(2, 8)):
            try:
                message = kind.message(event, made, CONTEXT)
            except NotRenderable as error:
                refused |= {one.pointer for one in error.errors}
                continue
            taken += 1
            assert message == kind.message(event, made, CONTEXT)
            place = f"/exchanges/jobs/{quote(message.destination, safe='')}"
            name = needed(kind)
            assert kind.problem_of(name, place if kind.name == "rabbitmq" else message.destination) is None
            for header, value in message.headers:
                assert header.isascii()
                if value != message.id:  # which the relay makes
                    value.encode()
                    assert not set(value) & {"\r", "\n", "\0"} or kind.name != "nats"
    assert taken > len(TEXTS) / 2
    assert all(pointer.startswith("/protocolsettings/") for pointer in refused)


def test_binary_mode_of_nats_encodes_values_and_names_the_type_of_the_data():
    event = replace(
        EVENT, body=dumps({**DOCUMENT, "subject": 'Euro € "x" 100%', "datacontenttype": "application/json"})
    )
    made = subscription(Nats(), options={"content_mode": "binary"})
    headers = dict(Nats().message(event, made, CONTEXT).headers)
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%22x%22%20100%25"
    assert headers["ce-datacontenttype"] == "application/json"
    assert "content-type" not in headers
    assert dict(Nats().message(event, subscription(Nats()), CONTEXT).headers) == {
        "content-type": "application/cloudevents+json",
        "webhook-id": "evt_1",
    }


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"datacontenttype": "application/" + "x" * 300, "data": "x"}, "/datacontenttype"),
        ({f"x{n}": "y" * 4_000 for n in range(20)}, ""),
    ],
)
def test_headers_that_no_frame_of_rabbitmq_takes_are_refused_before_they_break_the_connection(changes, pointer):
    event = replace(EVENT, body=dumps({**DOCUMENT, **changes}))
    made = subscription(RabbitMq(), options={"content_mode": "binary"})
    with pytest.raises(NotRenderable) as caught:
        RabbitMq().message(event, made, CONTEXT)
    assert [error.pointer for error in caught.value.errors] == [pointer]
    assert RabbitMq().message(event, subscription(RabbitMq()), CONTEXT).body == event.body
