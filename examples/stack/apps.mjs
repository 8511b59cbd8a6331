// The examples' backends: what each is started with, and what it needs beside Node.
import { mkdirSync } from "node:fs";
import { join } from "node:path";

import { Program, find, runToEnd } from "./processes.mjs";

/** In the order of their ports. `needs` names programs that an example can't do without. */
export const APPS = {
  chat: { port: 8101, needs: ["mariadbd"] },
  notifications: { port: 8102, needs: [] },
  dashboard: { port: 8103, needs: ["python3"] },
  presence: { port: 8104, needs: ["go"] },
  orders: { port: 8105, needs: ["java", "javac"] },
};

/** What an example needs and this machine has not. */
export function missing(name) {
  return APPS[name].needs.filter((program) => !find(program));
}

const COMMANDS = {
  chat: ({ chat }) => [chat, []],
  notifications: ({ source }) => [process.execPath, [join(source, "server.mjs")]],
  dashboard: ({ source }) => [find("python3"), ["-u", join(source, "server.py")]],
  async presence({ source, data, log, env }) {
    const program = join(data, "presence");
    await runToEnd("go build", find("go"), ["build", "-o", program, "."], { log, cwd: source, env });
    return [program, []];
  },
  async orders({ root, source, data, log }) {
    const own = ["Orders.java", "Order.java", "Shop.java"].map((file) => join(source, file));
    const common = join(root, "docs/backends/java");
    await runToEnd("javac", find("javac"), ["-d", data, "-sourcepath", common, ...own], { log });
    return [find("java"), ["-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp", data, "Orders"]];
  },
};

/** An example's backend, which can be stopped, and started again with what it has kept. */
export class App {
  constructor(name, stack) {
    Object.assign(this, { name, stack, port: stack.ports[name], url: `http://127.0.0.1:${stack.ports[name]}` });
  }

  async start() {
    const { root, folder, ports, chat } = this.stack;
    const source = join(root, "examples", this.name);
    const data = join(folder, this.name);
    mkdirSync(data, { recursive: true });
    const log = join(folder, `${this.name}.log`);
    const env = {
      ...process.env,
      PORT: String(this.port),
      // Where browsers find the gateway, and where this backend does.
      GATEWAY: `http://127.0.0.1:${ports.clients}`,
      GATEWAY_API: `http://127.0.0.1:${ports.backends}/api/v1`,
      GATEWAY_METRICS: [ports.adminA, ports.adminB].map((port) => `http://127.0.0.1:${port}/metrics`).join(","),
      JWT_SECRET_FILE: join(folder, "secrets/jwt"),
      API_KEY_FILE: join(folder, "secrets", `${this.name}-api`),
      WEBHOOK_SECRET_FILE: join(folder, "secrets", `${this.name}-webhook`),
      DATABASE_URL: `mysql://chat:${this.stack.secrets.database}@127.0.0.1:${ports.mariadb}/chat`,
      DATA: data,
      WEB: join(root, "examples/web"),
      STOMPJS: join(root, "tests/js/node_modules/@stomp/stompjs/bundles/stomp.umd.min.js"),
    };
    const [command, args] = await COMMANDS[this.name]({ root, source, data, log, chat, env });
    this.program = new Program(this.name, command, args, { log, env, cwd: source });
    await this.program.until(async () => (await fetch(this.url)).ok, 60);
    return this;
  }

  stop() {
    return this.program.stop();
  }
}
