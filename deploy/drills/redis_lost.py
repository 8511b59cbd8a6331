"""All of Redis is lost and comes back empty: connections stay, nodes enter their sessions again, and
whoever returns with an old position is told that it counts no more."""

import json
import time
import urllib.request

import drill
from cell import Cell, eventually
from crowd import Crowd

TITLE = "Redis is lost and comes back empty"


def script(outcome, binaries, folder, size):
    with Cell(binaries, folder) as cell:
        redis = cell.redis("redis")
        nodes = cell.nodes(2, redis.url)
        with Crowd(cell, cell.balancer(nodes), size) as crowd:
            eventually("all are in the registry", lambda: online(nodes[0], crowd.users) == len(crowd.users))
            crowd.go_on()
            crowd.strike()
            redis.kill()
            crowd.go_on(2)
            redis.start()
            back = time.monotonic()
            redis.answers()
            acks = crowd.wait_for_acks(back)
            eventually("all are in the registry again", lambda: online(nodes[0], crowd.users) == len(crowd.users))
            registered = time.monotonic() - back
            crowd.go_on()
            crowd.stop()
            gone, _ = crowd.gone()
            moved, _ = crowd.reconnected()
            outcome.row(
                "two seconds without Redis",
                **drill.counts(crowd),
                acked_and_lost=gone,
                acks_again_after_its_return_s=acks,
                all_hear_again_s=crowd.hears_again(back),
                registry_whole_again_s=registered,
                connections_lost=moved,
            )
            outcome.require(moved == 0, f"{moved} clients lost their connection")
            outcome.require(is_told(crowd), "an old position was taken for good")
            drill.delivered(outcome, crowd)


def online(node, users):
    """How many of them the registry has."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{node.admin}/users/status",
        json.dumps({"users": users}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return sum(user["online"] for user in json.load(response)["users"])
    except OSError:
        # Redis is away.
        return 0


def is_told(crowd):
    """Whether who returns with a position of before is told that it counts no more."""
    publisher = crowd.publishers[0]
    epoch, offset = publisher.acked()[0].position
    reader = crowd.subscriber("reader", [publisher.destination], "--since", f"{epoch}:{offset}")
    try:
        eventually("somebody returned", lambda: reader.said("subscribed to"))
        return reader.said("not recovered") and reader.said("epoch_changed")
    finally:
        reader.end()


if __name__ == "__main__":
    drill.main("redis_lost", TITLE, script)
