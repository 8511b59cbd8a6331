"""Checks the overlays without a cluster: by the schemas of Kubernetes and of the operators, and
against what Fanlight really has: options, commands, paths, metrics.

    validate.py FANLIGHT        (the program; kubectl, node and `npm ci` in this folder are needed)
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
RULES = ROOT / "deploy/prometheus/rules"
ALERTS = RULES / "alerts.yml"
DASHBOARDS = ROOT / "deploy/grafana"
OVERLAYS = ["dev", "production", "keda", "relay"]
KUBERNETES = "1.32"
# Stand for what the Secret has.
SECRETS = {
    "redis-url": "redis://redis:6379",
    "source-redis-url": "redis://redis.elsewhere:6379",
    "jwt-secret": "0123456789abcdef0123456789abcdef",
    "api-key": "fedcba9876543210fedcba9876543210",
}
# What a node answers at its admin listener.
PATHS = {"/startupz", "/readyz", "/livez", "/metrics"}


class Wrong(Exception):
    """A manifest that would not work, and why."""


def main(fanlight):
    failures = []
    rendered = {overlay: render(overlay) for overlay in OVERLAYS}
    for overlay, objects in rendered.items():
        failures += [f"{overlay}: {failure}" for failure in faults(objects, fanlight)]
    failures += adapter_faults()
    failures += dashboard_faults()
    failures += [f"not noticed: {what}" for what in unnoticed(rendered["keda"], fanlight, MISTAKES)]
    failures += [f"not noticed: {what}" for what in unnoticed(rendered["relay"], fanlight, MISTAKES_OF_RELAYS)]
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def render(overlay):
    return kustomized(K8S / "overlays" / overlay)


def kustomized(folder):
    command = ["kubectl", "kustomize", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [each for each in yaml.safe_load_all(output) if each]


def faults(objects, fanlight):
    """Everything that is wrong with one overlay."""
    found = []
    custom = [each for each in objects if each["apiVersion"].split("/")[0].endswith((".sh", ".com"))]
    for each in objects:
        if each not in custom:
            found += schema_faults(each)
    found += custom_faults(custom)
    for check in (references, pods, rollout, evictions, server_api, scaling, monitors, rules, relays):
        try:
            check(objects, fanlight)
        except Wrong as wrong:
            found.append(str(wrong))
    return found


def schema_faults(each):
    try:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(step) for step in error.path)
        return [f"{name_of(each)}: {where}: {error.message}"]


def custom_faults(objects):
    if not objects:
        return []
    lines = "\n".join(json.dumps(each) for each in objects)
    command = ["node", str(K8S / "tests" / "crds.mjs")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    return done.stderr.splitlines() or ([] if done.returncode == 0 else ["crds.mjs failed"])


def name_of(each):
    return f"{each['kind']} {each['metadata']['name']}"


def of_kind(objects, kind):
    return [each for each in objects if each["kind"] == kind]


def require(condition, what):
    if not condition:
        raise Wrong(what)


def gateway(objects, name="fanlight"):
    """The pod template of the gateways, or of another Deployment, and its container."""
    [deployment] = [d for d in of_kind(objects, "Deployment") if d["metadata"]["name"] == name]
    template = deployment["spec"]["template"]
    return template, template["spec"]["containers"][0]


def labels_match(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def references(objects, _):
    """Selectors find the pods, and named ports are there."""
    for name in ("fanlight", "fanlight-relay"):
        own = [each for each in objects if is_of(each, name)]
        if own:
            references_of(name, own)


def is_of(each, name):
    """Whether an object is for the Deployment of this name. Those of the gateways need not say so."""
    is_relays = each["metadata"]["name"].startswith("fanlight-relay")
    return is_relays if name == "fanlight-relay" else not is_relays


def references_of(name, objects):
    template, container = gateway(objects, name)
    labels = template["metadata"]["labels"]
    ports = {port["name"] for port in container["ports"]}
    for service in of_kind(objects, "Service"):
        if not service["metadata"]["name"].startswith("fanlight"):
            continue
        require(labels_match(service["spec"]["selector"], labels), f"{name_of(service)} selects no pod")
        for port in service["spec"]["ports"]:
            require(port["targetPort"] in ports, f"{name_of(service)}: no port {port['targetPort']}")
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for each in of_kind(objects, kind):
            selector = each["spec"].get(key, {}).get("matchLabels")
            require(labels_match(selector, labels), f"{name_of(each)} selects no pod")
    [policy] = of_kind(objects, "NetworkPolicy")
    for rule in policy["spec"]["ingress"]:
        for port in rule["ports"]:
            require(port["port"] in ports, f"NetworkPolicy: no port {port['port']}")
    for spread in template["spec"]["topologySpreadConstraints"]:
        require(labels_match(spread["labelSelector"]["matchLabels"], labels), "spread of no pods")


def pods(objects, fanlight):
    """The gateway starts with this, is probed where it listens, and has time to drain."""
    template, container = gateway(objects)
    pod = template["spec"]
    [config_map] = [m for m in of_kind(objects, "ConfigMap") if m["metadata"]["name"].startswith("fanlight")]
    [volume] = [v for v in pod["volumes"] if v.get("configMap")]
    require(volume["configMap"]["name"] == config_map["metadata"]["name"], "the ConfigMap is another")
    environment = environment_of(container)
    mounted = Path(environment["FANLIGHT_CONFIG"])
    require(str(mounted.parent) == container["volumeMounts"][0]["mountPath"], f"{mounted} is not mounted")
    options = accepted_options(fanlight, config_map["data"][mounted.name], environment)

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name in ("public", "api", "admin"):
        port = int(options["listen"][name].rsplit(":", 1)[1])
        require(ports[name] == port, f"port {name} is {ports[name]}, and it listens on {port}")
        require(options["listen"][name].startswith("0.0.0.0"), f"nobody outside the pod reaches listen.{name}")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        require(request["path"] in PATHS, f"{probe}: a node has no {request['path']}")
        require(request["port"] == "admin", f"{probe}: port {request['port']} is not the admin listener")
    times = drain_times(options)
    limit = pod["terminationGracePeriodSeconds"]
    require(sum(times) <= limit, f"a drain takes {sum(times)} s, and it is killed after {limit}")
    readiness = container["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    require(times[0] > noticed, f"clients come for {noticed} s, and are refused after {times[0]}")
    commands = subprocess.run([fanlight, "--help"], check=True, capture_output=True, text=True).stdout
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    require(hook[0] == "/usr/local/bin/fanlight", f"the image has no {hook[0]}")
    for command in (container["args"], hook[1:]):
        is_there = re.search(rf"^  {command[0]} ", commands, re.M)
        require(is_there, f"there is no `fanlight {command[0]}`")
    secure(pod, container)


def drain_times(options):
    """Grace, window, deadline, and what SIGTERM leaves, in seconds."""
    return [seconds(options["drain"][name]) for name in ("grace", "window", "deadline", "shutdown_timeout")]


def rollout(objects, fanlight):
    """One pod drains at a time: a rollout counts no pod that terminates, so it is `minReadySeconds`
    that holds back the next."""
    if not scalers(objects):
        # A single one, as in `dev`.
        return
    [deployment] = [d["spec"] for d in of_kind(objects, "Deployment") if d["metadata"]["name"] == "fanlight"]
    _, container = gateway(objects)
    drain = sum(drain_times(options_of(objects, container, fanlight))[:3])
    waits = deployment.get("minReadySeconds", 0)
    require(waits > drain, f"a drain takes {drain} s, and a rollout goes on after {waits}")
    startup = container["startupProbe"]
    step = waits + startup["periodSeconds"] * startup["failureThreshold"]
    limit = deployment["progressDeadlineSeconds"]
    require(step < limit, f"a step of a rollout takes {step} s, and it has failed after {limit}")
    away = deployment["strategy"]["rollingUpdate"]["maxUnavailable"]
    require(away == 0, f"a rollout takes {away} away before others are there")


def evictions(objects, _):
    """Gateways are evicted one by one, and not at all while none is ready: each has its clients."""
    budgets = [b["spec"] for b in of_kind(objects, "PodDisruptionBudget") if b["metadata"]["name"] == "fanlight"]
    require(len(budgets) == (1 if scalers(objects) else 0), f"{len(budgets)} budgets for evictions")
    for budget in budgets:
        require(budget.get("maxUnavailable") == 1, "more than one gateway is evicted at a time")
        policy = budget.get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
        require(policy == "IfHealthyBudget", "all gateways may be evicted while Redis is away")


def server_api(objects, _):
    """Backends find it by a Service of its own within the cluster, and few may reach it."""
    services = [s for s in of_kind(objects, "Service") if any(p["targetPort"] == "api" for p in s["spec"]["ports"])]
    require([s["metadata"]["name"] for s in services] == ["fanlight-api"], "the server API is no Service's, or another's too")
    require(services[0]["spec"].get("type", "ClusterIP") == "ClusterIP", "the server API is open beyond the cluster")
    [policy] = [p for p in of_kind(objects, "NetworkPolicy") if p["metadata"]["name"] == "fanlight"]
    for name in ("api", "admin"):
        let_in = [rule for rule in policy["spec"]["ingress"] if any(p["port"] == name for p in rule["ports"])]
        require(let_in, f"nobody may reach port {name}")
        for rule in let_in:
            chosen = all(peer.get("namespaceSelector", {}).get("matchLabels") for peer in rule.get("from", []))
            require(rule.get("from") and chosen, f"everybody may reach port {name}")


def environment_of(container):
    environment = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]["key"]
            require(key in SECRETS, f"{variable['name']}: no key {key} in the Secret")
            environment[variable["name"]] = SECRETS[key]
        else:
            # What is the pod's own is its name or address, or a number of its resources.
            is_number = "resourceFieldRef" in source
            environment[variable["name"]] = variable.get("value", "1" if is_number else "pod")
    return environment


def relays(objects, fanlight):
    """A relay starts with the gateways' configuration and its own variables, and is probed where it
    listens."""
    if not any(each["metadata"]["name"] == "fanlight-relay" for each in of_kind(objects, "Deployment")):
        return
    template, container = gateway(objects, "fanlight-relay")
    pod = template["spec"]
    require(pod["volumes"] == gateway(objects)[0]["spec"]["volumes"], "the relay has another configuration")
    options = options_of(objects, container, fanlight)
    relay = options["relay"]
    kept = {each["name"] for each in options["namespaces"] if each.get("history")}
    require(relay["namespaces"], "the relay relays nothing")
    require(set(relay["namespaces"]) <= kept, f"no history to relay: {set(relay['namespaces']) - kept}")
    require(relay["cell"] and relay["source_cell"] not in ("", relay["cell"]), "the relay is within a cell")
    require(relay["source"]["url"], "the relay has no source")
    require(container["args"] == ["relay"], f"the relay runs {container['args']}")
    [port] = container["ports"]
    require(port["name"] == "admin", "the relay has no admin listener")
    listens = int(options["listen"]["admin"].rsplit(":", 1)[1])
    require(port["containerPort"] == listens, f"the relay's port is {port['containerPort']}, it listens on {listens}")
    for probe in ("readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        # It has no /startupz.
        require(request["path"] in {"/readyz", "/livez"}, f"{probe}: a relay has no {request['path']}")
        require(request["port"] == "admin", f"{probe}: port {request['port']} is not the admin listener")
    secure(pod, container)


def options_of(objects, container, fanlight):
    """What the gateway makes of its ConfigMap, in the environment of this container."""
    environment = environment_of(container)
    [config_map] = [m for m in of_kind(objects, "ConfigMap") if m["metadata"]["name"].startswith("fanlight")]
    text = config_map["data"][Path(environment["FANLIGHT_CONFIG"]).name]
    return accepted_options(fanlight, text, environment)


def accepted_options(fanlight, text, environment):
    """The configuration as the gateway reads it; what it refuses or warns of is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fanlight.toml"
        path.write_text(text)
        variables = {k: v for k, v in environment.items() if k.startswith("FANLIGHT__")}
        done = subprocess.run(
            [fanlight, "config", "check", str(path), "--json"],
            env={"PATH": os.environ["PATH"]} | variables,
            capture_output=True,
            text=True,
        )
    require(done.returncode == 0, f"fanlight refuses its configuration: {done.stderr or done.stdout}")
    checked = json.loads(done.stdout)
    require(not checked["warnings"], f"fanlight warns: {checked['warnings']}")
    return checked["config"]


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+)\s*(ms|s|m|h)", text))


def secure(pod, container):
    """What the Pod Security Standard `restricted` asks for, and a read-only root."""
    inside = container["securityContext"]
    require(pod["securityContext"]["runAsNonRoot"], "it may be root")
    require(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile")
    require(inside["readOnlyRootFilesystem"], "its root can be written")
    require(not inside["allowPrivilegeEscalation"], "it may escalate")
    require(inside["capabilities"]["drop"] == ["ALL"], "it keeps capabilities")
    require(pod["automountServiceAccountToken"] is False, "it has a token of the cluster")


def metrics():
    return set(re.findall(r"^\| `(fanlight_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))


def known_metrics(text, where):
    names = re.findall(r"fanlight_\w+", text)
    require(names, f"{where}: no metric")
    for name in names:
        require(name in metrics(), f"{where}: docs/metrics.md has no {name}")


def scaling(objects, _):
    """One scaler at most, of the Deployment, by metrics that exist. It takes no node away because it
    sees nothing."""
    require(len(scalers(objects)) <= 1, "two scalers of one Deployment")
    for each in scalers(objects):
        require(each["spec"]["scaleTargetRef"]["name"] == "fanlight", f"{name_of(each)}: another target")
        for metric in each["spec"].get("metrics", []):
            if metric["type"] == "Pods":
                known_metrics(metric["pods"]["metric"]["name"], name_of(each))
        for trigger in each["spec"].get("triggers", []):
            if trigger["type"] == "prometheus":
                known_metrics(trigger["metadata"]["query"], name_of(each))
                blind = trigger["metadata"].get("ignoreNullValues") != "false"
                require(not blind, f"{name_of(each)}: where Prometheus knows nothing, nobody is connected")
                behavior = each["spec"].get("fallback", {}).get("behavior")
                keeps = behavior in ("currentReplicas", "currentReplicasIfHigher")
                require(keeps, f"{name_of(each)}: where Prometheus does not answer, nodes are taken away")


def scalers(objects):
    return of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject")


def monitors(objects, _):
    services = of_kind(objects, "Service")
    for each in of_kind(objects, "ServiceMonitor"):
        wanted = each["spec"]["selector"]["matchLabels"]
        found = [s for s in services if labels_match(wanted, s["metadata"].get("labels", {}))]
        require(len(found) == 1, f"{name_of(each)} selects {len(found)} services")
        for endpoint in each["spec"]["endpoints"]:
            names = [port["name"] for port in found[0]["spec"]["ports"]]
            require(endpoint["port"] in names, f"{name_of(each)}: no port {endpoint['port']}")
            require(endpoint["path"] in PATHS, f"{name_of(each)}: no {endpoint['path']}")
        # Without a label for it, the operator calls the job by the service's own name. Of relays,
        # no alert asks for the job.
        job = found[0]["metadata"]["labels"].get(each["spec"].get("jobLabel"))
        known = is_of(each, "fanlight-relay") or f'up{{job="{job}"}}' in ALERTS.read_text()
        require(known, f"{name_of(each)}: no alert is about the job {job}")


def rules(objects, _):
    """Where Prometheus scrapes the gateways, its operator gives it all that is shipped to tell."""
    given = of_kind(objects, "PrometheusRule")
    if not of_kind(objects, "ServiceMonitor"):
        require(not given, "rules about what nobody scrapes")
        return
    by_name = lambda groups: sorted(groups, key=lambda group: group["name"])
    shipped = [group for file in RULES.iterdir() for group in yaml.safe_load(file.read_text())["groups"]]
    told = [group for each in given for group in each["spec"]["groups"]]
    require(by_name(told) == by_name(shipped), "the PrometheusRules are not deploy/prometheus/rules")


def dashboard_faults():
    """Each is a ConfigMap that Grafana's sidecar finds, and that `kubectl apply` can note."""
    found = []
    maps = kustomized(DASHBOARDS)
    for each in maps:
        found += schema_faults(each)
        if each["metadata"]["labels"].get("grafana_dashboard") != "1":
            found.append(f"{name_of(each)}: Grafana's sidecar looks for another label")
        if len(json.dumps(each)) > 250 * 1024:
            found.append(f"{name_of(each)}: larger than the annotation of `kubectl apply` may be")
    given = {file: text for each in maps for file, text in each["data"].items()}
    shipped = {file.name: file.read_text() for file in (DASHBOARDS / "dashboards").iterdir()}
    if given != shipped:
        found.append(f"deploy/grafana/kustomization.yaml has {sorted(given)}, and there are {sorted(shipped)}")
    return found


def adapter_faults():
    """The rule that the autoscaler's metric comes from."""
    rules = yaml.safe_load((K8S / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    try:
        for rule in rules:
            known_metrics(rule["seriesQuery"], "prometheus-adapter.yaml")
        names = {rule["name"]["as"] for rule in rules}
        [scaler] = of_kind(render("production"), "HorizontalPodAutoscaler")
        asked = {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"] if m["type"] == "Pods"}
        require(asked <= names, f"the autoscaler asks for {asked}, the adapter has {names}")
    except Wrong as wrong:
        return [str(wrong)]
    return []


CONTAINER = ("Deployment", "spec", "template", "spec", "containers", 0)
MISTAKES = [
    ("a misspelled field", (*CONTAINER, "readinesProbe"), {}),
    ("a field of the wrong type", ("PodDisruptionBudget", "spec", "maxUnavailable"), [1]),
    ("a misspelled field of KEDA", ("ScaledObject", "spec", "minReplicas"), 3),
    ("a job that no alert knows", ("ServiceMonitor", "spec", "jobLabel"), "fanlight.io/listener"),
    ("a misspelled field of the operator", ("ServiceMonitor", "spec", "endpoints", 0, "ports"), "admin"),
    ("a probe at a wrong port", (*CONTAINER, "livenessProbe", "httpGet", "port"), "public"),
    ("a probe of a path that is not there", (*CONTAINER, "livenessProbe", "httpGet", "path"), "/health"),
    ("a port that is not there", ("Service", "spec", "ports", 0, "targetPort"), "web"),
    ("a server API for everybody", ("NetworkPolicy", "spec", "ingress", 1, "from"), []),
    ("a server API at another port", (*CONTAINER, "ports", 1, "containerPort"), 8082),
    ("a misspelled field of a rule", ("PrometheusRule", "spec", "groups", 0, "rules", 0, "exp"), "up"),
    ("a rule that is not what is shipped", ("PrometheusRule", "spec", "groups", 0, "rules", 0, "expr"), "vector(1)"),
    ("an option that is not there", (*CONTAINER, "env", 1, "name"), "FANLIGHT__CLUSTER__NAM"),
    ("a command that is not there", (*CONTAINER, "args"), ["server"]),
    ("a readiness that is asked too seldom", (*CONTAINER, "readinessProbe", "periodSeconds"), 10),
    ("a kill before the drain's end", ("Deployment", "spec", "template", "spec", "terminationGracePeriodSeconds"), 60),
    ("a rollout that does not wait for drains", ("Deployment", "spec", "minReadySeconds"), 260),
    ("a rollout that fails while it waits", ("Deployment", "spec", "progressDeadlineSeconds"), 300),
    ("a rollout with fewer nodes", ("Deployment", "spec", "strategy", "rollingUpdate", "maxUnavailable"), 1),
    ("gateways that are evicted while Redis is away", ("PodDisruptionBudget", "spec", "unhealthyPodEvictionPolicy"), "AlwaysAllow"),
    ("a fallback to fewer nodes", ("ScaledObject", "spec", "fallback", "behavior"), "static"),
    ("no answer that counts as nobody", ("ScaledObject", "spec", "triggers", 0, "metadata", "ignoreNullValues"), "true"),
    ("a fallback that KEDA does not know", ("ScaledObject", "spec", "fallback", "behaviour"), "static"),
    ("a metric that is not there", ("ScaledObject", "spec", "triggers", 0, "metadata", "query"), "sum(fanlight_conns)"),
    ("a root that can be written", (*CONTAINER, "securityContext", "readOnlyRootFilesystem"), False),
]
# Of the objects that are called fanlight-relay.
MISTAKES_OF_RELAYS = [
    ("a relay of a namespace without history", (*CONTAINER, "env", 2, "value"), "topic,orders"),
    ("a relay into its own source", (*CONTAINER, "env", 1, "value"), "eu"),
    ("a relay that is a gateway", (*CONTAINER, "args"), ["serve"]),
    ("a probe that a relay does not answer", (*CONTAINER, "readinessProbe", "httpGet", "path"), "/startupz"),
    ("a secret that is not there", (*CONTAINER, "env", 5, "valueFrom", "secretKeyRef", "key"), "redis-url-there"),
    ("a policy for nobody", ("NetworkPolicy", "spec", "podSelector", "matchLabels", "app.kubernetes.io/name"), "relay"),
]


def unnoticed(objects, fanlight, mistakes):
    """Mistakes that this check must find; those that it does not."""
    expected = set(faults(objects, fanlight))
    for what, (kind, *path, last), value in mistakes:
        broken = copy.deepcopy(objects)
        is_relays = mistakes is MISTAKES_OF_RELAYS
        own = [each for each in of_kind(broken, kind) if is_of(each, "fanlight-relay") == is_relays]
        place = own[0]
        for step in path:
            place = place[step]
        place[last] = value
        if set(faults(broken, fanlight)) <= expected:
            yield what


if __name__ == "__main__":
    main(*sys.argv[1:])
