// Notifications for users, over Fanlight. This keeps what was sent and read, and publishes by the
// server API; connections to browsers are the gateway's. Nothing but Node is needed.
import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

import { publisher } from "./publisher.mjs";
import { openStore } from "./store.mjs";
import { mint, userOf } from "./tokens.mjs";

const { GATEWAY, PORT = "8102", DATA = ".", WEB = "../web" } = process.env;
const store = openStore(join(DATA, "notifications.jsonl"));
const publish = publisher();

const PAGES = {
  "/": ["index.html", "text/html"],
  "/app.js": ["app.js", "text/javascript"],
  "/web/style.css": [join(WEB, "style.css"), "text/css"],
  "/web/page.js": [join(WEB, "page.js"), "text/javascript"],
  "/web/native.js": [join(WEB, "native.js"), "text/javascript"],
};

const ROUTES = {
  // A real application would ask for a password here.
  "GET /session"(request, query) {
    const user = query.get("user") ?? "";
    if (!isName(user)) throw new Refusal(400, "a name has 1 to 32 letters, digits, `.`, `_` or `-`");
    return { user, token: mint(user), gateway: GATEWAY };
  },

  "GET /notifications"(request) {
    const user = authenticated(request);
    return { received: store.receivedBy(user), sent: store.sentBy(user) };
  },

  async "POST /notifications"(request) {
    const from = authenticated(request);
    const { to, text } = await json(request);
    if (!isName(to)) throw new Refusal(400, "`to` is no user's name");
    if (typeof text !== "string" || text.length < 1 || text.length > 500) {
      throw new Refusal(400, "`text` has 1 to 500 characters");
    }
    if (publish.waiting() >= WAITING_MAX) throw new Refusal(503, "the gateways are away; try again later");
    const notification = { id: randomUUID(), from, to, text, at: Date.now() };
    await store.add({ type: "notification", ...notification });
    publish(to, `${notification.id}`, { type: "notification", ...notification });
    return notification;
  },

  async "POST /read"(request) {
    const user = authenticated(request);
    const { ids } = await json(request);
    if (!Array.isArray(ids) || ids.length > 1000) throw new Refusal(400, "`ids` is a list of at most 1000");
    const read = store.unreadOf(user).filter(({ id }) => ids.includes(id));
    if (read.length === 0) return { read: [] };
    const at = Date.now();
    await store.add({ type: "read", user, ids: read.map(({ id }) => id), at });
    // The reader's other devices hear of it, and so do the senders.
    publish(user, `read-${read[0].id}-${at}`, { type: "read", ids: read.map(({ id }) => id), at });
    for (const { id, from } of read) publish(from, `receipt-${id}`, { type: "receipt", id, at });
    return { read: read.map(({ id }) => id) };
  },
};

/** What may wait for the gateways. */
const WAITING_MAX = 10_000;

/** What can't be done, and what the client is told. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function isName(name) {
  return typeof name === "string" && /^[\p{L}\p{N}._-]{1,32}$/u.test(name);
}

function authenticated({ headers }) {
  const user = userOf(headers.authorization?.replace(/^Bearer /, "") ?? "");
  if (!user) throw new Refusal(401, "no good token");
  return user;
}

async function json(request) {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) {
    text += chunk;
    if (text.length > 100_000) throw new Refusal(413, "too much");
  }
  try {
    return Object(JSON.parse(text));
  } catch {
    throw new Refusal(400, "not JSON");
  }
}

function sendPage(response, [file, type]) {
  const gateway = new URL(GATEWAY);
  response.setHeader("content-type", `${type}; charset=utf-8`);
  response.setHeader("content-security-policy", `default-src 'self'; img-src data:; connect-src 'self' ws://${gateway.host}`);
  createReadStream(file).pipe(response);
}

async function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, "http://any");
  if (request.method === "GET" && pathname in PAGES) return sendPage(response, PAGES[pathname]);
  const route = ROUTES[`${request.method} ${pathname}`];
  if (!route) throw new Refusal(404, "not found");
  const body = JSON.stringify(await route(request, searchParams));
  response.setHeader("content-type", "application/json");
  response.setHeader("cache-control", "no-store");
  response.end(body);
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (!error.status) console.error(error);
    response.writeHead(error.status ?? 500, { "content-type": "text/plain; charset=utf-8" });
    response.end(`${error.status ? error.message : "a fault of the server"}\n`);
  });
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`notifications at http://127.0.0.1:${PORT}`));
process.on("SIGTERM", () => process.exit(0));
