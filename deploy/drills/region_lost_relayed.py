"""A Region is lost that a relay carried into another: clients find the other cell by its name, and its
histories have what was published in the lost one, but for what had just been said. Before that the
relay's own process is killed, and a standby goes on."""

import time

import drill
from cell import Cell, eventually
from crowd import Crowd

TITLE = "A Region is lost (cells with a relay)"


def script(outcome, binaries, folder, size):
    with Cell(binaries, folder / "a") as here, Cell(binaries, folder / "b") as there:
        source, target = here.redis("redis"), there.redis("redis")
        nodes, others = here.nodes(2, source.url), there.nodes(2, target.url)
        first, second = there.relays(2, source.url, target.url)
        name, other_name = here.balancer(nodes), there.balancer(others)
        with Crowd(here, name, size) as crowd:
            # From here on the other cell's histories are read.
            begin = crowd.positions_at(other_name)
            crowd.go_on()
            active, standby = (first, second) if first.state() == "active" else (second, first)
            active.kill()
            eventually("the standby relays", lambda: standby.state() == "active")
            taken_over = time.monotonic()
            # What was published meanwhile is brought before the Region goes.
            eventually("it has caught up", lambda: standby.has_looked_at(len(crowd.destinations)))
            crowd.go_on()
            crowd.strike()
            for process in here.processes:
                process.kill()
            # What Route 53 does once its health checks failed; that time comes on top.
            name.lead_to([node.public for node in others])
            acks = crowd.wait_for_acks(crowd.fault)
            crowd.go_on()
            crowd.stop()
            moved, back = crowd.reconnected()
            brought = {p.destination: crowd.read(p, begin[p.destination]) for p in crowd.publishers}
            lost, age = not_brought(outcome, crowd, brought, taken_over)
            outcome.row(
                "cell A, then cell B",
                **drill.counts(crowd),
                acks_again_s=acks,
                connected_again=f"{moved} of {len(crowd.subscribers)}",
                last_of_them_s=back,
                all_hear_again_s=crowd.hears_again(crowd.fault),
                not_relayed=lost,
                the_oldest_of_it_s=age,
            )
            outcome.require(moved == len(crowd.subscribers), "not all came to the other cell")
            outcome.require(crowd.told() == crowd.subscriptions(), "not all were told that their positions are gone")
            outcome.require(crowd.silently_missed() == 0, f"{crowd.silently_missed()} deliveries missed in silence")


def not_brought(outcome, crowd, brought, due):
    """Of what cell A acknowledged: how much cell B never got, and the age of the oldest of it when A
    was lost. It must be the newest of each destination, and of after `due`: what is brought is whole,
    in order, and once."""
    lost = []
    for publisher in crowd.publishers:
        numbers = [heard.n for heard in brought[publisher.destination]]
        before = [sent for sent in publisher.acked() if sent.ended <= crowd.fault]
        # Those of after the loss were published in B itself.
        relayed = [n for n in numbers if n <= before[-1].n]
        outcome.require(len(set(relayed)) == len(relayed), f"{publisher.destination}: brought twice")
        outcome.require(relayed == sorted(relayed), f"{publisher.destination}: out of order")
        missing = [sent for sent in before if sent.n not in set(relayed)]
        whole = not missing or not relayed or relayed[-1] < missing[0].n
        outcome.require(whole, f"{publisher.destination}: a hole in what was brought")
        late = [sent for sent in missing if sent.ended <= due]
        outcome.require(not late, f"{publisher.destination}: {len(late)} not brought, for which there was time")
        lost += [crowd.fault - sent.ended for sent in missing]
    return len(lost), max(lost, default=0.0)


if __name__ == "__main__":
    drill.main("region_lost_relayed", TITLE, script)
