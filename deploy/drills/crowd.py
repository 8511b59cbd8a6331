"""The clients of a drill, and the judgement of what they saw: publishers by `POST /publish`, subscribers
by `fanlight sub --json`, all through the balancer."""

import http.client
import json
import os
import subprocess
import threading
import time
from collections import Counter, namedtuple

from cell import SECRET, eventually

Sent = namedtuple("Sent", "n begun ended outcome position")
Heard = namedtuple("Heard", "at to n")
ACKED = "acked"


class Publisher(threading.Thread):
    """Publishes numbers to one destination, one after the other, and notes what became of each."""

    def __init__(self, port, token, destination, rate):
        super().__init__(daemon=True)
        self.port, self.token, self.destination, self.every = port, token, destination, 1 / rate
        self.sent, self.over = [], threading.Event()
        self.connection = None

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.publish(len(self.sent))
            # Not made up for: what could not be sent in time was not sent.
            due = max(due + self.every, time.monotonic())
            self.over.wait(due - time.monotonic())

    def publish(self, n):
        begun = time.monotonic()
        try:
            outcome, position = self.post({"n": n})
        except (OSError, http.client.HTTPException, ValueError):
            # Published or not: nobody has said.
            outcome, position = "no answer", None
            self.connection = None
        self.sent.append(Sent(n, begun, time.monotonic(), outcome, position))

    def post(self, data):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = json.dumps({"to": self.destination, "data": data})
        self.connection.request("POST", "/publish", body, headers)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            return answer["code"], None
        return ACKED, (answer["epoch"], answer["offset"])

    def acked(self):
        return [sent for sent in list(self.sent) if sent.outcome == ACKED]


class Subscriber:
    """`fanlight sub --json`, read as it prints."""

    def __init__(self, fanlight, port, token, destinations, *options):
        command = [str(fanlight), "sub", "--json", *options, f"ws://127.0.0.1:{port}/ws", *destinations]
        self.running = subprocess.Popen(
            command, env=os.environ | {"FANLIGHT_TOKEN": token}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.heard, self.told, self.notes, self.reconnected = [], [], [], []
        self.marked = threading.Event()
        for read in (self.read_messages, self.read_notes):
            threading.Thread(target=read, daemon=True).start()

    def read_messages(self):
        for line in self.running.stdout:
            at, message = time.monotonic(), json.loads(line)
            if "lost" in message:
                self.told.append((at, message["to"], message["lost"]))
            elif "missed" not in message and "n" in message["data"]:
                self.heard.append(Heard(at, message["to"], message["data"]["n"]))
            else:
                self.marked.set()

    def read_notes(self):
        for line in self.running.stderr:
            self.notes.append(line.strip())
            if "connected again" in line:
                self.reconnected.append(time.monotonic())

    def said(self, part):
        return any(part in note for note in list(self.notes))

    def end(self):
        self.running.kill()
        self.running.wait()


class Crowd:
    """Publishers and subscribers of one drill; they end with the `with` block."""

    def __init__(self, cell, balancer, size):
        self.fanlight, self.balancer, self.size = cell.binaries.fanlight, balancer, size
        self.destinations = [f"/topic/drill/{n}" for n in range(size.destinations)]
        self.users = [f"user-{n}" for n in range(size.subscribers)]
        self.subscribers = [self.subscriber(user, self.destinations) for user in self.users]
        self.publishers = []
        self.fault = None

    def __enter__(self):
        for subscriber in self.subscribers:
            eventually("all are subscribed", lambda s=subscriber: s.said("subscribed to"))
        token = self.token("publisher")
        for destination in self.destinations:
            publisher = Publisher(self.balancer.port, token, destination, self.size.rate)
            self.publishers.append(publisher)
            publisher.start()
        eventually("all publish", lambda: all(publisher.acked() for publisher in self.publishers))
        return self

    def __exit__(self, *_):
        for publisher in self.publishers:
            publisher.over.set()
        for subscriber in self.subscribers:
            subscriber.end()

    def token(self, user):
        command = [self.fanlight, "token", "mint", "--secret", SECRET, "--user", user]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def subscriber(self, user, destinations, *options):
        return Subscriber(self.fanlight, self.balancer.port, self.token(user), destinations, *options)

    def go_on(self, seconds=None):
        """Lets it run."""
        time.sleep(self.size.seconds if seconds is None else seconds)

    def strike(self):
        """The moment of the disaster, from which all is counted."""
        self.fault = time.monotonic()

    def wait_for_acks(self, since):
        """Until each publisher was acknowledged what it sent after `since`: how long after, the last."""
        return max(self.first(publisher, since) for publisher in self.publishers) - since

    @staticmethod
    def first(publisher, since):
        after = lambda: next((sent.ended for sent in publisher.acked() if sent.begun >= since), None)
        return eventually(f"{publisher.destination} is acknowledged again", after)

    def stop(self):
        """Ends publishing, and waits until each subscriber has the last that was acknowledged."""
        for publisher in self.publishers:
            publisher.over.set()
        for publisher in self.publishers:
            publisher.join()
        last = {(publisher.destination, publisher.acked()[-1].n) for publisher in self.publishers}
        for subscriber in self.subscribers:
            heard = lambda s=subscriber: last <= {(to, n) for _, to, n in list(s.heard)}
            eventually("everybody hears the last", heard)

    def hears_again(self, since):
        """How long after `since` the last subscriber heard something that was sent after it."""
        begun = {p.destination: {s.n: s.begun for s in p.sent} for p in self.publishers}
        worst = 0.0
        for subscriber in self.subscribers:
            for to in self.destinations:
                at = [h.at for h in subscriber.heard if h.to == to and begun[to][h.n] >= since]
                worst = max(worst, min(at) - since)
        return worst

    def outcomes(self):
        return Counter(sent.outcome for publisher in self.publishers for sent in publisher.sent)

    def silently_missed(self):
        """What was acknowledged, and a subscriber neither heard nor was told to have lost."""
        return sum(len(self.missed(s, p)) for s in self.subscribers for p in self.publishers if not self.is_told(s, p))

    def missed(self, subscriber, publisher):
        heard = {h.n for h in subscriber.heard if h.to == publisher.destination}
        return {sent.n for sent in publisher.acked()} - heard

    @staticmethod
    def is_told(subscriber, publisher):
        return any(to == publisher.destination for _, to, _ in subscriber.told)

    def told(self):
        """Of how many subscriptions a loss was told."""
        return len({(at, to) for at, s in enumerate(self.subscribers) for _, to, _ in s.told})

    def subscriptions(self):
        return len(self.subscribers) * len(self.destinations)

    def heard_twice(self):
        return sum(
            count - 1 for s in self.subscribers for count in Counter((h.to, h.n) for h in s.heard).values()
        )

    def reconnected(self):
        """How many had to connect again, and how long after the disaster the last of them had."""
        times = [subscriber.reconnected[-1] for subscriber in self.subscribers if subscriber.reconnected]
        return len(times), max(times, default=self.fault) - self.fault

    def gone(self):
        """Of what was acknowledged before the disaster: how much the history has no more, and the age
        of the oldest of it at the disaster, in seconds."""
        lost = []
        for publisher in self.publishers:
            before = [sent for sent in publisher.acked() if sent.ended <= self.fault]
            kept = self.kept(publisher, before[0].position)
            lost += [self.fault - sent.ended for sent in before if sent.n not in kept]
        return len(lost), max(lost, default=0.0)

    def kept(self, publisher, first):
        """The numbers that somebody gets who returns with the position before the first."""
        return {heard.n for heard in self.read(publisher, (first[0], first[1] - 1))}

    def read(self, publisher, position):
        """What somebody gets who returns with this position, in that order."""
        since = f"{position[0]}:{position[1]}"
        reader = self.subscriber("reader", [publisher.destination], "--since", since)
        try:
            eventually("the history is read", lambda: reader.said("subscribed to"))
            # No number: it counts for nothing.
            publisher.post({"end": True})
            eventually("the history is read to its end", reader.marked.is_set)
            return list(reader.heard)
        finally:
            reader.end()

    def positions_at(self, balancer):
        """Where the histories of another cell stand now, by destination."""
        positions = {}
        for destination in self.destinations:
            asking = Publisher(balancer.port, self.token("publisher"), destination, self.size.rate)
            # No number: it counts for nothing.
            outcome, position = asking.post({"begin": True})
            assert outcome == ACKED, f"{destination} of the other cell: {outcome}"
            positions[destination] = position
        return positions
