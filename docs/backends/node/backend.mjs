// A backend behind Fanlight: says who may connect, answers messages, publishes, mints tokens.
import { createServer } from "node:http";

import { isGenuine, mintToken, publish } from "./fanlight.mjs";

const { PORT, WEBHOOK_SECRET, JWT_SECRET, GATEWAY_API, API_KEY } = process.env;
const api = { url: GATEWAY_API, apiKey: API_KEY };

const ANSWERS = {
  connect({ user }) {
    return user && user !== "mallory" ? { allow: true } : { allow: false, reason: "not welcome" };
  },

  async message({ id, user, data }) {
    // To all by the server API, under the webhook's own id: a retry publishes nothing twice.
    await publish(api, "/topic/greetings", { from: user, text: data.text }, id);
    // To the session that sent it, as the answer.
    return { send: [{ to: "/user/queue/replies", only: "session", data: { heard: data.text } }] };
  },
};

async function webhook(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isGenuine(request.headers, body, WEBHOOK_SECRET)) return [401, "no good signature"];
  const event = JSON.parse(body);
  return [200, JSON.stringify((await ANSWERS[event.type]?.(event)) ?? {})];
}

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://any");
  let answer = [404, "not found"];
  try {
    if (pathname === "/fanlight") answer = await webhook(request);
    // A real one asks who is there.
    if (pathname === "/token") answer = [200, mintToken(searchParams.get("user"), 3600, JWT_SECRET)];
  } catch (error) {
    // The sender is told that it did not work.
    answer = [503, error.message];
  }
  response.writeHead(answer[0]).end(answer[1]);
});
server.listen(Number(PORT), "127.0.0.1");
