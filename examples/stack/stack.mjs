// All that the examples need, started together: for people by ../run.mjs, and for the tests.
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { APPS, App, missing } from "./apps.mjs";
import { takePort } from "./processes.mjs";
import { Node, secretsIn, startMariaDb, startNginx, startRedis, writeConfiguration } from "./services.mjs";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");

/** Where each listens, where that is free; the configurations name these. */
const PORTS = {
  clients: 8100,
  ...Object.fromEntries(Object.entries(APPS).map(([name, { port }]) => [name, port])),
  publicA: 8111,
  publicB: 8112,
  adminA: 8121,
  adminB: 8122,
  backends: 8130,
  apiA: 8131,
  apiB: 8132,
  redis: 8141,
  mariadb: 8142,
};

/**
 * Starts Redis, MariaDB if there is a chat, two nodes with nginx before them, and the backends of
 * the named examples.
 */
export async function startStack({ names = Object.keys(APPS), binary, chat, anyPorts = false }) {
  const lacking = names.filter((name) => missing(name).length > 0);
  if (lacking.length > 0) {
    const each = lacking.map((name) => `${name} needs ${missing(name).join(" and ")}`);
    throw new Error(`${each.join("; ")}: cargo xtask examples installs it where it may, or name only other examples`);
  }
  const folder = mkdtempSync(join(tmpdir(), "fanlight-examples-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const ports = await takePorts(anyPorts);
  // In one pass, so that no port that was put in is taken for one to be replaced.
  const actual = new Map(Object.entries(PORTS).map(([name, port]) => [String(port), ports[name]]));
  const translate = (text) => text.replace(/127\.0\.0\.1:(\d+)/g, (_, port) => `127.0.0.1:${actual.get(port) ?? port}`);
  const stack = { root: ROOT, folder, ports, names, binary, chat, translate, apps: {} };
  // nginx' workers may run as another user; what is secret has folders of its own.
  chmodSync(folder, 0o755);
  writeConfiguration(stack);
  stack.secrets = writeSecrets(folder);
  await startAll(stack);
  return stack;
}

async function startAll(stack) {
  const { folder, ports, binary } = stack;
  const node = (name, suffix) => {
    const own = { public: ports[`public${suffix}`], admin: ports[`admin${suffix}`], api: ports[`api${suffix}`] };
    return new Node({ binary, folder, name, ports: own });
  };
  stack.nodes = [node("node-a", "A"), node("node-b", "B")];
  const database = stack.names.includes("chat") ? startMariaDb(stack) : undefined;
  // It is waited for below.
  database?.catch(() => {});
  const redis = await startRedis(stack);
  const nodes = await Promise.all(stack.nodes.map((node) => node.start()));
  const nginx = await startNginx(stack);
  const services = [redis, await database, nginx];
  stack.apps = Object.fromEntries(stack.names.map((name) => [name, new App(name, stack)]));
  await Promise.all(Object.values(stack.apps).map((app) => app.start()));
  stack.stop = async () => {
    await Promise.all(Object.values(stack.apps).map((app) => app.stop()));
    await Promise.all(nodes.map((node) => node.stop()));
    await Promise.all(services.map((service) => service?.stop("SIGTERM", 10_000)));
    rmSync(folder, { recursive: true, force: true });
  };
}

async function takePorts(any) {
  const taken = {};
  for (const [name, port] of Object.entries(PORTS)) taken[name] = await takePort(any ? 0 : port);
  return taken;
}

/** A new secret for each that the configuration names, and the database's password. */
function writeSecrets(folder) {
  const secrets = { database: randomBytes(16).toString("hex") };
  mkdirSync(join(folder, "secrets"), { mode: 0o700 });
  for (const name of secretsIn(readFileSync(join(folder, "fanlight.toml"), "utf8"))) {
    secrets[name] = randomBytes(32).toString("hex");
    writeFileSync(join(folder, "secrets", name), secrets[name], { mode: 0o600 });
  }
  return secrets;
}
