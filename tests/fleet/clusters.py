"""Clusters of three nodes, on ports and in folders of their own.

Reading back is the fault harness's (`tests/faults/places`), with the cluster's addresses in place of the single broker's.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from confluent_kafka.admin import AdminClient

# First: it puts `tests/brokers.d` on the path.
from places.base import RUN, common
from places.kafka import Kafka
from places.nats import Nats
from places.rabbitmq import RabbitMq

import broker_kafka
import broker_nats
import broker_rabbitmq

HOST, Daemon, free_ports, http = common.HOST, common.Daemon, common.free_ports, common.http

NODES = (1, 2, 3)


def tell(**variables: str) -> None:
    """Replaces what `tests/brokers` told of the single broker."""
    os.environ.update({f"ALMA_BRIDGE_TEST_{name}": value for name, value in variables.items()})


class Cluster:
    """Three nodes, mixed into a `Place`. `nodes` are their processes."""

    nodes: list
    # Processes that the nodes need.
    helpers: list = []

    def begin(self) -> None:
        for daemon in [*self.helpers, *self.nodes]:
            daemon.start()
        for daemon in self.nodes:
            daemon.wait_ready()

    def end(self) -> None:
        for daemon in [*self.nodes, *self.helpers]:
            daemon.end(graceful=False)

    def in_sync(self) -> bool:
        """Whether every node has all that was confirmed, so that another may be killed."""
        return True

    def grant(self) -> None:
        """There are no users on these clusters."""

    revoke = grant


class NatsCluster(Cluster, Nats):
    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        programs, _ = broker_nats.programs()
        ports = free_ports([f"{kind}{node}" for kind in ("client", "monitor", "route") for node in NODES])
        routes = ", ".join(f'"nats://{HOST}:{ports[f"route{node}"]}"' for node in NODES)
        self.urls = [f"nats://{HOST}:{ports[f'client{node}']}" for node in NODES]
        self.nodes = []
        for node in NODES:
            config = RUN.write(RUN.path("fleet", f"nats-{node}.conf"), (
                f'server_name: fleet-{node}\nlisten: "{HOST}:{ports[f"client{node}"]}"\n'
                f'http: "{HOST}:{ports[f"monitor{node}"]}"\nmax_payload: 64MB\n'
                f'jetstream {{ store_dir: "{RUN.path("fleet", f"nats-{node}")}", max_file_store: 16GB }}\n'
                f'cluster {{ name: fleet, listen: "{HOST}:{ports[f"route{node}"]}", routes: [{routes}] }}\n'))
            health = f"http://{HOST}:{ports[f'monitor{node}']}/healthz"
            self.nodes.append(Daemon(RUN, f"fleet-nats-{node}", [programs / "nats-server", "-c", config],
                                     lambda _, health=health: http(health) == 200))
        tell(NATS=self.urls[0])

    def sink(self, _proxy_port: int) -> str:
        servers = ", ".join(f'"{url}"' for url in self.urls)
        return f'type = "nats"\nservers = [{servers}]\nstream = "{self.stream}"\nreplicas = 3\n'

    def in_sync(self) -> bool:
        # A node's /healthz says 200 only when its copy of each stream is current.
        return all(daemon.ready(0) for daemon in self.nodes)


KAFKA = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{client},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{client}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
replica.fetch.max.bytes=33554432
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
"""


class KafkaCluster(Cluster, Kafka):
    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        libs, _ = broker_kafka.jars()
        ports = free_ports([f"{kind}{node}" for kind in ("client", "controller") for node in NODES])
        voters = ",".join(f"{node}@{HOST}:{ports[f'controller{node}']}" for node in NODES)
        identity = broker_kafka._cluster_id()
        java = [broker_kafka._java(), "-XX:+UseSerialGC", "-Djava.awt.headless=true", "-cp", f"{libs}/*"]
        self.addresses = [f"{HOST}:{ports[f'client{node}']}" for node in NODES]
        self.nodes = []
        for node in NODES:
            config = RUN.write(RUN.path("fleet", f"kafka-{node}.properties"), KAFKA.format(
                node=node, voters=voters, host=HOST, client=ports[f"client{node}"],
                controller=ports[f"controller{node}"], data=RUN.path("fleet", f"kafka-{node}")))
            subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", identity, "-c", config], check=True,
                           stdout=subprocess.DEVNULL)
            daemon = Daemon(RUN, f"fleet-kafka-{node}", [java[0], "-Xms64m", "-Xmx256m", *java[1:], "kafka.Kafka", config])
            daemon.ready = lambda begins, daemon=daemon: daemon.said("Kafka Server started", begins)
            self.nodes.append(daemon)
        self._settings["bootstrap.servers"] = ",".join(self.addresses)

    def sink(self, _proxy_port: int) -> str:
        brokers = ", ".join(f'"{address}"' for address in self.addresses)
        return f'type = "kafka"\nbrokers = [{brokers}]\nreplication = 3\n'

    def set_up(self) -> None:
        """Nothing: the bridges create the topics."""

    def in_sync(self) -> bool:
        topics = AdminClient(self._settings).list_topics(timeout=10).topics.values()
        return all(len(part.isrs) == len(part.replicas) for topic in topics for part in topic.partitions.values())


RABBITMQ = """
listeners.tcp.1 = {host}:{amqp}
management.tcp.ip = {host}
management.tcp.port = {api}
default_user = guest
default_pass = guest
default_user_tags.administrator = true
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
cluster_formation.peer_discovery_backend = classic_config
{nodes}
log.console = true
log.file = false
"""


class RabbitMqCluster(Cluster, RabbitMq):
    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        tree = broker_rabbitmq._chosen(RUN)
        ports = free_ports(["epmd", *(f"{kind}{node}" for kind in ("amqp", "api", "dist") for node in NODES)])
        of = {node: {"epmd": ports["epmd"], **{kind: ports[f"{kind}{node}"] for kind in ("amqp", "api", "dist")}}
              for node in NODES}
        peers = "\n".join(f"cluster_formation.classic_config.nodes.{node} = alma-{of[node]['amqp']}@localhost"
                          for node in NODES)
        server = next(tree.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
        home = RUN.path("fleet", "home")
        home.mkdir(parents=True, exist_ok=True)
        # All nodes have the same cookie, or they would not talk to each other.
        RUN.write(home / ".erlang.cookie", "FLEETFLEETFLEETFLEET").chmod(0o400)
        self.nodes, self.ports = [], [of[node]["amqp"] for node in NODES]
        for node in NODES:
            own = type(RUN)(RUN.path("fleet", f"rabbitmq-{node}"))
            for part in ("data", "log"):
                own.path("rabbitmq", part).mkdir(parents=True, exist_ok=True)
            env = dict(broker_rabbitmq._environment(own, tree, of[node]), HOME=str(home))
            own.write(own.path("rabbitmq", "enabled_plugins"), "[rabbitmq_management].\n")
            own.write(own.path("rabbitmq", "rabbitmq.conf"), RABBITMQ.format(host=HOST, nodes=peers, **of[node]))
            check = f"http://{HOST}:{of[node]['api']}/api/health/checks/port-listener/{of[node]['amqp']}"
            self.nodes.append(Daemon(RUN, f"fleet-rabbitmq-{node}", [server], lambda _, check=check: self._asks(check), env))
        self.helpers = [Daemon(RUN, "fleet-rabbitmq-epmd", [tree / "usr/lib/erlang/bin/epmd", "-address", HOST, "-port",
                                                           str(ports["epmd"])], env=env)]
        tell(RABBITMQ=f"amqp://{HOST}:{self.ports[0]}/%2f", RABBITMQ_API=f"http://{HOST}:{of[1]['api']}",
             RABBITMQ_ADMIN_USER="guest", RABBITMQ_ADMIN_PASSWORD="guest")

    @staticmethod
    def _asks(url: str) -> bool:
        return http(url, headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="}) == 200

    def sink(self, proxy_port: int) -> str:
        return f'type = "rabbitmq"\nurl = "amqp://127.0.0.1:{proxy_port}/%2f"\nexchange = "{self.prefix}"\n'

    def after_start(self) -> None:
        """Subscribes with a quorum queue, which has a copy on each node."""
        quorum = {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3}
        self._on_channel("queue", lambda channel: channel.queue_declare(self.queue, durable=True, arguments=quorum))
        self._on_channel("binding", lambda channel: channel.queue_bind(self.queue, self.prefix, "#"))

    def in_sync(self) -> bool:
        running = [node for node in self._api("GET", "nodes") if node["running"]]
        queues = self._api("GET", "queues/%2f")
        # A bridge makes the queue of the alternate exchange, before or after a node is down.
        whole = all(len(queue.get("online", [])) == len(NODES) for queue in queues if queue["name"] == self.queue)
        return len(running) == len(NODES) and whole


CLUSTERS = {"kafka": KafkaCluster, "nats": NatsCluster, "rabbitmq": RabbitMqCluster}
