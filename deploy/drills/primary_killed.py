"""The Redis primary is killed and a replica promoted, by Sentinel or in a Redis Cluster, without and with
min_replicas_ack."""

import drill
from cell import Cell
from crowd import Crowd

TITLE = "The Redis primary is killed"


def script(outcome, binaries, folder, size):
    # Quick: the stricter promise only.
    for replicas in [1] if size.is_quick else [0, 1]:
        with Cell(binaries, folder / f"sentinel-{replicas}") as cell:
            primary, *others = [cell.redis(f"redis-{name}") for name in "abc"]
            for replica in others:
                replica.follow("127.0.0.1", primary.port)
            url = cell.sentinel_url(cell.sentinels(primary, replicas=2))
            failover(outcome, cell, size, "Sentinel", url, [primary], replicas)
    # Its primaries have one replica each, so that a promoted one has none to wait for.
    with Cell(binaries, folder / "cluster") as cell:
        servers = cell.cluster()
        failover(outcome, cell, size, "Cluster", f"redis-cluster://127.0.0.1:{servers[0].port}", servers, 0)


def failover(outcome, cell, size, kind, url, servers, min_replicas_ack):
    nodes = cell.nodes(2, url, min_replicas_ack=min_replicas_ack)
    with Crowd(cell, cell.balancer(nodes), size) as crowd:
        crowd.go_on()
        # The one that most depends on.
        primaries = [server for server in servers if "role:master" in server.ask("INFO", "replication")]
        primary = max(primaries, key=lambda server: server.histories())
        crowd.strike()
        primary.kill()
        acks = crowd.wait_for_acks(crowd.fault)
        crowd.go_on()
        crowd.stop()
        gone, age = crowd.gone()
        moved, _ = crowd.reconnected()
        outcome.row(
            f"{kind}, min_replicas_ack = {min_replicas_ack}",
            **drill.counts(crowd),
            acked_and_lost=gone,
            oldest_of_these_s=age,
            acks_again_s=acks,
            all_hear_again_s=crowd.hears_again(crowd.fault),
            connections_lost=moved,
            told_of_a_loss=f"{crowd.told()} of {crowd.subscriptions()}",
        )
        outcome.require(moved == 0, f"{moved} clients lost their connection")
        if min_replicas_ack:
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
        drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("primary_killed", TITLE, script)
