"""Checks docker-compose.yml beyond its syntax: what it mounts is there, the programs take it, and
the example publishes.

    compose.py FANLIGHT         (docker-compose, nginx, promtool, redis-server and node are needed)
"""

import json
import os
import re
import socket
import string
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def main(fanlight):
    # What runs by itself, and all that can.
    every = services_of("--profile", "traces", "--profile", "relay")
    services = {name: service for name, service in every.items() if not service.get("profiles")}
    for name, service in every.items():
        for mount in service.get("volumes", []):
            source = Path(mount.rsplit(":", 2)[0])
            require(source.exists(), f"{name} mounts {source}, which is not there")
        for address in service.get("ports", []):
            require(address.startswith("127.0.0.1:"), f"{name} is open to everybody: {address}")
    configuration = ROOT / "deploy/compose/fanlight.toml"
    has_room(fanlight, every, configuration)
    confined(every)
    balancer(services["balancer"], services)
    prometheus(services, every)
    grafana(services)
    ticker(fanlight, services["ticker"], configuration)
    server_api(fanlight, services, configuration)
    traces(fanlight, every, configuration)
    relays(fanlight, every, configuration)


def services_of(*profiles):
    file = ROOT / "docker-compose.yml"
    return yaml.safe_load(run("docker-compose", "-f", file, *profiles, "config"))["services"]


def require(condition, what):
    if not condition:
        sys.exit(what)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    require(done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}")
    return done.stdout


def has_room(fanlight, services, configuration):
    """The gateway takes its configuration, and is full before it is out of files."""
    limits = json.loads(run(fanlight, "config", "check", configuration, "--json"))["config"]["limits"]
    connections = limits["connections"]
    require(connections > 0, "nothing but the open files limits its connections")
    for name, service in services.items():
        if "build" in service:
            files, taken = service["ulimits"]["nofile"], connections + limits["http_connections"]
            require(taken + 256 <= files, f"{name} has {files} files for {taken} connections")


def confined(services):
    """What clients reach has no rights that it does not need."""
    for name, service in services.items():
        ours = "build" in service
        if not ours and name not in ("balancer", "ticker"):
            continue
        # The gateway's user is its image's, which `deploy image` looks at.
        user = service.get("user", "of the image" if ours else "root")
        require(user.split(":")[0] not in ("root", "0"), f"{name} runs as root")
        require(service.get("read_only"), f"{name} may write to its root")
        require(service.get("cap_drop") == ["ALL"], f"{name} keeps capabilities")
        require("no-new-privileges:true" in service.get("security_opt", []), f"{name} may get more rights")
        for address in service.get("ports", []):
            port = int(address.rsplit(":", 1)[1].removesuffix("/tcp"))
            require(port >= 1024, f"{name} may not listen on {port}")


def balancer(service, services):
    """nginx takes the file that the container makes, which leads to every gateway."""
    script = service["command"][2].split("&&")[0]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "nginx.conf"
        script = script.replace("/etc/fanlight/nginx.conf", str(ROOT / "deploy/nginx/nginx.conf"))
        run("sh", "-c", script.replace("/tmp/nginx.conf", str(made)))
        text = made.read_text()
        gateways = [name for name in services if name.startswith("gateway-")]
        require("127.0.0.1" not in text, "an address of the shipped file is left")
        for name in gateways:
            require(f"server {name}:8080 " in text, f"nginx does not know {name}")
            # Their names are known in the containers' network only.
            text = text.replace(f"{name}:8080", f"127.0.0.1:{8080 + gateways.index(name)}")
        port = service["ports"][0].rsplit(":", 1)[1].removesuffix("/tcp")
        require(f"listen {port};" in text, f"nginx does not listen on {port}")
        made.write_text(text)
        nginx = "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "nginx"
        done = subprocess.run(
            [nginx, "-t", "-p", folder, "-c", made, "-g", f"pid {folder}/pid; error_log stderr;"],
            capture_output=True,
            text=True,
        )
        # Who is not root may not make the folders that it is built with.
        accepted = done.returncode == 0 or "Permission denied" in done.stderr
        require(accepted and "syntax is ok" in done.stderr, done.stderr)


def prometheus(services, every):
    path = ROOT / "deploy/compose/prometheus.yml"
    with tempfile.TemporaryDirectory() as folder:
        # Laid out as in the container, so that the rules are where the file says.
        for mount in services["prometheus"]["volumes"]:
            source, target, _ = mount.rsplit(":", 2)
            (Path(folder) / Path(target).name).symlink_to(source)
        said = run("promtool", "check", "config", Path(folder) / path.name)
    rules = len(list((ROOT / "deploy/prometheus/rules").iterdir()))
    require(f"{rules} rule files found" in said, said)
    jobs = {job["job_name"]: job for job in yaml.safe_load(path.read_text())["scrape_configs"]}
    targets = {target for each in jobs["fanlight"]["static_configs"] for target in each["targets"]}
    wanted = {f"{name}:9090" for name in services if name.startswith("gateway-")}
    require(targets == wanted, f"Prometheus scrapes {targets}, the gateways are {wanted}")
    [found] = jobs["fanlight-relay"]["dns_sd_configs"]
    wanted = {name for name in every if name.startswith("relay-")}
    require(set(found["names"]) == wanted and found["port"] == 9090, f"Prometheus looks for {found}, the relays are {wanted}")


def grafana(services):
    """It finds what it is provisioned with, and the dashboards find the data source."""
    service = services["grafana"]
    mounts = {}
    for mount in service["volumes"]:
        source, target, _ = mount.rsplit(":", 2)
        mounts[target] = Path(source)
    files = mounts["/etc/grafana/provisioning"]
    known = {"datasources", "dashboards"}
    found = {folder.name for folder in files.iterdir()}
    require(found == known, f"Grafana reads {known} of provisioning, and there are {found}")
    read = lambda kind: [yaml.safe_load(file.read_text()) for file in (files / kind).iterdir()]

    sources = [source for file in read("datasources") for source in file["datasources"]]
    [source] = sources
    require(source["type"] == "prometheus" and source["isDefault"], f"not the default Prometheus: {source}")
    for name in re.findall(r"\$\{?(\w+)", source["url"]):
        require(name in service["environment"], f"the data source needs {name}, which is not set")
    url = string.Template(source["url"]).substitute(service["environment"])
    host, port = url.removeprefix("http://").split(":")
    scraper = services.get(host, {"ports": []})
    require(any(each.split(":")[-1].split("/")[0] == port for each in scraper["ports"]), f"no service answers at {url}")
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    told = source["jsonData"]["timeInterval"]
    require(told == scraped, f"Grafana takes scrapes to come every {told}, and it is {scraped}")

    [provider] = [provider for file in read("dashboards") for provider in file["providers"]]
    place = provider["options"]["path"]
    require(provider["type"] == "file" and place in mounts, f"dashboards are looked for in {place}: {mounts}")
    dashboards = [json.loads(file.read_text()) for file in mounts[place].glob("*.json")]
    require(len({each["uid"] for each in dashboards}) == len(dashboards) > 0, "dashboards with one uid")
    for dashboard in dashboards:
        finds_data(dashboard, source)


def finds_data(dashboard, source):
    """Each data source of a dashboard is its variable, whose choice is that which is provisioned."""
    where = dashboard["title"]
    kinds = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    for user in nested(dashboard, "datasource"):
        require(user["type"] == source["type"], f"{where}: a data source of type {user['type']}")
        uid = user["uid"]
        variable = kinds.get(uid.removeprefix("${").removesuffix("}")) if uid.startswith("${") else None
        chosen = variable and (variable["type"], variable["query"]) == ("datasource", source["type"])
        require(chosen or uid == source.get("uid"), f"{where}: nothing has the uid {uid}")


def nested(value, key):
    """All that is under this key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            else:
                yield from nested(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from nested(inner, key)


GIVEN = set()


def free_port():
    """None twice: the kernel may give one again before anybody listens on it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def ticker(fanlight, service, configuration):
    """The example publishes to a gateway with this configuration, and a subscriber gets it."""
    public, page = free_port(), free_port()
    variables = os.environ | {
        "FANLIGHT__BROKER__KIND": "memory",
        "FANLIGHT__LISTEN__PUBLIC": f"127.0.0.1:{public}",
        "FANLIGHT__LISTEN__ADMIN": f"127.0.0.1:{free_port()}",
    }
    secret = service["environment"]["SECRET"]
    example = {"GATEWAY": f"http://127.0.0.1:{public}", "SECRET": secret, "PORT": str(page), "INTERVAL_MS": "200"}
    started = []
    try:
        serve = [fanlight, "serve", "--config", configuration]
        started.append(subprocess.Popen(serve, env=variables, stdout=subprocess.DEVNULL))
        run(fanlight, "health", "--timeout", "30s", "--url", wait_for(variables["FANLIGHT__LISTEN__ADMIN"]))
        node = ["node", ROOT / "examples/ticker/ticker.mjs"]
        started.append(subprocess.Popen(node, env=os.environ | example, stdout=subprocess.DEVNULL))
        token = run(fanlight, "token", "mint", "--secret", secret, "--user", "ann").strip()
        listen = [fanlight, "sub", "--count", "3", f"ws://127.0.0.1:{public}/ws", "/topic/prices.*"]
        heard = run(*listen, env=os.environ | {"FANLIGHT_TOKEN": token}, timeout=60)
        require("ACME" in heard and "price" in heard, f"no prices: {heard}")
        require("prices" in run("curl", "-sf", wait_for(f"127.0.0.1:{page}") + "/"), "no page")
        session = run("curl", "-sf", f"http://127.0.0.1:{page}/session")
        require("token" in session, f"no token for the page: {session}")
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def server_api(fanlight, services, configuration):
    """Each gateway's is open to this machine, by the key of the file, and what is published comes."""
    options = tomllib.loads(configuration.read_text())
    port = options["listen"]["api"].rsplit(":", 1)[1]
    [key] = options["api"]["keys"]
    for name in (name for name in services if name.startswith("gateway-")):
        ports = [address.split(":")[2].removesuffix("/tcp") for address in services[name]["ports"]]
        require(port in ports, f"the server API of {name} is closed to this machine")
    public, api = free_port(), free_port()
    variables = os.environ | {
        "FANLIGHT__BROKER__KIND": "memory",
        "FANLIGHT__LISTEN__PUBLIC": f"127.0.0.1:{public}",
        "FANLIGHT__LISTEN__API": f"127.0.0.1:{api}",
        "FANLIGHT__LISTEN__ADMIN": f"127.0.0.1:{free_port()}",
    }
    serve = subprocess.Popen([fanlight, "serve", "--config", configuration], env=variables, stdout=subprocess.DEVNULL)
    try:
        run(fanlight, "health", "--timeout", "30s", "--url", wait_for(variables["FANLIGHT__LISTEN__ADMIN"]))
        url = wait_for(f"127.0.0.1:{api}")
        publish = [fanlight, "pub", url, "/topic/orders", "42"]
        run(*publish, env=os.environ | {"FANLIGHT_API_KEY": key["secret"]}, timeout=60)
        kept = run("curl", "-sf", "-H", f"X-API-Key: {key['secret']}", f"{url}/api/v1/history?destination=/topic/orders&limit=1")
        require(json.loads(kept)["messages"][0]["data"] == 42, f"not what was published: {kept}")
    finally:
        serve.terminate()
        serve.wait()


def traces(fanlight, services, configuration):
    """The gateways take the endpoint that the file names for the profile, and none without it."""
    text = (ROOT / "docker-compose.yml").read_text()
    [endpoint] = {word.removeprefix("TRACES=") for word in text.split() if word.startswith("TRACES=http")}
    require(endpoint.split("/")[2].split(":")[0] in services, f"no service is at {endpoint}")
    file = ["docker-compose", "-f", ROOT / "docker-compose.yml", "config"]
    for value in ("", endpoint):
        config = yaml.safe_load(run(*file, env=os.environ | {"TRACES": value}))["services"]
        environment = config["gateway-a"]["environment"]
        options = {name: text for name, text in environment.items() if name.startswith("FANLIGHT__")}
        shown = run(fanlight, "config", "check", configuration, "--json", env=os.environ | options)
        told = json.loads(shown)["config"]["telemetry"]["traces"]["endpoint"]
        require(told == value, f"spans would go to {told!r}, not to {value!r}")


def relays(fanlight, services, configuration):
    """Each relay takes its configuration and finds both cells; their names are those of services."""
    names = [name for name in services if name.startswith("relay-")]
    require(len(names) == 2, f"a relay and one that stands by, not {names}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            require(services[name]["command"] == ["relay"], f"{name} runs {services[name]['command']}")
            options = {n: v for n, v in services[name]["environment"].items() if n.startswith("FANLIGHT__")}
            started = []
            try:
                for option in ("FANLIGHT__REDIS__URL", "FANLIGHT__RELAY__SOURCE__URL"):
                    host = options[option].removeprefix("redis://").split(":")[0]
                    require(host in services, f"{name}: no service is called {host}")
                    port = free_port()
                    options[option] = f"redis://127.0.0.1:{port}"
                    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
                    started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
                    wait_for(f"127.0.0.1:{port}")
                run(fanlight, "relay", "check", "--config", configuration, env=os.environ | options, timeout=60)
            finally:
                for process in started:
                    process.terminate()
                    process.wait()


def wait_for(address):
    """Its URL, once somebody listens."""
    host, port = address.rsplit(":", 1)
    for _ in range(300):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return f"http://{address}"
        except OSError:
            subprocess.run(["sleep", "0.1"], check=True)
    sys.exit(f"nobody listens on {address}")


main(*sys.argv[1:])
