"""Apache Kafka in KRaft mode: one node, its jars from Maven Central."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import subprocess
import uuid
from pathlib import Path

import certs
from common import HOST, Daemon, Failure, Run, cached, free_ports, need, stage, tool

# kafka-tools (kafka-acls, kafka-topics) must be of the broker's version; 4.4.0 has none on Maven Central.
VERSION = "4.3.1"
# The binding of slf4j-api 1.7, which Kafka uses: without one the broker logs nothing.
SLF4J = "1.7.36"

TOOLS = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
}

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>alma-bridge</groupId><artifactId>test-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{slf4j}</version></dependency>
  </dependencies>
</project>
"""

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{plain},SASL_SSL://{host}:{sasl_ssl},SSL://{host}:{ssl},PROXIED://{host}:{proxied},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{plain},SASL_SSL://{host}:{sasl_ssl},SSL://{host}:{ssl},PROXIED://{host}:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}

ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
listener.name.ssl.ssl.client.auth=required

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="{admin_password}" user_limited="{limited_password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.proxied.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.proxied.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin;User:{client}

# A topic is there because somebody made it, with the settings that they chose.
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0

# After a kill -9 the broker cannot register before its old session has ended.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
"""


def jars() -> tuple:
    """The folder of the jars, fetched if it is not in the cache."""
    def make(folder: Path, _final: Path) -> None:
        pom = folder / "pom.xml"
        pom.write_text(POM.format(kafka=VERSION, slf4j=SLF4J), encoding="utf-8")
        tool([need("mvn", "maven"), "-B", "-ntp", "-q", "-f", pom, "dependency:copy-dependencies",
              f"-DoutputDirectory={folder / 'libs'}"], low=True)

    folder, had = cached(f"kafka-{VERSION}", make)
    return folder / "libs", had


def _cluster_id() -> str:
    """An id as Kafka makes them: never one that begins like an option, which its own tool would not take."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if not text.startswith("-"):
            return text


def _settings() -> dict:
    return {
        "ports": free_ports(["plain", "sasl_ssl", "ssl", "proxied", "proxy", "controller"]),
        "admin_password": secrets.token_hex(12),
        "limited_password": secrets.token_hex(12),
        "cluster": _cluster_id(),
    }


def _java() -> str:
    return need("java", "default-jre-headless")


def _configure(run: Run, libs: Path) -> None:
    """Writes the configuration and formats the storage, once."""
    if run.path("kafka", "formatted").exists():
        return
    settings = run.settings("kafka", _settings)
    folder = run.path("kafka")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    made = run.path("certs")
    # Kafka wants key, certificate and chain in one file.
    keystore = run.write(folder / "keystore.pem", "".join(
        (made / name).read_text(encoding="ascii") for name in ("server.key", "server.pem", "ca.pem")))
    properties = run.write(folder / "server.properties", PROPERTIES.format(
        host=HOST, data=folder / "data", keystore=keystore, ca=made / "ca.pem", client=certs.CLIENT,
        admin_password=settings["admin_password"], limited_password=settings["limited_password"],
        **settings["ports"]))
    scram: list = []
    for user in ("admin", "limited"):
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            scram += ["--add-scram", f"{mechanism}=[name={user},password={settings[f'{user}_password']}]"]
    tool([_java(), "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "format",
          "-t", settings["cluster"], "-c", properties, *scram])
    run.write(folder / "formatted", "")


def daemons(run: Run) -> list:
    libs, _ = jars()
    argv = [_java(), "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-cp", f"{libs}/*", "kafka.Kafka", run.path("kafka", "server.properties")]
    daemon = Daemon(run, "kafka", argv, lambda begins: daemon.said("Kafka Server started", begins))
    return [daemon]


def prepare(run: Run) -> str:
    """Gets the jars and makes the configuration; the version."""
    with stage("kafka", f"jars of Kafka {VERSION}") as remarks:
        _, had = jars()
        remarks.append("cached" if had else "fetched")
    if not run.path("kafka", "formatted").exists():
        with stage("kafka", "storage formatted"):
            _configure(run, jars()[0])
    return VERSION


def after_start(_run: Run) -> None:
    """Nothing: users are part of the format, and rights are the tests' matter."""


# What the tmpfs of [disk] holds at most. Only what is used takes memory.
DISK = 8 << 30
# What a full one leaves to a broker that writes while it is made full: soon gone.
LEFT = 256 << 10


def disk(run: Run, state: str) -> None:
    """Puts the log directory of the broker, which must be down, on a disk of its own (`own`); leaves that disk
    256 KiB (`full`); gives it room again (`roomy`). Only as root. `down` takes the disk away."""
    data = run.path("kafka", "data")
    if state == "own":
        if os.path.ismount(data):
            return
        aside = run.path("kafka", "data.aside")
        data.rename(aside)
        data.mkdir(mode=0o700)
        tool(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "alma-bridge-kafka", data])
        tool(["cp", "-a", f"{aside}/.", data])
        shutil.rmtree(aside)
        return
    if not os.path.ismount(data):
        raise Failure("the log directory is on no disk of its own: `kafka-disk own` first")

    def resize(size: int) -> None:
        tool(["mount", "-o", f"remount,size={size}", data])

    if state == "roomy":
        resize(DISK)
        return
    for left in range(LEFT, 20 * LEFT, LEFT):
        usage = os.statvfs(data)
        # Refused where the broker has meanwhile written more than what would be left.
        with contextlib.suppress(Failure):
            resize((usage.f_blocks - usage.f_bfree) * usage.f_frsize + left)
            return
    raise Failure("the log directory grows too fast to be made full")


def variables(run: Run) -> dict:
    settings = run.settings("kafka")
    ports = settings["ports"]
    return {
        "KAFKA": f"{HOST}:{ports['plain']}",
        "KAFKA_SASL_SSL": f"{HOST}:{ports['sasl_ssl']}",
        "KAFKA_SSL": f"{HOST}:{ports['ssl']}",
        "KAFKA_PROXIED": f"{HOST}:{ports['proxied']}",
        "KAFKA_PROXY": f"{HOST}:{ports['proxy']}",
        "KAFKA_ADMIN_USER": "admin",
        "KAFKA_ADMIN_PASSWORD": settings["admin_password"],
        "KAFKA_LIMITED_USER": "limited",
        "KAFKA_LIMITED_PASSWORD": settings["limited_password"],
    }


def run_tool(name: str, arguments: list, bootstrap: str) -> int:
    """Runs one of Kafka's own tools against the broker; its exit code."""
    libs, _ = jars()
    if "--bootstrap-server" not in arguments:
        arguments = ["--bootstrap-server", bootstrap, *arguments]
    argv = [_java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libs}/*", TOOLS[name], *arguments]
    try:
        return subprocess.run(argv, check=False, env=os.environ).returncode
    except OSError as error:
        raise Failure(f"cannot run {argv[0]}: {error}") from error
