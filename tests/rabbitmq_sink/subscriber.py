"""A subscriber as docs/subscribe.md describes it: pika as the user `limited`.

subscriber.py declare QUEUE            a durable quorum queue
subscriber.py bind QUEUE EXCHANGE KEY
subscriber.py consume QUEUE COUNT      the ids of COUNT messages, one a line; each is acknowledged after it was printed
subscriber.py publish EXCHANGE KEY
subscriber.py delete EXCHANGE

If the broker refuses something, the last line is `refused: ` and its words.
"""

import os
import sys

import pika


def var(name):
    return os.environ[f"ALMA_BRIDGE_TEST_{name}"]


def consume(channel, queue, count):
    channel.basic_qos(prefetch_count=1)
    left = int(count)
    for frame, properties, _ in channel.consume(queue, inactivity_timeout=30):
        if frame is None:
            sys.exit("no message within 30 s")
        print(properties.message_id, flush=True)
        channel.basic_ack(frame.delivery_tag)
        left -= 1
        if not left:
            return


def publish(channel, exchange, key):
    channel.confirm_delivery()
    channel.basic_publish(exchange, key, b"no")


VERBS = {
    "declare": lambda channel, queue: channel.queue_declare(queue, durable=True,
                                                            arguments={"x-queue-type": "quorum"}),
    "bind": lambda channel, queue, exchange, key: channel.queue_bind(queue, exchange, key),
    "consume": consume,
    "publish": publish,
    "delete": lambda channel, exchange: channel.exchange_delete(exchange),
}
host, _, port = var("RABBITMQ").split("/")[2].rpartition(":")
login = pika.PlainCredentials(var("RABBITMQ_LIMITED_USER"), var("RABBITMQ_LIMITED_PASSWORD"))
connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port), "/", login))
try:
    VERBS[sys.argv[1]](connection.channel(), *sys.argv[2:])
except pika.exceptions.ChannelClosedByBroker as failure:
    print("refused:", failure.reply_text)
connection.close()
