// Validates custom resources against the schemas of their operators: JSON objects on standard
// input, one per line. Those schemas allow any field, so one that validation never looks at is an
// error here.
import { createInterface } from "node:readline";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const KINDS = {
  "keda.sh/v1alpha1/ScaledObject": ScaledObject,
  "monitoring.coreos.com/v1/PrometheusRule": PrometheusRule,
  "monitoring.coreos.com/v1/ServiceMonitor": ServiceMonitor,
};

let failed = false;
const fail = (name, what) => {
  failed = true;
  console.error(`${name}: ${what}`);
};

/** The value, noting in `seen` which paths of it are read. */
function watched(value, seen, path = "") {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
      const at = `${path}.${key}`;
      seen.add(at);
      return watched(target[key], seen, at);
    },
  });
}

function* paths(value, path = "") {
  if (typeof value !== "object" || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    yield `${path}.${key}`;
    yield* paths(inner, `${path}.${key}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const object = JSON.parse(line);
  const name = `${object.kind} ${object.metadata?.name}`;
  const model = KINDS[`${object.apiVersion}/${object.kind}`];
  if (!model) {
    fail(name, `no schema for ${object.apiVersion}`);
    continue;
  }
  const seen = new Set();
  try {
    model.prototype.validate.call(watched(object, seen));
  } catch (error) {
    fail(name, error.message);
    continue;
  }
  for (const path of paths(object)) {
    const unknown = !seen.has(path) && !path.startsWith(".metadata.");
    if (unknown) fail(name, `there is no field ${path.slice(1)}`);
  }
}
process.exitCode = failed ? 1 : 0;
