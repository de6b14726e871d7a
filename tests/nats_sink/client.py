"""Looks at JetStream with nats-py, which shares no code with the sink.

client.py URL read STREAM        one JSON line a message: subject, headers (first value of each), data in Base64
client.py URL info STREAM        the stream's configuration as JSON
client.py URL delete STREAM
client.py URL purge STREAM
client.py URL lose STREAM/N      deletes the message with sequence number N
client.py URL add CONFIG         CONFIG is the JSON of $JS.API.STREAM.CREATE
"""

import asyncio
import base64
import json
import sys

import nats


async def ask(client, verb, stream, body=b""):
    answer = json.loads((await client.request(f"$JS.API.STREAM.{verb}.{stream}", body, timeout=10)).data)
    if "error" in answer:
        sys.exit(f"{verb} {stream}: {answer['error']}")
    return answer


async def read(client, stream):
    left = (await ask(client, "INFO", stream))["state"]["messages"]
    jetstream = client.jetstream()
    if not left:
        return
    inbox = await jetstream.subscribe("", stream=stream, ordered_consumer=True)
    while left:
        message = await inbox.next_msg(timeout=20)
        print(json.dumps({"subject": message.subject, "headers": dict(message.headers or {}),
                          "data": base64.b64encode(message.data).decode()}))
        left -= 1


async def main(url, verb, argument):
    client = await nats.connect(url)
    if verb == "read":
        await read(client, argument)
    elif verb == "info":
        print(json.dumps((await ask(client, "INFO", argument))["config"], sort_keys=True))
    elif verb in ("delete", "purge"):
        await ask(client, verb.upper(), argument)
    elif verb == "lose":
        stream, sequence = argument.split("/")
        await ask(client, "MSG.DELETE", stream, json.dumps({"seq": int(sequence)}).encode())
    else:
        await ask(client, "CREATE", json.loads(argument)["name"], argument.encode())
    await client.close()


asyncio.run(main(*sys.argv[1:]))
