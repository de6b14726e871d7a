"""Reads queues and steers the broker for the tests of the RabbitMQ sink, by pika and the management API.

    reader.py read QUEUE                  one line of JSON a message, which is acknowledged
    reader.py api METHOD PATH [JSON]      the answer of the management API, nothing where there is none; what is to be
                                          deleted may be gone
    reader.py alarm on|off                sets or ends the memory alarm, which blocks publishers
"""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pika


def var(name):
    return os.environ[f"ALMA_BRIDGE_TEST_{name}"]


def read(queue):
    host, _, port = var("RABBITMQ").split("/")[2].rpartition(":")
    guest = pika.PlainCredentials("guest", "guest")
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port), "/", guest))
    channel = connection.channel()
    while True:
        frame, properties, body = channel.basic_get(queue)
        if frame is None:
            break
        known = {name: value for name, value in vars(properties).items() if value is not None}
        print(json.dumps({"key": frame.routing_key, "exchange": frame.exchange, "size": len(body),
                          "body": body.decode() if len(body) < 10_000 else None, **known}))
        channel.basic_ack(frame.delivery_tag)
    connection.close()


def api(method, path, body=None):
    login = f"{var('RABBITMQ_ADMIN_USER')}:{var('RABBITMQ_ADMIN_PASSWORD')}".encode()
    request = urllib.request.Request(
        f"{var('RABBITMQ_API')}/api/{path}", method=method, data=body and body.encode(),
        headers={"Authorization": f"Basic {base64.b64encode(login).decode()}", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        if (method, error.code) != ("DELETE", 404):
            raise


def alarm(state):
    mark = ["0.0000001"] if state == "on" else ["absolute", "1GB"]
    subprocess.run([var("BROKERS"), "rabbitmqctl", "set_vm_memory_high_watermark", *mark], check=True, stdout=sys.stderr)


{"read": read, "api": api, "alarm": alarm}[sys.argv[1]](*sys.argv[2:])
