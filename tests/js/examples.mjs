// The examples' pages in a real browser, as people use them, on two nodes of which one is killed
// while it is in use. The backends, nodes, Redis, MariaDB and nginx are started by this.
//
//   node examples.mjs --gateway PATH --chat PATH [--screenshots FOLDER] [NAME...]
//
// Prints one JSON line per rule that held; exits with 1, and says why, at the first that did not.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { APPS } from "../../examples/stack/apps.mjs";
import { find } from "../../examples/stack/processes.mjs";
import { startStack } from "../../examples/stack/stack.mjs";
import * as chat from "./examples/chat.mjs";
import * as dashboard from "./examples/dashboard.mjs";
import * as notifications from "./examples/notifications.mjs";
import * as orders from "./examples/orders.mjs";
import * as presence from "./examples/presence.mjs";
import { Tabs } from "./examples/tabs.mjs";

const RULES = { chat, notifications, dashboard, presence, orders };

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    gateway: { type: "string" },
    chat: { type: "string" },
    screenshots: { type: "string" },
  },
});

async function main() {
  const names = positionals.length > 0 ? positionals : Object.keys(APPS);
  const started = Date.now();
  const stack = await startStack({
    names,
    binary: resolve(options.gateway),
    chat: options.chat && resolve(options.chat),
    anyPorts: true,
  });
  print({ started: stack.names, ms: Date.now() - started });
  const executablePath = process.env.CHROMIUM ?? find("chromium");
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"] });
  try {
    if (options.screenshots) mkdirSync(options.screenshots, { recursive: true });
    for (const name of stack.names) {
      await check(name, RULES[name].rules, stack, browser);
    }
  } finally {
    await browser.close();
    await stack.stop();
  }
}

async function check(name, rules, stack, browser) {
  const tabs = new Tabs(browser, stack, name);
  for (const rule of Object.keys(rules)) {
    const started = Date.now();
    try {
      await rules[rule]({ stack, tabs, app: stack.apps[name] });
      assert.deepEqual(tabs.problems, []);
    } catch (error) {
      const logs = [stack.apps[name].program, ...stack.nodes].map((each) => `${each.name}: ${each.said()}`);
      await tabs.screenshot(options.screenshots, "failed").catch(() => {});
      throw new Error(`${name}: ${rule}: ${error.stack}\n${tabs.problems}\n${logs.join("\n")}`);
    }
    print({ example: name, held: rule, ms: Date.now() - started });
  }
  if (options.screenshots) await tabs.screenshot(options.screenshots);
  await tabs.close();
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

await main().then(
  () => process.exit(0),
  (error) => {
    print({ failed: String(error.message).split("\n")[0] });
    console.error(error.message);
    process.exit(1);
  },
);
