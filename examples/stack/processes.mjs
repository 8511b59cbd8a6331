// Child processes that end with this one, and ports that stay ours.
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { accessSync, closeSync, constants, openSync, readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const children = new Map();
process.on("exit", () => children.forEach((signal, child) => child.kill(signal)));

/**
 * A program that runs until it is stopped; what it says goes to `log`. `lastSignal` ends it where
 * there is no time to wait for that.
 */
export class Program {
  #child;

  constructor(name, command, args, { log, lastSignal = "SIGKILL", ...options }) {
    Object.assign(this, { name, log });
    const output = openSync(log, "a");
    this.#child = spawn(command, args, { stdio: ["ignore", output, output], ...options });
    closeSync(output);
    children.set(this.#child, lastSignal);
    this.ended = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve(`could not be started: ${error.message}`));
      this.#child.once("exit", (code, signal) => resolve(`ended with ${signal ?? code}`));
    }).finally(() => children.delete(this.#child));
    this.ended.then((how) => (this.how = how));
  }

  get pid() {
    return this.#child.pid;
  }

  /** Waits until `condition` holds; fails if the program ends before, or does not get there. */
  async until(condition, seconds = 30) {
    const deadline = Date.now() + seconds * 1000;
    while (!(await condition().catch(() => false))) {
      if (this.how) throw new Error(`${this.name} ${this.how}\n${this.said()}`);
      if (Date.now() > deadline) throw new Error(`${this.name} is not ready after ${seconds} s\n${this.said()}`);
      await sleep(25);
    }
    return this;
  }

  /** The end of its log. */
  said() {
    return readFileSync(this.log, "utf8").slice(-3000);
  }

  /** Asks it to end, and makes it after a while. */
  async stop(signal = "SIGTERM", patience = 5000) {
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), patience);
    await this.ended;
    clearTimeout(timer);
  }

  kill() {
    return this.stop("SIGKILL");
  }
}

/** Runs a command to its end; fails with what it said if that is not a success. */
export async function runToEnd(name, command, args, options) {
  const program = new Program(name, command, args, options);
  const how = await program.ended;
  if (how !== "ended with 0") throw new Error(`${name} ${how}\n${program.said()}`);
}

/**
 * Takes a port that nobody has: `wanted`, or where that is 0 any below those of the kernel. It is
 * held by the UDP socket of the same number, so that it stays ours while its server is down.
 */
export async function takePort(wanted) {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = wanted || 10_000 + Math.floor(Math.random() * 10_000);
    const held = await hold(port);
    if (held && (await isFree(port))) return port;
    if (wanted) break;
  }
  throw new Error(wanted ? `port ${wanted} is taken; --any-ports takes others` : "no free port was found");
}

function hold(port) {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    socket.once("error", () => resolve(false));
    socket.bind({ port, address: "127.0.0.1", exclusive: true }, () => resolve(socket.unref()));
  });
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer().once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** Whether somebody accepts connections at a port. */
export function listens(port) {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("close", () => socket.destroy());
    socket.once("connect", () => socket.destroy());
  });
}

/** Where a program is, if anywhere; Debian puts servers where not everybody's path leads. */
export function find(program) {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/go/bin"];
  return folders.map((folder) => join(folder, program)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
