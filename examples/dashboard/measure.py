"""What there is to measure: this machine (Linux' /proc) and the gateways' own metrics."""

import os
import shutil
import threading
import time
import urllib.request
from collections import deque
from pathlib import Path


class Measures:
    """Figures by name; of what is counted, the rate over the last two seconds."""

    def __init__(self, gateways: list[str]) -> None:
        self.past: dict[str, deque[tuple[float, float]]] = {name: deque() for name in RATES}
        self.gateways = dict.fromkeys(SERIES, 0.0)
        threading.Thread(target=self.ask_gateways, args=(gateways,), daemon=True).start()

    def take(self) -> dict[str, float]:
        figures = {**machine(), **self.gateways}
        for name, scale in RATES.items():
            figures[name] = self.rate(name, figures[name]) * scale
        return {name: round(value, 2) for name, value in figures.items()}

    def rate(self, name: str, count: float) -> float:
        now, past = time.monotonic(), self.past[name]
        # A sum over gateways falls where one of them ends: begin anew.
        if past and count < past[-1][1]:
            past.clear()
        past.append((now, count))
        while past[0][0] < now - 2:
            past.popleft()
        (then, before) = past[0]
        return (count - before) / (now - then) if now - then > 0.1 else 0.0

    def ask_gateways(self, urls: list[str]) -> None:
        """Each half second, apart from the rest: a node that is away must not hold it up."""
        while True:
            sums = dict.fromkeys(SERIES, 0.0)
            for url in urls:
                try:
                    with urllib.request.urlopen(url, timeout=1) as response:
                        add_series(response.read().decode(), sums)
                except OSError:
                    continue
            self.gateways = sums
            time.sleep(0.5)


# What is a count, and what its rate per second is multiplied by: CPU in percent of one core, KiB.
RATES = {"cpu": 100.0, "network": 1 / 1024, "published": 1.0, "sent": 1.0}

# What is asked of the gateways, summed over them and their labels.
SERIES = {
    "sessions": "fanlight_sessions",
    "published": "fanlight_redis_publishes_total",
    "sent": "fanlight_deliveries_total",
}


def add_series(text: str, sums: dict[str, float]) -> None:
    for line in text.splitlines():
        name = line.split("{", 1)[0].split(" ", 1)[0]
        for figure, series in SERIES.items():
            if name == series:
                sums[figure] += float(line.rsplit(" ", 1)[1])


def machine() -> dict[str, float]:
    """Seconds of CPU used, memory and disk in use (%), load, threads, bytes over all networks."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
    idle = ticks[3] + ticks[4]
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    disk = shutil.disk_usage("/")
    load = Path("/proc/loadavg").read_text().split()
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    fields = [line.split(":", 1)[1].split() for line in lines]
    return {
        "cpu": (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"),
        "memory": 100 * (total - available) / total,
        "disk": 100 * disk.used / disk.total,
        "load": float(load[0]),
        "threads": float(load[3].split("/")[1]),
        "network": float(sum(int(each[0]) + int(each[8]) for each in fields)),
    }
