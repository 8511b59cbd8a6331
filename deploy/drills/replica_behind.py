"""The machine of the primary is lost with what was on its way to a replica that is 100 ms behind; its name
is given to the replica, as a managed primary endpoint does. Without and with min_replicas_ack."""

import drill
from cell import Cell
from crowd import Crowd

TITLE = "The Redis primary is lost, with a replica that lags"
LAG = 0.1


def script(outcome, binaries, folder, size):
    for replicas in (0, 1):
        with Cell(binaries, folder / str(replicas)) as cell:
            failover(outcome, cell, size, replicas)


def failover(outcome, cell, size, min_replicas_ack):
    primary, replica = cell.redis("redis-a"), cell.redis("redis-b")
    line, name = cell.forwarder([primary.port], delay=LAG), cell.forwarder([primary.port])
    replica.follow("127.0.0.1", line.port)
    nodes = cell.nodes(2, f"redis://127.0.0.1:{name.port}", min_replicas_ack=min_replicas_ack)
    with Crowd(cell, cell.balancer(nodes), size) as crowd:
        crowd.go_on()
        crowd.strike()
        line.lead_to([])
        name.lead_to([])
        primary.kill()
        # An operator, or the provider, decides.
        replica.ask("REPLICAOF", "NO", "ONE")
        if min_replicas_ack:
            cell.redis("redis-c").follow("127.0.0.1", replica.port)
        name.lead_to([replica.port])
        acks = crowd.wait_for_acks(crowd.fault)
        crowd.go_on()
        crowd.stop()
        gone, age = crowd.gone()
        moved, _ = crowd.reconnected()
        outcome.row(
            f"min_replicas_ack = {min_replicas_ack}",
            **drill.counts(crowd),
            acked_and_lost=gone,
            oldest_of_these_s=age,
            acks_again_s=acks,
            connections_lost=moved,
            told_of_a_loss=f"{crowd.told()} of {crowd.subscriptions()}",
        )
        outcome.require(moved == 0, f"{moved} clients lost their connection")
        if min_replicas_ack:
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
        else:
            # Else the drill shows nothing.
            outcome.require(gone > 0, "nothing was on its way when the primary was lost")
        drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("replica_behind", TITLE, script)
