"""A cell on this machine, all of it real and on loopback: Redis, sentinels, nodes, and a forwarder that
stands for a load balancer or a name that is moved."""

import asyncio
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

SECRET = "a secret of the drills, of no use elsewhere"
PATIENCE = 60.0  # Seconds: longer than anything takes on a loaded machine.

CONFIGURATION = """
workers = 2
[listen]
public = "127.0.0.1:{public}"
admin = "127.0.0.1:{admin}"
trusted_proxies = ["127.0.0.1/32"]
[log]
level = "warn"
[broker]
kind = "redis"
[redis]
url = "{redis}"
min_replicas_ack = {min_replicas_ack}
[limits]
messages_per_second = 0
[[auth.keys]]
algorithm = "HS256"
secret = "{secret}"
[[namespaces]]
name = "topic"
match = "/topic/**"
history = {{ size = 20000, ttl = "10m" }}
[[policy.rules]]
effect = "allow"
actions = ["subscribe", "publish", "history"]
destination = "/topic/**"
authenticated = true
"""


# What a relay needs on top, in the cell that it relays to.
RELAY = """
[relay]
cell = "b"
source_cell = "a"
namespaces = ["topic"]
scan_interval = "1s"
lease = "3s"
[relay.source]
url = "{source}"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Servers of a cluster also take the port 10,000 above.
    return port if port < 55000 else free_port()


def eventually(what, condition, patience=PATIENCE):
    """Polls until it holds; what it then was."""
    until = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise TimeoutError(f"never came true: {what}")
        time.sleep(0.05)


class Process:
    """A program of the cell, with its output in a file."""

    def __init__(self, cell, name, command, folder=None):
        self.cell, self.name, self.command = cell, name, [str(word) for word in command]
        self.folder = folder or cell.folder
        self.running = None
        cell.processes.append(self)
        self.start()

    def start(self):
        with open(self.cell.folder / f"{self.name}.log", "ab") as log:
            self.running = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder)

    def signal(self, number):
        self.running.send_signal(number)

    def kill(self):
        """As a machine that is gone: no farewell, nothing written."""
        if self.running.poll() is None:
            self.running.kill()
        self.running.wait()

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)


class Redis(Process):
    """A Redis server that keeps nothing, or what `options` say, in a folder of its own."""

    def __init__(self, cell, name, *options):
        self.port = free_port()
        home = cell.folder / name
        home.mkdir()
        common = ["--bind", "127.0.0.1", "--port", self.port, "--repl-diskless-sync-delay", "0"]
        options = options or ("--save", "", "--appendonly", "no")
        super().__init__(cell, name, ["redis-server", *common, *options], home)
        self.answers()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words):
        command = ["redis-cli", "-p", str(self.port), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()

    def answers(self):
        eventually(f"{self.name} answers", lambda: self.ask("PING") == "PONG")

    def is_clustered(self):
        """Whether all slots are served and, as a replica, it has what its primary has."""
        state = self.ask("CLUSTER", "INFO") + self.ask("INFO", "replication")
        return "cluster_state:ok" in state and "master_link_status:down" not in state

    def histories(self):
        """How many destinations it keeps the history of."""
        return len(self.ask("--scan", "--pattern", "*:hl:*").split())

    def follow(self, host, port):
        """Becomes a replica, and has all that the primary has."""
        self.ask("REPLICAOF", host, port)
        eventually(f"{self.name} follows", lambda: "master_link_status:up" in self.ask("INFO", "replication"))


class Sentinel(Process):
    """Watches a primary called `main`, with two others; notices after a second."""

    def __init__(self, cell, name, primary):
        self.port = free_port()
        file = cell.folder / f"{name}.conf"
        file.write_text(
            f"bind 127.0.0.1\nport {self.port}\nsentinel monitor main 127.0.0.1 {primary.port} 2\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        )
        super().__init__(cell, name, ["redis-server", file, "--sentinel"])

    def knows(self, replicas):
        """Whether it knows so many replicas and both other sentinels."""
        command = ["redis-cli", "-p", str(self.port), "SENTINEL", "MASTER", "main"]
        words = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
        facts = dict(zip(words[::2], words[1::2]))
        return facts.get("num-slaves") == str(replicas) and facts.get("num-other-sentinels") == "2"


class Node(Process):
    """A gateway."""

    def __init__(self, cell, name, redis, min_replicas_ack=0):
        self.public, self.admin = free_port(), free_port()
        file = cell.folder / f"{name}.toml"
        file.write_text(
            CONFIGURATION.format(
                public=self.public, admin=self.admin, redis=redis, secret=SECRET, min_replicas_ack=min_replicas_ack
            )
        )
        super().__init__(cell, name, [cell.binaries.fanlight, "serve", "--config", file])

    def is_ready(self):
        command = [self.cell.binaries.fanlight, "health", "--url", f"http://127.0.0.1:{self.admin}"]
        return subprocess.run(command, capture_output=True).returncode == 0


class Relay(Process):
    """Brings what is published at `source` to `redis`, the cell's own."""

    def __init__(self, cell, name, source, redis):
        self.admin = free_port()
        file = cell.folder / f"{name}.toml"
        own = CONFIGURATION.format(
            public=free_port(), admin=self.admin, redis=redis, secret=SECRET, min_replicas_ack=0
        )
        file.write_text(own + RELAY.format(source=source))
        super().__init__(cell, name, [cell.binaries.fanlight, "relay", "--config", file])

    def ask(self, path):
        """What its admin listener says; nothing where it does not, or says that it is not well."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as response:
                return response.read().decode()
        except OSError:
            return ""

    def state(self):
        """`active` or `standby`, or nothing yet."""
        return self.ask("/readyz").strip()

    def metric(self, name):
        lines = [line.split() for line in self.ask("/metrics").splitlines()]
        return sum(float(line[-1]) for line in lines if line and line[0].split("{")[0] == name)

    def has_looked_at(self, destinations):
        """Whether it has found so many, and asked all of them for news twice."""
        is_known = self.metric("fanlight_relay_destinations") >= destinations
        return is_known and self.metric("fanlight_relay_rounds_total") >= 2


class Cell:
    """Everything of one cell; it ends with the `with` block."""

    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.processes, self.forwarders = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()
        for forwarder in self.forwarders:
            forwarder.end()

    def redis(self, name, *options):
        return Redis(self, name, *options)

    def sentinels(self, primary, replicas):
        """Three sentinels that know each other and the replicas."""
        three = [Sentinel(self, f"sentinel-{n}", primary) for n in (1, 2, 3)]
        for sentinel in three:
            eventually(f"{sentinel.name} knows all", lambda s=sentinel: s.knows(replicas))
        return three

    def cluster(self):
        """Three primaries with a replica each."""
        options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        servers = [self.redis(f"redis-{n}", *options) for n in range(1, 7)]
        hosts = [f"127.0.0.1:{server.port}" for server in servers]
        command = ["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
        for server in servers:
            eventually(f"{server.name} is in the cluster", server.is_clustered)
        return servers

    def sentinel_url(self, sentinels):
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        return f"redis-sentinel://{hosts}/main"

    def nodes(self, count, redis, **options):
        """So many gateways, each ready."""
        nodes = [Node(self, f"node-{n}", redis, **options) for n in range(1, count + 1)]
        for node in nodes:
            eventually(f"{node.name} is ready", node.is_ready)
        return nodes

    def relays(self, count, source, redis):
        """So many relays from there into this cell; one is active, the others stand by."""
        relays = [Relay(self, f"relay-{n}", source, redis) for n in range(1, count + 1)]
        states = ["active"] + ["standby"] * (count - 1)
        eventually("one relay is active", lambda: sorted(relay.state() for relay in relays) == states)
        return relays

    def balancer(self, nodes):
        """In front of these nodes."""
        return self.forwarder([node.public for node in nodes])

    def forwarder(self, ports, delay=0.0):
        self.forwarders.append(Forwarder(ports, delay))
        return self.forwarders[-1]


class Forwarder:
    """Leads each connection to the next of its targets that accepts it, by TCP. With a delay, what the
    target says arrives so many seconds late: a long line to a replica."""

    def __init__(self, targets, delay=0.0):
        self.targets, self.delay, self.turn = list(targets), delay, 0
        self.writers, self.port = set(), free_port()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        serving = asyncio.start_server(self.serve, "127.0.0.1", self.port)
        asyncio.run_coroutine_threadsafe(serving, self.loop).result()

    def lead_to(self, targets):
        """From now on to these, as after a failover by name. Present connections are cut."""
        self.targets = list(targets)
        self.cut()

    def cut(self):
        """Ends all connections at once; what is on its way is lost."""
        asyncio.run_coroutine_threadsafe(self.abort(), self.loop).result()

    def end(self):
        asyncio.run_coroutine_threadsafe(self.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    async def close(self):
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def abort(self):
        for writer in list(self.writers):
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            for _ in range(len(self.targets)):
                self.turn += 1
                try:
                    port = self.targets[self.turn % len(self.targets)]
                    back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                self.writers.add(back_writer)
                try:
                    await asyncio.gather(self.pump(reader, back_writer, 0), self.pump(back_reader, writer, self.delay))
                finally:
                    self.writers.discard(back_writer)
                return
        except asyncio.CancelledError:
            # The end of all; asyncio's streams would report a task that ends so.
            pass
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    async def pump(self, reader, writer, delay):
        """Copies until either side ends, and then ends both."""
        try:
            while data := await reader.read(65536):
                if delay:
                    # All of it is as late, however much comes: nothing waits for what is before it.
                    self.loop.call_later(delay, self.write, writer, data)
                else:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            self.loop.call_later(delay, writer.close)

    @staticmethod
    def write(writer, data):
        if not writer.is_closing():
            writer.write(data)
