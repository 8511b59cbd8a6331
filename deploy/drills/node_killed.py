"""A node is killed (kill -9) under load: who was connected to it goes on at another, with all it missed."""

import subprocess

import drill
from cell import Cell
from crowd import Crowd

TITLE = "A node is killed"


def script(outcome, binaries, folder, size):
    with Cell(binaries, folder) as cell:
        redis = cell.redis("redis")
        nodes = cell.nodes(2, redis.url)
        with Crowd(cell, cell.balancer(nodes), size) as crowd:
            crowd.go_on()
            crowd.strike()
            nodes[0].kill()
            acks = crowd.wait_for_acks(crowd.fault)
            crowd.go_on()
            crowd.stop()
            gone, age = crowd.gone()
            moved, back = crowd.reconnected()
            outcome.row(
                "a node of two",
                **drill.counts(crowd),
                acked_and_lost=gone,
                acks_again_s=acks,
                connected_again=f"{moved} of {len(crowd.subscribers)}",
                last_of_them_s=back,
                all_hear_again_s=crowd.hears_again(crowd.fault),
                told_of_a_loss=crowd.told(),
            )
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
            outcome.require(moved > 0, "nobody was connected to the node that was killed")
            outcome.require(crowd.told() == 0, "a loss was told")
            drill.delivered(outcome, crowd)
    many(outcome, binaries, folder, size)


def many(outcome, binaries, folder, size):
    """The load tester's storm: each of thousands of clients checks all it gets."""
    command = [binaries.loadtest, "run", drill.ROOT / "loadtest/scenarios/storm-kill.toml", "--rounds", "1"]
    command += ["--gateway", binaries.fanlight, "--out", folder / "storm", *(["--quick"] if size.is_quick else [])]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    outcome.require(done.returncode == 0, f"storm-kill: {(done.stderr or done.stdout)[-500:]}")
    if done.returncode == 0:
        report = (folder / "storm/report.md").read_text().splitlines()
        outcome.note("By `loadtest/scenarios/storm-kill.toml`, clients with a back-off of a second:\n")
        outcome.note("\n".join(line for line in report if line.startswith(("| server", "|---", "| fanlight"))))


if __name__ == "__main__":
    drill.main("node_killed", TITLE, script)
