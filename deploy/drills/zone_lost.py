"""An availability zone goes down at once: half of the nodes, the Redis primary and a sentinel. With
min_replicas_ack = 1 nothing that was acknowledged is lost."""

import time

import drill
from cell import Cell, eventually
from crowd import Crowd

TITLE = "An availability zone is lost"


def script(outcome, binaries, folder, size):
    with Cell(binaries, folder) as cell:
        primary, replica = cell.redis("redis-a"), cell.redis("redis-b")
        replica.follow("127.0.0.1", primary.port)
        # One in each of three zones, so that any zone may go.
        sentinels = cell.sentinels(primary, replicas=1)
        nodes = cell.nodes(2, cell.sentinel_url(sentinels), min_replicas_ack=1)
        with Crowd(cell, cell.balancer(nodes), size) as crowd:
            crowd.go_on()
            crowd.strike()
            for process in (nodes[0], primary, sentinels[0]):
                process.kill()
            # What is acknowledged needs a replica: until one is there again, publishers hear `unknown`.
            again = cell.redis("redis-c")
            eventually("the replica takes over", lambda: "role:master" in replica.ask("INFO", "replication"))
            taken_over = time.monotonic() - crowd.fault
            again.follow("127.0.0.1", replica.port)
            acks = crowd.wait_for_acks(crowd.fault)
            crowd.go_on()
            crowd.stop()
            gone, _ = crowd.gone()
            moved, back = crowd.reconnected()
            outcome.row(
                "node, primary and sentinel of a zone",
                **drill.counts(crowd),
                acked_and_lost=gone,
                replica_takes_over_s=taken_over,
                acks_again_s=acks,
                connected_again=f"{moved} of {len(crowd.subscribers)}",
                last_of_them_s=back,
                all_hear_again_s=crowd.hears_again(crowd.fault),
                told_of_a_loss=crowd.told(),
            )
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
            drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("zone_lost", TITLE, script)
