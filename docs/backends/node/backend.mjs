// A backend behind Fanlight: says who may connect, answers messages, hears of disconnects, pushes to
// users, mints tokens.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

import { Refused, isGenuine, mintToken, publish, webhookKey } from "./fanlight.mjs";

const { PORT, WEBHOOK_SECRET, JWT_SECRET, GATEWAY_API, API_KEY } = process.env;
const api = { url: GATEWAY_API, apiKey: API_KEY };
// Ends it here, rather than to take what anybody has signed.
webhookKey(WEBHOOK_SECRET);

const ANSWERS = {
  connect({ user }) {
    return user && user !== "mallory" ? { allow: true } : { allow: false, reason: "not welcome" };
  },

  async message({ id, user, data }) {
    // What is the client's fault is an answer: failures count against this backend.
    if (typeof data?.text !== "string") return { error: { code: "bad_greeting", message: "`text` is missing" } };
    // To all by the server API, under the webhook's own id: a retry publishes nothing twice.
    await publish(api, "/topic/greetings", { from: user, text: data.text }, id);
    // To the session that sent it, as the answer.
    return { send: [{ to: "/user/queue/replies", only: "session", data: { heard: data.text } }] };
  },

  // Of one session; its user may have others. Told again until this succeeds, so under its id too.
  async disconnected({ id, user }) {
    await publish(api, "/topic/greetings", { left: user }, id);
  },
};

async function webhook(headers, body) {
  if (!isGenuine(headers, body, WEBHOOK_SECRET)) return [401, "no good signature"];
  const event = JSON.parse(body);
  try {
    return [200, JSON.stringify((await ANSWERS[event.type]?.(event)) ?? {})];
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    // Not this backend's failure: the client is told.
    return [200, JSON.stringify({ error: { code: error.code, message: error.message } })];
  }
}

/** To all sessions of a user, wherever they are. The key is of what happened, not of the attempt. */
async function notify(user, text) {
  const to = `/user/${encodeURIComponent(user)}/queue/alerts`;
  return [200, JSON.stringify(await publish(api, to, { text }, randomUUID()))];
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://any");
  const user = searchParams.get("user");
  let answer = [404, "not found"];
  try {
    const body = await read(request);
    if (pathname === "/fanlight") answer = await webhook(request.headers, body);
    // A real one asks who is there, and has nobody else notify its users.
    if (pathname === "/token") answer = [200, mintToken(user, 3600, JWT_SECRET)];
    if (pathname === "/notify") answer = await notify(user, body.toString());
  } catch (error) {
    // The sender is told that it did not work.
    answer = [error instanceof Refused ? error.status : 503, error.message];
  }
  response.writeHead(answer[0]).end(answer[1]);
});
server.listen(Number(PORT), "127.0.0.1");
