// EventSource, polls, and sockjs-client by each transport that a browser has, from a page of the
// gateway's own origin and from one of another. This driver serves the pages, at --page.
//
//   node transports.mjs --gateway http://127.0.0.1:8080 --page http://127.0.0.1:8081 --token T [--screenshot FILE.png]
//
// Prints a line of JSON for each that held; exits with 1, and says why, at the first that did not.
// CHROMIUM names another browser binary than /usr/bin/chromium.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

const { values: options } = parseArgs({
  options: {
    gateway: { type: "string" },
    page: { type: "string" },
    token: { type: "string" },
    screenshot: { type: "string" },
  },
});

const MESSAGES = 10;
const OWN = ["websocket", "xhr-streaming", "eventsource", "htmlfile", "xhr-polling", "jsonp-polling"];
const OTHER = ["xhr-streaming", "xhr-polling", "iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling", "jsonp-polling"];
const NUMBERS = Array.from({ length: MESSAGES }, (_, n) => n);
const FILES = {
  "transports.html": ["transports.html", "text/html; charset=utf-8"],
  "sockjs.js": ["node_modules/sockjs-client/dist/sockjs.min.js", "text/javascript"],
  "stomp.js": ["node_modules/@stomp/stompjs/bundles/stomp.umd.min.js", "text/javascript"],
};
const problems = [];
let topics = 0;

/** Runs a function of the page, for a topic of its own. */
async function run(tab, name, more) {
  const topic = `/topic/open.page-${topics++}`;
  const { gateway, token } = options;
  const wanted = { name, gateway, token, topic, messages: MESSAGES, ...more };
  return tab.evaluate(({ name, ...wanted }) => globalThis[name](wanted), wanted);
}

async function sockJs(tab, transport) {
  const result = await run(tab, "bySockJs", { transport });
  assert.equal(result.transport, transport, JSON.stringify(result));
  assert.deepEqual(result.bodies, NUMBERS.map((n) => `${n} <b>\u00fc&"%41\u2028`));
  assert.deepEqual(result.receipts, NUMBERS);
  assert.equal(result.error, "forbidden");
  assert.deepEqual(result.close, [4503, "forbidden"]);
}

async function eventSource(tab) {
  const heard = await run(tab, "byEventSource");
  assert.deepEqual(heard.map(({ n }) => n), NUMBERS);
  for (const { text, id } of heard) {
    assert.equal(text, "a\r\nb");
    assert.match(id, /^[0-9a-f]+:\d+$/);
  }
}

async function polling(tab) {
  assert.deepEqual(await run(tab, "byPolling"), NUMBERS);
}

async function open(browser, origin) {
  const tab = await (await browser.newContext({ viewport: { width: 900, height: 700 } })).newPage();
  tab.on("pageerror", (error) => problems.push(`${origin}: ${error}`));
  if (origin === options.page) {
    await tab.goto(`${origin}/page/transports.html`);
  } else {
    // The gateway has no such page: the document of another of its answers becomes it.
    await tab.goto(`${origin}/livez`);
    const page = await readFile(new URL("transports.html", import.meta.url), "utf8");
    await tab.setContent(page.replaceAll('"/page/', `"${options.page}/page/`));
  }
  return tab;
}

/** Serves the files at the other origin, until the driver ends. */
async function servePages() {
  const server = createServer(async ({ url }, response) => {
    const [path, type] = FILES[url.split(/[/?]/)[2]] ?? [];
    if (path) response.setHeader("content-type", type).end(await readFile(new URL(path, import.meta.url)));
    else response.writeHead(404).end();
  });
  server.unref();
  const { hostname, port } = new URL(options.page);
  await once(server.listen(Number(port), hostname), "listening");
}

async function main() {
  await servePages();
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update"],
  });
  try {
    for (const [origin, name, transports] of [
      [options.gateway, "own", OWN],
      [options.page, "another", OTHER],
    ]) {
      const tab = await open(browser, origin);
      const held = async (what, check) => {
        const said = `${what}, from ${name} origin`;
        await check().catch((error) => {
          error.message = `${said}: ${error.message}`;
          throw error;
        });
        assert.deepEqual(problems, [], said);
        await tab.evaluate((said) => note(said, true), said);
        console.log(JSON.stringify({ held: said }));
      };
      await held("EventSource", () => eventSource(tab));
      await held("polls", () => polling(tab));
      for (const transport of transports) await held(transport, () => sockJs(tab, transport));
      if (options.screenshot && name === "another") {
        await mkdir(dirname(options.screenshot), { recursive: true });
        await tab.screenshot({ path: options.screenshot });
      }
    }
  } finally {
    await browser.close();
  }
}

await main().catch((error) => {
  console.error(error, problems);
  process.exitCode = 1;
});
