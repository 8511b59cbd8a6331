// Runs the examples until Ctrl-C: `cargo xtask examples [NAME...]`, which builds what this takes.
//
//   node examples/run.mjs --gateway target/debug/fanlight --chat target/debug/fanlight-example-chat [--any-ports] [NAME...]
import { resolve } from "node:path";
import { parseArgs } from "node:util";

import { APPS, missing } from "./stack/apps.mjs";
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
for (const name of stack.skipped) console.log(`  ${name.padEnd(14)} skipped: missing ${missing(name).join(", ")}`);
console.log(`  ${"gateway".padEnd(14)} http://127.0.0.1:${stack.ports.clients} (nginx before two nodes)`);
console.log(`  ${"logs, config".padEnd(14)} ${stack.folder}`);
console.log("Ctrl-C ends all.");
