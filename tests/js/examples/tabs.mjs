// Tabs of one example's page, each in a window of its own, and what went wrong in them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export class Tabs {
  problems = [];
  #open = new Map();

  constructor(browser, stack, example) {
    Object.assign(this, { browser, stack, example });
  }

  /** A tab on a device of its own, unless it is to share one with another tab. */
  async open(name, { on, width = 1200, height = 800 } = {}) {
    const context = on ? on.context() : await this.browser.newContext({ viewport: { width, height } });
    const tab = await context.newPage();
    tab.setDefaultTimeout(20_000);
    tab.on("pageerror", (error) => this.problems.push(`${name}: ${error}`));
    tab.on("console", (message) => {
      // Chromium itself says of each connection that breaks, or is refused, that it did.
      const isNetwork = /WebSocket connection to|net::ERR_|status of (502|503|504)/.test(message.text());
      if (["error", "warning"].includes(message.type()) && !isNetwork) {
        this.problems.push(`${name}: ${message.text()}`);
      }
    });
    await tab.addInitScript(() =>
      addEventListener("securitypolicyviolation", (event) =>
        console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`),
      ),
    );
    const response = await tab.goto(this.stack.apps[this.example].url);
    assert.equal(response.status(), 200);
    this.#open.set(name, tab);
    return tab;
  }

  /** The same, logged in as somebody, by the form as a person does it. */
  async enter(user, { as = user, role, ...more } = {}) {
    const tab = await this.open(as, more);
    await tab.fill("#login [name=user]", user);
    if (role) await tab.selectOption("#login [name=role]", role);
    await tab.press("#login [name=user]", "Enter");
    await isOnline(tab);
    return tab;
  }

  async screenshot(folder, suffix = "") {
    for (const [name, tab] of this.#open) {
      if (tab.isClosed()) continue;
      const file = `example-${this.example}-${name}${suffix && `-${suffix}`}.png`;
      await tab.screenshot({ path: join(folder, file) });
    }
  }

  async close() {
    for (const tab of this.#open.values()) await tab.context().close();
  }
}

export async function isOnline(tab) {
  await tab.locator('#state[data-state="online"]').waitFor();
}

/** Polls until it holds. */
export async function eventually(what, condition, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert(Date.now() < deadline, `never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Which nodes a user's sessions are on, asked of the server API as an operator may. */
export async function nodesOf(stack, user) {
  const [{ sessions }, { nodes }] = [
    await operate(stack, `/users/${encodeURIComponent(user)}`),
    await operate(stack, "/cluster"),
  ];
  const names = sessions.map(({ node }) => nodes.find(({ id }) => id === node)?.name);
  return names.filter(Boolean).map((each) => stack.nodes.find(({ name }) => name === each));
}

async function operate(stack, path) {
  const key = readFileSync(join(stack.folder, "secrets/operator-api"), "utf8");
  const url = `http://127.0.0.1:${stack.ports.backends}/api/v1${path}`;
  const response = await fetch(url, { headers: { authorization: `Bearer ${key}` } });
  assert(response.ok, `${path}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

/** Kills the node a user is on, does something, and starts it again once the user is elsewhere. */
export async function withNodeKilled(stack, user, tab, meanwhile) {
  await eventually(`${user} is on a node`, async () => (await nodesOf(stack, user)).length > 0);
  const [node] = await nodesOf(stack, user);
  await node.kill();
  await meanwhile(node);
  await isOnline(tab);
  await node.start();
}
