"""Checks the configuration of an OpenTelemetry collector, as a task gives it.

Whatever is named is there and whatever is there is named, of kinds that the distribution has; the
exporters' authenticators are among the extensions; Prometheus' own tool reads what is scraped. With
a collector on the path (aws-otel-collector, otelcol-contrib or what OTELCOL names), that reads all of
it too.
"""

import os
import re
import shutil
import subprocess
import tempfile

import yaml

PARTS = ("receivers", "processors", "exporters", "extensions")
# Of what AWS' Distro for OpenTelemetry has, what we know to be there: its list of components is in
# the README of aws-observability/aws-otel-collector.
KINDS = {
    "receivers": {"otlp", "prometheus"},
    "processors": {"batch", "memory_limiter", "resource", "resourcedetection"},
    "exporters": {"awsxray", "prometheusremotewrite"},
    "extensions": {"sigv4auth", "health_check"},
}
COLLECTORS = ("aws-otel-collector", "otelcol-contrib")


def problems(text, environment):
    """What is wrong with it, in the container's environment."""
    unset = set(re.findall(r"\$\{env:(\w+)\}", text)) - environment.keys()
    if unset:
        return [f"not set: {sorted(unset)}"]
    text = re.sub(r"\$\{env:(\w+)\}", lambda match: environment[match[1]], text)
    config = yaml.safe_load(text)
    return [*structure(config), *scraping(config), *by_the_real_one(text)]


def structure(config):
    for key in config.keys() - {*PARTS, "service"}:
        yield f"there is no section {key}"
    pipelines = config["service"]["pipelines"]
    used = {"extensions": set(config["service"].get("extensions", []))}
    for part in ("receivers", "processors", "exporters"):
        used[part] = {name for pipeline in pipelines.values() for name in pipeline.get(part, [])}
    for part in PARTS:
        defined = (config.get(part) or {}).keys()
        for name in used[part] - defined:
            yield f"{part}: {name} is used, and not there"
        for name in defined - used[part]:
            yield f"{part}: {name} is there, and not used"
        for name in defined:
            if name.split("/")[0] not in KINDS[part]:
                yield f"{part}: {name} is of no kind that the distribution is known to have"
    for name, pipeline in pipelines.items():
        if name.split("/")[0] not in ("metrics", "traces", "logs"):
            yield f"there are no pipelines of {name}"
        for part in ("receivers", "exporters"):
            if not pipeline.get(part):
                yield f"the pipeline {name} has no {part}"
        if pipeline.get("processors", [None])[0] != "memory_limiter":
            yield f"the pipeline {name} does not begin with its limit of memory"
    for name, exporter in config["exporters"].items():
        authenticator = ((exporter or {}).get("auth") or {}).get("authenticator")
        if authenticator and authenticator not in used["extensions"]:
            yield f"exporters: {name} authenticates by {authenticator}, which does not run"


def scraping(config):
    """The receiver takes the configuration of Prometheus, whose tool reads it."""
    for name, receiver in config["receivers"].items():
        if name.split("/")[0] != "prometheus":
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump(receiver["config"], file)
            file.flush()
            done = subprocess.run(["promtool", "check", "config", file.name], capture_output=True, text=True)
        if done.returncode != 0:
            yield f"receivers: {name}: {done.stderr}{done.stdout}"


def by_the_real_one(text):
    collector = os.environ.get("OTELCOL") or next(filter(None, map(shutil.which, COLLECTORS)), None)
    if not collector:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([collector, "validate", "--config", file.name], capture_output=True, text=True)
    if done.returncode != 0:
        yield f"{collector}: {done.stderr}{done.stdout}"
    else:
        print(f"{collector} takes the collector's configuration")
