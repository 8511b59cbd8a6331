// Runs the examples until Ctrl-C: `cargo xtask examples [NAME...]`, which builds what this takes.
//
//   node examples/run.mjs --gateway target/debug/fanlight --chat target/debug/fanlight-example-chat [--any-ports] [NAME...]
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { APPS } from "./stack/apps.mjs";
import { startStack } from "./stack/stack.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    gateway: { type: "string" },
    chat: { type: "string" },
    "any-ports": { type: "boolean", default: false },
  },
});

const names = positionals.length > 0 ? positionals : Object.keys(APPS);
const unknown = names.filter((name) => !(name in APPS));
if (unknown.length > 0 || !values.gateway) {
  const known = Object.keys(APPS).join(", ");
  console.error(unknown.length > 0 ? `no example is called ${unknown}; there are ${known}` : "--gateway is missing");
  process.exit(2);
}

/** For how long a node stays away that was killed. */
const AWAY_S = 10;

let stack;
let leaving = false;
async function leave() {
  if (leaving) process.exit(1);
  leaving = true;
  console.log("\nending everything");
  await stack?.stop();
  process.exit(0);
}
process.on("SIGINT", leave).on("SIGTERM", leave);

try {
  stack = await startStack({
    names,
    binary: resolve(values.gateway),
    chat: values.chat && resolve(values.chat),
    anyPorts: values["any-ports"],
  });
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exit(1);
}
console.log("The examples are running; each is best seen in two windows.");
for (const { name, url } of Object.values(stack.apps)) console.log(`  ${name.padEnd(14)} ${url}`);
console.log(`  ${"gateway".padEnd(14)} http://127.0.0.1:${stack.ports.clients} (nginx before two nodes)`);
for (const { name, program } of stack.nodes) console.log(`  ${name.padEnd(14)} kill -9 ${program.pid}`);
console.log(`  ${"logs, config".padEnd(14)} ${stack.folder}`);
console.log("Kill a node while you look: it starts again after a while. Ctrl-C ends all.");
stack.nodes.forEach(keepRunning);

async function keepRunning(node) {
  while (true) {
    const how = await node.program.ended;
    if (leaving) return;
    console.log(`${node.name} ${how}; it starts again in ${AWAY_S} s`);
    await sleep(AWAY_S * 1000);
    if (leaving) return;
    try {
      await node.start();
      console.log(`${node.name} is back: kill -9 ${node.program.pid}`);
    } catch (error) {
      if (!leaving) console.error(error.message);
    }
  }
}
