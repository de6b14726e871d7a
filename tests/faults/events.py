"""Made-up events of Alma, each the same for the same seed and number."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from dataclasses import dataclass
from typing import Optional

SECRET = b"made-up-secret-of-the-fault-harness"
# The ingress's own bound.
LARGEST = 8 << 20
KIB = 1 << 10

ACTIONS = [("JOB_END", None), ("LOAN", "LOAN_CREATED"), ("LOAN", "LOAN_RETURNED"), ("REQUEST", "REQUEST_CREATED"),
           ("ITEM", "ITEM_UPDATED"), ("BIB", "BIB_UPDATED")]

# What a parser that writes JSON anew would change: blanks, escapes, numbers, a name that is there twice.
TRICKY = (r'"blanks" :  [ 1.50e+01 , -0.0,1E2 ] ,"escapes":"\u00e9\/\ud83d\ude00 é😀","twice":1,"twice":2,'
          r'"deep":{"data":"no,\"data\":end","big":12345678901234567890123},')


@dataclass(frozen=True)
class Event:
    """What is sent, and what tells it apart from all others."""

    number: int
    body: bytes
    signature: str
    digest: str
    # What takes the place of `{action}` in its topic.
    action: str

    @property
    def digits(self) -> str:
        """The end of its CloudEvents id where it has an id of Alma's."""
        return self.digest[:16]


def _size(rng: random.Random) -> int:
    """0.3 KiB to 200 KiB, most of them small."""
    kind = rng.random()
    if kind < 0.70:
        return rng.randint(300, 4 * KIB)
    if kind < 0.92:
        return rng.randint(4 * KIB, 32 * KIB)
    return rng.randint(32 * KIB, 200 * KIB)


def _text(rng: random.Random, length: int) -> str:
    """That many characters that do not compress well."""
    return base64.b64encode(rng.randbytes(length * 3 // 4 + 3)).decode("ascii")[:length]


def _json(rng: random.Random, name: str, size: int) -> tuple:
    action, event = rng.choice(ACTIONS)
    head = f'{{"id":"{name}","action":"{action}","institution":{{"value":"01TEST_INST"}},"time":"2026-01-02T03:04:05Z",'
    if event:
        head += f'"event":{{"value":"{event}"}},'
    head += TRICKY + '"filling":"'
    tail = '"}' + rng.choice(["", "\n", " \r\n"])
    filled = size - len(head.encode()) - len(tail)
    return (head + _text(rng, max(0, filled)) + tail).encode(), action.lower()


def _xml(rng: random.Random, name: str, size: int) -> bytes:
    head = (f'<?xml version="1.0" encoding="UTF-8"?>\n<webhook><id>{name}</id><action>JOB_END</action>'
            f'<!-- é "quoted" \\ and\ttab --><filling>')
    tail = "</filling></webhook>\n"
    return (head + _text(rng, max(0, size - len(head.encode()) - len(tail))) + tail).encode()


def _garbage(rng: random.Random, size: int) -> bytes:
    """Signed by Alma and no event all the same: published as it came, as unparsed."""
    return b"\xff\x00" + rng.randbytes(size)


def make(seed: int, number: int, size: Optional[int] = None) -> Event:
    """Event `number` of the run with this seed; of `size` bytes and JSON where a size is given."""
    rng = random.Random(f"{seed}/{number}")
    name = f"{seed}-{number}"
    kind = rng.random()
    length = size or _size(rng)
    if size or kind < 0.90:
        body, action = _json(rng, name, length)
    elif kind < 0.97:
        body, action = _xml(rng, name, length), "job_end"
    else:
        body, action = _garbage(rng, length), "unparsed"
    signature = base64.b64encode(hmac.new(SECRET, body, hashlib.sha256).digest()).decode("ascii")
    return Event(number, body, signature, hashlib.sha256(body).hexdigest(), action)
