// The page in a real browser: two tabs in one room, by every protocol and transport, on one node or two.
//
//   node page.mjs --url http://127.0.0.1:8080 [--peer http://127.0.0.1:8081] [--screenshot FILE.png]
//
// Prints one JSON line per rule that held; exits with 1, and says why, at the first that did not.
// CHROMIUM names another browser binary than /usr/bin/chromium.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    peer: { type: "string" },
    screenshot: { type: "string" },
    timeout: { type: "string", default: "15000" },
  },
});

const ROOM = `test-${process.pid}`;
const HOSTILE = `<img src=x onerror="document.title='owned'"> & "quotes" — ünïcödé 🪭`;
/** Two tabs each, and what tells in the list of frames that they really go this way. */
const PAIRS = [
  [
    { transport: "sockjs-websocket", protocol: "native", out: "[…]", in: "a" },
    { transport: "sockjs-streaming", protocol: "stomp", out: "POST", in: "a" },
  ],
  [
    { transport: "sockjs-polling", protocol: "native", out: "POST", in: "a" },
    { transport: "events", protocol: "native", out: "GET", in: "subscribed" },
  ],
  [
    { transport: "poll", protocol: "native", out: "GET", in: "200" },
    { transport: "websocket", protocol: "stomp", out: "SUBSCRIBE", in: "MESSAGE" },
  ],
];
const problems = [];

const rules = {
  async "a native and a STOMP client join the same room"({ ann, bob }) {
    await join(ann, { user: "ann", protocol: "native" });
    await join(bob, { user: "bob", protocol: "stomp" });
    assert.notEqual(await sessionOf(ann), await sessionOf(bob));
  },

  async "what one writes, both read"({ ann, bob }) {
    await say(ann, "Hello from the native side");
    await say(bob, "And hello from STOMP");
    for (const tab of [ann, bob]) {
      await reads(tab, "ann", "Hello from the native side");
      await reads(tab, "bob", "And hello from STOMP");
    }
  },

  async "messages of one sender arrive in order"({ ann, bob }) {
    const sent = Array.from({ length: 10 }, (_, n) => `number ${n}`);
    for (const text of sent) await say(ann, text);
    await reads(bob, "ann", sent.at(-1));
    const seen = await bob.locator("#messages .text").allTextContents();
    assert.deepEqual(seen.filter((text) => text.startsWith("number ")), sent);
  },

  async "a send is acknowledged"({ ann, bob }) {
    for (const tab of [ann, bob]) {
      await say(tab, "please acknowledge");
      await tab.locator("#footnote", { hasText: /^Acknowledged/ }).waitFor();
    }
  },

  async "markup in a message is text"({ ann, bob }) {
    await say(ann, HOSTILE);
    for (const tab of [ann, bob]) {
      await reads(tab, "ann", HOSTILE);
      assert.equal(await tab.locator("#messages img").count(), 0);
      assert.equal(await tab.title(), "Fanlight");
    }
  },

  async "the inspector shows frames both ways"({ ann, bob }) {
    for (const [tab, sent, received] of [
      [ann, "connect", "connected"],
      [bob, "CONNECT", "CONNECTED"],
    ]) {
      await tab.locator(".frame.out .kind").getByText(sent, { exact: true }).waitFor();
      await tab.locator(".frame.in .kind").getByText(received, { exact: true }).waitFor();
    }
    const row = bob.locator(".frame.in", { hasText: "MESSAGE" }).last();
    await row.locator("summary").click();
    await row.locator("pre", { hasText: /^MESSAGE\n/ }).waitFor();
    await row.locator("summary").click();
  },

  async "pause holds the list and resume catches up, clear empties it"({ ann, bob }) {
    await ann.click("#pause");
    const held = await ann.locator("#frames > li").count();
    await say(bob, "while ann's list is paused");
    await reads(ann, "bob", "while ann's list is paused");
    assert.equal(await ann.locator("#frames > li").count(), held);
    await ann.click("#pause");
    await ann.locator(".frame.in", { hasText: "while ann's list is paused" }).waitFor();
    await bob.click("#clear");
    assert.equal(await bob.locator("#frames > li").count(), 0);
  },

  async "a frame written by hand goes out"({ ann, bob }) {
    await ann.selectOption("#examples", "Say something");
    await ann.click("#raw-send");
    await bob.selectOption("#examples", "Say something");
    await bob.click("#raw-send");
    for (const tab of [ann, bob]) {
      await reads(tab, "ann", "by hand");
      await reads(tab, "bob", "by hand");
    }
  },

  async "a refusal is shown"({ ann }) {
    await ann.selectOption("#examples", "Not JSON");
    await ann.click("#raw-send");
    await ann.locator("#footnote.problem", { hasText: "protocol_error" }).waitFor();
  },

  async "a close that advises to stop is obeyed, and a person may connect again"({ bob }) {
    await bob.selectOption("#examples", "A forbidden destination");
    await bob.click("#raw-send");
    await bob.locator('#status[data-state="stopped"]', { hasText: "forbidden" }).waitFor();
    await bob.click("#reconnect");
    await isOnline(bob);
    await bob.locator("#footnote.problem", { hasText: "forbidden" }).waitFor();
  },

  async "switching the protocol makes a new session in the same room"({ ann, bob }) {
    await isOnline(ann);
    const before = await sessionOf(ann);
    await ann.check("#protocol-stomp", { force: true });
    await ann.waitForFunction((old) => {
      const now = document.getElementById("session").textContent;
      return now && now !== old && !document.getElementById("send").disabled;
    }, before);
    await say(ann, "now from STOMP too");
    await reads(bob, "ann", "now from STOMP too");
    await ann.locator(".frame.out .kind").getByText("CONNECT", { exact: true }).waitFor();
  },
};

for (const pair of PAIRS) {
  const [one, other] = pair.map(({ transport }) => transport);

  rules[`a tab by ${one} and one by ${other} go on in the same room`] = async ({ ann, bob }) => {
    for (const [tab, way] of [[ann, pair[0]], [bob, pair[1]]]) {
      await choose(tab, way);
      await tab.locator(".frame.out .kind").getByText(way.out, { exact: true }).first().waitFor();
    }
    await say(ann, `ann says it by ${one}`);
    await say(bob, `bob says it by ${other}`);
    for (const [tab, way] of [[ann, pair[0]], [bob, pair[1]]]) {
      await reads(tab, "ann", `ann says it by ${one}`);
      await reads(tab, "bob", `bob says it by ${other}`);
      await tab.locator("#footnote", { hasText: /^Acknowledged/ }).waitFor();
      await tab.locator(".frame.in .kind").getByText(way.in, { exact: true }).first().waitFor();
      await saveScreenshot(tab, way.transport);
    }
  };

  rules[`who is cut off from ${one} or ${other} gets what it missed, once`] = async ({ ann, bob }) => {
    await missesSome(ann, one, bob, "bob");
    await missesSome(bob, other, ann, "ann");
  };
}

rules["a transport without STOMP says so, and the choice comes back with one that has it"] = async ({ bob }) => {
  await choose(bob, { transport: "events", protocol: "native" });
  assert(await bob.locator("#protocol-stomp").isDisabled());
  await bob.locator("#transport-note", { hasText: "no STOMP" }).waitFor();
  await choose(bob, { transport: "websocket", protocol: "stomp" });
  assert(await bob.locator("#protocol-stomp").isEnabled());
};

rules["who chooses by keyboard keeps the focus"] = async ({ bob }) => {
  await bob.focus("#transport");
  await bob.keyboard.press("ArrowDown");
  await isOnline(bob);
  assert.equal(await bob.locator("#transport").inputValue(), "sockjs-websocket");
  assert.equal(await bob.evaluate(() => document.activeElement.id), "transport");
};

rules["what is published by hand goes out, and a refusal is shown"] = async ({ ann, bob }) => {
  for (const transport of ["events", "poll"]) {
    await choose(ann, { transport, protocol: "native" });
    const before = await bob.locator(".message", { hasText: "by hand" }).count();
    await ann.selectOption("#examples", "Say something");
    await ann.click("#raw-send");
    await bob.locator(".message", { hasText: "by hand" }).nth(before).waitFor();
    await ann.selectOption("#examples", "A forbidden destination");
    await ann.click("#raw-send");
    await ann.locator("#footnote.problem", { hasText: "forbidden" }).waitFor();
  }
};

/** What is about one tab alone holds on two nodes as well as on one. */
const ONE_NODE_WILL_DO = /inspector|pause|by hand|refusal|close that|switching|without STOMP|keyboard|sockjs-websocket/;

async function join(tab, { user, protocol }) {
  await tab.fill("#user", user);
  await tab.fill("#room", ROOM);
  await tab.check(`#protocol-${protocol}`, { force: true });
  await tab.click("#join");
  await isOnline(tab);
}

/** Takes a way to the gateway as a person does, and waits until it is used. */
async function choose(tab, { transport, protocol }) {
  await tab.click("#clear");
  await tab.getByLabel("Transport").selectOption(transport);
  await tab.check(`#protocol-${protocol}`, { force: true });
  await isOnline(tab);
}

/** A tab is cut off while another writes. */
async function missesSome(tab, transport, other, user) {
  const missed = [1, 2, 3].map((n) => `missed ${n} by ${transport}`);
  await tab.click("#cut");
  await tab.locator('#status[data-state="waiting"]', { hasText: "Cut off" }).waitFor();
  for (const text of missed) await say(other, text);
  await reads(other, user, missed.at(-1));
  await tab.click("#reconnect");
  await isOnline(tab);
  await tab.locator(".return").last().getByText("Back: 3 missed messages recovered").waitFor();
  const seen = await tab.locator("#messages .text").allTextContents();
  assert.deepEqual(seen.filter((text) => missed.includes(text)), missed);
}

async function isOnline(tab) {
  await tab.locator('#status[data-state="online"]').waitFor();
  await tab.locator("#send:enabled").waitFor();
}

async function say(tab, text) {
  await tab.fill("#text", text);
  await tab.press("#text", "Enter");
}

async function reads(tab, user, text) {
  await tab
    .locator(".message")
    .filter({ has: tab.locator(".who").getByText(user, { exact: true }) })
    .filter({ has: tab.locator(".text").getByText(text, { exact: true }) })
    .first()
    .waitFor();
}

function sessionOf(tab) {
  return tab.locator("#session").textContent();
}

/** In a window of its own: a browser draws a tab behind another once a second, and clicks wait for that. */
async function openTab(browser, name, url) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
  const tab = await context.newPage();
  tab.setDefaultTimeout(Number(options.timeout));
  tab.on("pageerror", (error) => problems.push(`${name}: ${error}`));
  tab.on("console", (message) => {
    // Chromium itself says of each refusal of a request that there was one.
    const isRefusal = message.location().url.endsWith("/publish") && /status of 403/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isRefusal) problems.push(`${name}: ${message.text()}`);
  });
  await tab.addInitScript(() =>
    addEventListener("securitypolicyviolation", (event) =>
      console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`),
    ),
  );
  const response = await tab.goto(url);
  assert.equal(response.status(), 200);
  return tab;
}

async function saveScreenshot(tab, suffix) {
  if (options.screenshot) await tab.screenshot({ path: options.screenshot.replace(/(\.png)?$/, `-${suffix}.png`) });
}

/** As a person may have it: light and wide, dark, and on a phone. */
async function saveScreenshots(tab, path) {
  const save = async (suffix, scheme, width, height) => {
    await tab.emulateMedia({ colorScheme: scheme });
    await tab.setViewportSize({ width, height });
    await tab.screenshot({ path: path.replace(/(\.png)?$/, `${suffix}.png`) });
  };
  await save("", "light", 1280, 800);
  await save("-dark", "dark", 1280, 800);
  await save("-narrow", "light", 400, 1500);
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function main() {
  assert(options.url, "--url is missing");
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update"],
  });
  try {
    if (options.screenshot) await mkdir(dirname(options.screenshot), { recursive: true });
    const tabs = {
      ann: await openTab(browser, "ann", options.url),
      bob: await openTab(browser, "bob", options.peer ?? options.url),
    };
    for (const [rule, holds] of Object.entries(rules)) {
      if (options.peer && ONE_NODE_WILL_DO.test(rule)) continue;
      await holds(tabs).catch((error) => {
        error.message = `${rule}: ${error.message}`;
        throw error;
      });
      assert.deepEqual(problems, [], rule);
      print({ held: rule });
    }
    if (options.screenshot) {
      await saveScreenshots(tabs.ann, options.screenshot);
      print({ screenshot: options.screenshot });
    }
  } finally {
    await browser.close();
  }
}

await main().catch((error) => {
  print({ failed: String(error.message), problems });
  console.error(error);
  process.exitCode = 1;
});
