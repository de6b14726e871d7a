"""The brokers as the harness sees them: how to start and end one, how to spoil it, and how to read it back.

All of it works by clients that share no code with the bridge, and none of it goes through the proxy.
"""

from __future__ import annotations

from places.base import Place, common
from places.kafka import Kafka
from places.nats import Nats
from places.rabbitmq import RabbitMq

PLACES = {"kafka": Kafka, "rabbitmq": RabbitMq, "nats": Nats}

__all__ = ["PLACES", "Place", "common"]
