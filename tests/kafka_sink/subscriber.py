"""A subscriber as docs/subscribe.md describes it: confluent-kafka as the user `limited`, over TLS and SCRAM.

subscriber.py consume TOPIC GROUP COUNT   the keys of COUNT records, one a line; each is committed after it was printed
subscriber.py produce TOPIC               publishes one record
subscriber.py create TOPIC                creates the topic

If the broker refuses something, the last line is `refused: ` and the name of Kafka's error.
"""

import os
import sys

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def var(name):
    return os.environ[f"ALMA_BRIDGE_TEST_{name}"]


def settings(**more):
    return {
        "bootstrap.servers": var("KAFKA_SASL_SSL"), "security.protocol": "SASL_SSL", "ssl.ca.location": var("CA"),
        "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": var("KAFKA_LIMITED_USER"),
        "sasl.password": var("KAFKA_LIMITED_PASSWORD"), "log_level": 0,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def consume(topic, group, count):
    consumer = Consumer(settings(group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"))
    consumer.subscribe([topic])
    try:
        for _ in range(int(count)):
            message = consumer.poll(30)
            if message is None:
                sys.exit("no record within 30 s")
            if message.error():
                raise KafkaException(message.error())
            print(message.key().decode(), flush=True)
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


def produce(topic):
    errors = []
    # Idempotence would need the right to get a producer id, which is not what is asked here.
    producer = Producer(settings(enable_idempotence=False, message_timeout_ms=20_000))
    producer.produce(topic, b"no", on_delivery=lambda error, _: errors.append(error))
    producer.flush(25)
    if errors[0]:
        raise KafkaException(errors[0])


def create(topic):
    admin = AdminClient(settings())  # must live until the result is there
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)


try:
    {"consume": consume, "produce": produce, "create": create}[sys.argv[1]](*sys.argv[2:])
except KafkaException as failure:
    print("refused:", failure.args[0].name())
