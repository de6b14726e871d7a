"""A subscriber as docs/subscribe.md describes it: nats-py, with an inbox prefix of its own.

subscriber.py URL INBOX add STREAM DURABLE SUBJECT [FILTER]   creates a durable pull consumer; FILTER is the filter that it
                                                              really asks for, if not SUBJECT
subscriber.py URL INBOX next STREAM DURABLE COUNT             the subjects of COUNT messages, one a line; each is
                                                              acknowledged after it was printed
subscriber.py URL INBOX request SUBJECT                       an empty request; prints the answer
subscriber.py URL INBOX listen SUBJECT

If the server refuses something, the last line is `refused: ` and its words.
"""

import asyncio
import json
import sys

import nats


async def add(client, stream, durable, subject, asked=None):
    config = {"durable_name": durable, "filter_subject": asked or subject, "ack_policy": "explicit"}
    body = json.dumps({"stream_name": stream, "config": config}).encode()
    answer = await client.request(f"$JS.API.CONSUMER.CREATE.{stream}.{durable}.{subject}", body, timeout=20)
    error = json.loads(answer.data).get("error")
    if error:
        print("refused:", error["description"])


async def take(client, stream, durable, count):
    await client.jetstream().consumer_info(stream, durable)  # as most clients do first
    consumer = await client.jetstream().pull_subscribe_bind(durable, stream)
    for _ in range(int(count)):
        [message] = await consumer.fetch(1, timeout=20)
        print(message.subject, flush=True)
        await message.ack_sync(timeout=20)


async def request(client, subject):
    print((await client.request(subject, b"", timeout=20)).data.decode())


async def listen(client, subject):
    await client.subscribe(subject)
    await asyncio.sleep(20)  # a refusal comes at once, and ends this


VERBS = {"add": add, "next": take, "request": request, "listen": listen}


async def main(url, inbox, verb, *arguments):
    refused = asyncio.get_running_loop().create_future()

    async def report(error):
        # The server refuses a subject by a message of its own, and the request would wait for its time-out.
        if not refused.done():
            refused.set_result(error)

    client = await nats.connect(url, inbox_prefix=inbox, error_cb=report)
    work = asyncio.create_task(VERBS[verb](client, *arguments))
    await asyncio.wait([work, refused], return_when=asyncio.FIRST_COMPLETED)
    if refused.done():
        work.cancel()
        print("refused:", refused.result())
    else:
        work.result()
    await client.close()


asyncio.run(main(*sys.argv[1:]))
