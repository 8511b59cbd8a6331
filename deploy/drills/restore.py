"""Redis is lost and restored: from a copy of its snapshot (RDB), and from its log (AOF)."""

import shutil
import time

import drill
from cell import Cell
from crowd import Crowd

TITLE = "Redis is restored from a backup"
SNAPSHOT = ("--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb")
LOG = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


def script(outcome, binaries, folder, size):
    for name, options in [("snapshot", SNAPSHOT), ("log", LOG)]:
        with Cell(binaries, folder / name) as cell:
            restore(outcome, cell, size, name, options)


def restore(outcome, cell, size, name, options):
    redis = cell.redis("redis", *options)
    nodes = cell.nodes(2, redis.url)
    with Crowd(cell, cell.balancer(nodes), size) as crowd:
        crowd.go_on()
        backed_up = time.monotonic()
        if name == "snapshot":
            redis.ask("SAVE")
            shutil.copy(redis.folder / "dump.rdb", cell.folder / "backup.rdb")
            crowd.go_on()
        crowd.strike()
        redis.kill()
        if name == "snapshot":
            # Another machine, which has the copy and nothing else.
            shutil.copy(cell.folder / "backup.rdb", redis.folder / "dump.rdb")
        redis.start()
        back = time.monotonic()
        redis.answers()
        acks = crowd.wait_for_acks(back)
        crowd.go_on()
        crowd.stop()
        gone, age = crowd.gone()
        moved, _ = crowd.reconnected()
        before = sum(s.ended < backed_up for p in crowd.publishers for s in p.acked())
        outcome.row(
            f"from its {name}",
            **drill.counts(crowd),
            acked_before_the_backup=before,
            acked_and_lost=gone,
            oldest_of_these_s=age,
            acks_again_after_its_return_s=acks,
            connections_lost=moved,
            told_of_a_loss=f"{crowd.told()} of {crowd.subscriptions()}",
        )
        outcome.require(moved == 0, f"{moved} clients lost their connection")
        if name == "snapshot":
            outcome.require(age <= crowd.fault - backed_up, "what was in the backup is lost")
            outcome.require(gone > 0, "nothing was published after the backup")
        else:
            outcome.require(gone == 0, f"{gone} acknowledged publications are lost")
        drill.delivered(outcome, crowd)


if __name__ == "__main__":
    drill.main("restore", TITLE, script)
