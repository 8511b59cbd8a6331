"""Redis stops answering for some seconds and goes on (a stalled machine, a long fork): nothing is
acknowledged meanwhile, nothing that was is lost, and connections stay."""

import time

import drill
from cell import Cell
from crowd import Crowd

TITLE = "Redis stalls"


def script(outcome, binaries, folder, size):
    seconds = 3 if size.is_quick else 8
    with Cell(binaries, folder) as cell:
        redis = cell.redis("redis")
        nodes = cell.nodes(2, redis.url)
        with Crowd(cell, cell.balancer(nodes), size) as crowd:
            crowd.go_on()
            crowd.strike()
            redis.pause()
            crowd.go_on(seconds)
            redis.resume()
            back = time.monotonic()
            acks = crowd.wait_for_acks(back)
            crowd.go_on()
            crowd.stop()
            gone, _ = crowd.gone()
            moved, _ = crowd.reconnected()
            false = [s for p in crowd.publishers for s in p.acked() if crowd.fault < s.begun and s.ended < back]
            outcome.row(
                f"paused for {seconds} s",
                **drill.counts(crowd),
                acked_and_lost=gone,
                acks_again_after_its_return_s=acks,
                all_hear_again_s=crowd.hears_again(back),
                connections_lost=moved,
                told_of_a_loss=crowd.told(),
            )
            # One may have been answered in the moment in which the pause began.
            outcome.require(len(false) <= len(crowd.publishers), f"{len(false)} acknowledged while Redis stood")
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
            outcome.require(moved == 0, f"{moved} clients lost their connection")
            outcome.require(crowd.told() == 0, "a loss was told")
            drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("redis_paused", TITLE, script)
