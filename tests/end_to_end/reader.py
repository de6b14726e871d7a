"""Reads back what a bridge has published, with clients and a CloudEvents SDK that share no code with it.

    reader.py kafka PREFIX        all records of all topics that begin so
    reader.py rabbitmq QUEUE      all messages that are in the queue now; they stay there
    reader.py nats STREAM         all messages of the stream

One line of JSON a message:

    topic         topic, routing key or subject
    id            message_id or Nats-Msg-Id; none on Kafka
    key           the record's key; none elsewhere
    persistent    RabbitMQ: whether it is
    millis        the time stamp in milliseconds, where the publisher sets one
    headers       as they came, with content_type of RabbitMQ's properties
    attributes    of the event, as the SDK reads them
    data          of the event, as the SDK reads it
    body          binary mode: the body in Base64
    mode          structured or binary
"""

import asyncio
import base64
import datetime
import json
import os
import sys

import confluent_kafka
import nats
import pika
from cloudevents.core.bindings import amqp, http, kafka
from cloudevents.core.formats.json import JSONFormat

FORMAT = JSONFormat()
STRUCTURED = "application/cloudevents+json"
SECONDS = 30


def var(name):
    return os.environ[f"ALMA_BRIDGE_TEST_{name}"]


def show(event, content_type, body, **more):
    def plain(value):
        return value.isoformat() if isinstance(value, datetime.datetime) else value

    data = event.get_data()
    if isinstance(data, bytes):
        data = {"base64": base64.b64encode(data).decode()}
    structured = content_type.startswith(STRUCTURED)
    line = {
        **more,
        "mode": "structured" if structured else "binary",
        "attributes": {name: plain(value) for name, value in event.get_attributes().items()},
        "data": data,
        "body": base64.b64encode(body).decode(),
    }
    print(json.dumps({name: value for name, value in line.items() if value is not None}))


def read_kafka(prefix):
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": var("KAFKA"), "group.id": "reader", "enable.auto.commit": False,
        "fetch.message.max.bytes": 64 << 20, "receive.message.max.bytes": 128 << 20, "log_level": 0})
    places = [confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING)
              for topic, found in consumer.list_topics(timeout=SECONDS).topics.items() if topic.startswith(prefix)
              for partition in found.partitions]
    left = {}
    for place in places:
        low, high = consumer.get_watermark_offsets(place, timeout=SECONDS)
        if high > low:
            left[(place.topic, place.partition)] = high
    consumer.assign(places)
    while left:
        record = consumer.poll(SECONDS)
        if record is None:
            sys.exit(f"nothing came in {SECONDS} s, there should be more in {sorted(left)}")
        if record.error():
            sys.exit(str(record.error()))
        headers = dict(record.headers() or [])
        event = kafka.from_kafka(kafka.KafkaMessage(headers, record.key(), record.value()), FORMAT)
        show(event, headers["content-type"].decode(), record.value(), topic=record.topic(),
             key=record.key().decode(), millis=record.timestamp()[1],
             headers={name: value.decode() for name, value in headers.items()})
        if record.offset() + 1 >= left.get((record.topic(), record.partition()), record.offset() + 2):
            del left[(record.topic(), record.partition())]
    consumer.close()


def read_rabbitmq(queue):
    host, _, port = var("RABBITMQ").split("/")[2].rpartition(":")
    guest = pika.PlainCredentials("guest", "guest")
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port), "/", guest))
    channel = connection.channel()
    left = channel.queue_declare(queue, passive=True).method.message_count
    # What is not acknowledged goes back when the connection ends.
    while left:
        frame, properties, body = next(channel.consume(queue, inactivity_timeout=SECONDS))
        if frame is None:
            sys.exit(f"nothing came in {SECONDS} s, there should be {left} more in {queue}")
        message = amqp.AMQPMessage({"content-type": properties.content_type}, properties.headers or {}, body)
        show(amqp.from_amqp(message, FORMAT), properties.content_type, body, topic=frame.routing_key,
             id=properties.message_id, persistent=properties.delivery_mode == 2, millis=properties.timestamp * 1000,
             headers={"content_type": properties.content_type, **(properties.headers or {})})
        left -= 1
    connection.close()


async def read_nats(stream):
    client = await nats.connect(var("NATS"))
    jetstream = client.jetstream()
    left = (await jetstream.stream_info(stream)).state.messages
    inbox = await jetstream.subscribe("", stream=stream, ordered_consumer=True) if left else None
    for _ in range(left):
        message = await inbox.next_msg(timeout=SECONDS)
        headers = dict(message.headers or {})
        content_type = headers.get("Content-Type", "")
        if content_type.startswith(STRUCTURED):
            event = FORMAT.read(None, message.data)
        else:
            # The NATS binding takes its headers from HTTP's, but for the content type.
            event = http.from_http(http.HTTPMessage(headers, message.data), FORMAT)
        show(event, content_type, message.data, topic=message.subject, id=headers["Nats-Msg-Id"], headers=headers)
    await client.close()


kind, place = sys.argv[1:]
if kind == "nats":
    asyncio.run(read_nats(place))
else:
    {"kafka": read_kafka, "rabbitmq": read_rabbitmq}[kind](place)
