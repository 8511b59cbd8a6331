// An application beside Fanlight: publishes prices that wander, and serves a page that shows them.
// It keeps no connection to browsers: those are the gateways'. Nothing but Node is needed.
import { createHmac, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const {
  GATEWAY = "http://127.0.0.1:8080",
  PUBLIC_URL = "ws://127.0.0.1:8080/ws",
  SECRET,
  PORT = "8090",
  INTERVAL_MS = "1000",
} = process.env;

if (!SECRET) {
  console.error("SECRET is missing: the secret that Fanlight checks tokens with (auth.keys)");
  process.exit(1);
}

const prices = { ACME: 100, GLOBEX: 250, INITECH: 42 };

/** A token that Fanlight accepts for an hour. */
function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

async function publish(symbol) {
  prices[symbol] *= 1 + (Math.random() - 0.5) / 100;
  const data = { symbol, price: prices[symbol].toFixed(2), at: Date.now() };
  // Under one key the gateways publish once, however often it is sent.
  const message = { to: `/topic/prices.${symbol}`, data, key: randomUUID() };
  try {
    await send(message);
  } catch {
    // No answer, or none that says that it was published: it may be, or not.
    await send(message);
  }
}

async function send(message) {
  const response = await fetch(`${GATEWAY}/publish`, {
    method: "POST",
    headers: { authorization: `Bearer ${token("ticker")}`, "content-type": "application/json" },
    body: JSON.stringify(message),
    signal: AbortSignal.timeout(5000),
  });
  const answer = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${answer}`);
}

/** One round after the other: what a gateway that is busy does not take is not piled up. */
async function tick() {
  const results = await Promise.allSettled(Object.keys(prices).map(publish));
  for (const { reason } of results) {
    if (reason) console.error(`not published: ${reason.cause?.message ?? reason.message}`);
  }
  setTimeout(tick, Number(INTERVAL_MS));
}

const server = createServer(async (request, response) => {
  if (request.url === "/") {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end(await readFile(new URL("index.html", import.meta.url)));
  } else if (request.url === "/session") {
    // A real application would ask who is there; here everybody is a guest.
    response.setHeader("content-type", "application/json");
    response.setHeader("cache-control", "no-store");
    response.end(JSON.stringify({ url: PUBLIC_URL, token: token("guest") }));
  } else {
    response.writeHead(404).end("not found\n");
  }
});
server.listen(Number(PORT), () => console.log(`prices at http://127.0.0.1:${server.address().port}`));
tick();
process.on("SIGTERM", () => process.exit(0));
