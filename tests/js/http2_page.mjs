// A page in a browser, over TLS: its WebSockets and events are streams of its HTTP/2 connection.
//
//   node http2_page.mjs --gateway https://127.0.0.1:8080 --token T
//
// Prints a line of JSON if all held; otherwise exits with 1, and says why. Certificates are not
// checked. CHROMIUM names another browser binary than /usr/bin/chromium.

import assert from "node:assert/strict";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

const { values: options } = parseArgs({ options: { gateway: { type: "string" }, token: { type: "string" } } });

/** In the page: two WebSockets and an EventSource hear what one of them and a request publish. */
async function converse({ token }) {
  const topic = "/topic/open.page";
  const { host } = globalThis.location;
  const heard = (target, type) => new Promise((resolve, reject) => {
    target.addEventListener(type, resolve, { once: true });
    target.addEventListener("error", () => reject(new Error(`no ${type}`)), { once: true });
  });
  const subscribed = async () => {
    const socket = new WebSocket(`wss://${host}/ws`, ["fanlight.v1.json", `bearer.${token}`]);
    await heard(socket, "open");
    socket.send(JSON.stringify({ type: "connect" }));
    await heard(socket, "message");
    socket.send(JSON.stringify({ type: "subscribe", to: topic, id: 1 }));
    await heard(socket, "message");
    return socket;
  };
  const sockets = [await subscribed(), await subscribed()];
  const events = new EventSource(`/events?destination=${topic}&access_token=${token}`);
  await heard(events, "subscribed");
  const all = [...sockets, events];
  const said = [];
  const hear = () => Promise.all(all.map((one) => heard(one, "message")));
  let told = hear();
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const body = JSON.stringify({ to: topic, data: "by a request" });
  const answer = await fetch("/publish", { method: "POST", headers, body });
  said.push(...(await told).map(({ data }) => JSON.parse(data).data));
  const own = heard(sockets[0], "message");
  told = Promise.all([heard(sockets[1], "message"), heard(events, "message")]);
  sockets[0].send(JSON.stringify({ type: "send", to: topic, data: "by a WebSocket", id: 2 }));
  said.push(...(await told).map(({ data }) => JSON.parse(data).data));
  await own;
  events.close();
  const closed = sockets.map((socket) => heard(socket, "close"));
  for (const socket of sockets) socket.close(1000);
  const codes = (await Promise.all(closed)).map(({ code }) => code);
  const { nextHopProtocol } = performance.getEntriesByType("navigation")[0];
  return { status: answer.status, said, codes, nextHopProtocol };
}

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update", "--ignore-certificate-errors"],
  });
  try {
    const tab = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
    await tab.goto(`${options.gateway}/livez`);
    const held = await tab.evaluate(converse, { token: options.token });
    assert.deepEqual(held, {
      status: 200,
      said: ["by a request", "by a request", "by a request", "by a WebSocket", "by a WebSocket"],
      codes: [1000, 1000],
      nextHopProtocol: "h2",
    });
    console.log(JSON.stringify({ held: "one HTTP/2 connection" }));
  } finally {
    await browser.close();
  }
}

await main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
