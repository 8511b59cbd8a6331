"""A Region is lost: a whole cell, and clients find the other cell by its name. Cells share nothing, so
histories don't go along; everybody is told so."""

import drill
from cell import Cell
from crowd import Crowd

TITLE = "A Region is lost (independent cells)"


def script(outcome, binaries, folder, size):
    with Cell(binaries, folder / "a") as here, Cell(binaries, folder / "b") as there:
        nodes = here.nodes(2, here.redis("redis").url)
        others = there.nodes(2, there.redis("redis").url)
        name = here.balancer(nodes)
        with Crowd(here, name, size) as crowd:
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
            outcome.row(
                "cell A, then cell B",
                **drill.counts(crowd),
                acks_again_s=acks,
                connected_again=f"{moved} of {len(crowd.subscribers)}",
                last_of_them_s=back,
                all_hear_again_s=crowd.hears_again(crowd.fault),
                told_of_a_loss=f"{crowd.told()} of {crowd.subscriptions()}",
            )
            outcome.require(moved == len(crowd.subscribers), "not all came to the other cell")
            outcome.require(crowd.told() == crowd.subscriptions(), "not all were told that their positions are gone")
            drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("region_lost", TITLE, script)
