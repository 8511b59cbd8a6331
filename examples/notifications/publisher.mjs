// Publishes to users by the server API, in order, and again until the gateway has it.
import { readFileSync } from "node:fs";

const { GATEWAY_API, API_KEY_FILE } = process.env;

/** Gives `publish(user, key, data)`: under one key the gateways publish once, however often it is sent. */
export function publisher() {
  const apiKey = readFileSync(API_KEY_FILE, "utf8").trim();
  const queues = new Map();
  let waiting = 0;
  const publish = (user, key, data) => {
    waiting += 1;
    // What is for one user is published in the order in which it happened.
    const done = (queues.get(user) ?? Promise.resolve()).then(() => untilPublished(apiKey, user, key, data));
    queues.set(user, done);
    done.finally(() => {
      waiting -= 1;
      if (queues.get(user) === done) queues.delete(user);
    });
  };
  return Object.assign(publish, { waiting: () => waiting });
}

async function untilPublished(apiKey, user, key, data) {
  for (let delay = 100; ; delay = Math.min(delay * 2, 5000)) {
    try {
      const response = await fetch(`${GATEWAY_API}/users/${encodeURIComponent(user)}/messages`, {
        method: "POST",
        headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify({ to: "/user/queue/notifications", data }),
        signal: AbortSignal.timeout(5000),
      });
      if (response.ok) return;
      const why = `${response.status} ${await response.text()}`;
      // Other refusals stay what they are, however often it is tried.
      if (response.status < 500 && response.status !== 429) return console.error(`refused: ${why}`);
      console.error(`not published yet: ${why}`);
    } catch (error) {
      console.error(`not published yet: ${error.cause?.message ?? error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
}
