// What the examples run on: Redis, MariaDB, two gateway nodes, nginx.
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";

import { Program, find, listens, runToEnd } from "./processes.mjs";

/** A Redis without persistence. */
export async function startRedis({ folder, ports }) {
  const data = await makeFolder(folder, "redis");
  const args = ["--port", ports.redis, "--bind", "127.0.0.1", "--save", "", "--dir", data].map(String);
  const redis = new Program("redis", need("redis-server"), args, { log: join(data, "log") });
  return redis.until(() => listens(ports.redis));
}

/** A MariaDB with a database and an account for the chat, as whoever we are. */
export async function startMariaDb({ folder, ports, secrets }) {
  const home = await makeFolder(folder, "mariadb");
  const data = join(home, "data");
  const log = join(home, "log");
  const own = ["--no-defaults", `--datadir=${data}`, `--user=${userInfo().username}`];
  const install = [...own, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"];
  await runToEnd("mariadb-install-db", need("mariadb-install-db"), install, { log });
  const grants = join(home, "grants.sql");
  writeFileSync(
    grants,
    "CREATE DATABASE IF NOT EXISTS chat CHARACTER SET utf8mb4;\n" +
      `CREATE USER IF NOT EXISTS 'chat'@'127.0.0.1' IDENTIFIED BY '${secrets.database}';\n` +
      "GRANT ALL ON chat.* TO 'chat'@'127.0.0.1';\n",
    { mode: 0o600 },
  );
  const args = [
    ...own,
    "--bind-address=127.0.0.1",
    `--port=${ports.mariadb}`,
    `--socket=${join(home, "socket")}`,
    `--pid-file=${join(home, "pid")}`,
    `--init-file=${grants}`,
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=32M",
    "--performance-schema=OFF",
  ];
  const mariadb = new Program("mariadb", need("mariadbd"), args, { log });
  return mariadb.until(() => listens(ports.mariadb));
}

/** The configuration of the nodes: the common part, and that of each example. */
export function writeConfiguration({ root, folder, names, translate }) {
  const parts = ["fanlight.toml", ...names.map((name) => join(name, "fanlight.toml"))];
  const text = parts.map((part) => readFileSync(join(root, "examples", part), "utf8")).join("\n");
  writeFileSync(join(folder, "fanlight.toml"), translate(text));
}

/** The secrets that the configuration names. */
export function secretsIn(text) {
  return [...text.matchAll(/secret_file = "secrets\/([a-z-]+)"/g)].map(([, name]) => name);
}

/** A gateway node that can be killed, and started again at the same place. */
export class Node {
  constructor({ binary, folder, name, ports }) {
    Object.assign(this, { binary, folder, name, ports });
  }

  async start() {
    const at = (port) => `127.0.0.1:${port}`;
    const { public: clients, admin, api } = this.ports;
    const args = ["serve", "--config", "fanlight.toml"];
    const env = {
      ...process.env,
      FANLIGHT__LISTEN__PUBLIC: at(clients),
      FANLIGHT__LISTEN__ADMIN: at(admin),
      FANLIGHT__LISTEN__API: at(api),
      FANLIGHT__CLUSTER__NAME: this.name,
    };
    const log = join(this.folder, `${this.name}.log`);
    this.program = new Program(this.name, this.binary, args, { log, env, cwd: this.folder });
    await this.program.until(async () => (await fetch(`http://${at(admin)}/readyz`)).ok);
    return this;
  }

  kill() {
    return this.program.kill();
  }

  stop() {
    return this.program.stop();
  }

  said() {
    return this.program.said();
  }
}

/** nginx before the nodes, for clients and backends, without stickiness. */
export async function startNginx({ root, folder, ports, translate }) {
  const home = await makeFolder(folder, "nginx");
  const kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const folders = kinds.map((kind) => `${kind}_temp_path ${join(home, kind)};`).join("\n");
  const text = readFileSync(join(root, "examples/nginx.conf"), "utf8");
  const conf = join(home, "nginx.conf");
  writeFileSync(conf, translate(text).replace("http {\n", `http {\n${folders}\n`));
  const globals = `pid ${join(home, "pid")}; error_log stderr; daemon off;`;
  const log = join(home, "log");
  const args = ["-p", home, "-c", conf, "-g", globals];
  // Its workers would outlive a master that is killed.
  const nginx = new Program("nginx", need("nginx"), args, { log, lastSignal: "SIGTERM" });
  return nginx.until(async () => (await listens(ports.clients)) && (await listens(ports.backends)));
}

async function makeFolder(folder, name) {
  const path = join(folder, name);
  await mkdir(path, { recursive: true, mode: 0o755 });
  return path;
}

function need(program) {
  const path = find(program);
  if (!path) throw new Error(`${program} is missing; cargo xtask examples installs it where it may`);
  return path;
}
