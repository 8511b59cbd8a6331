// What a backend does with Fanlight: check its webhooks, publish, mint tokens.
import { createHmac, timingSafeEqual } from "node:crypto";

/** What webhooks are signed with. A secret that is missing or short would let anybody sign them. */
export function webhookKey(secret = "") {
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : Buffer.from(secret);
  if (key.length < 24) throw new Error("the webhooks' secret is missing, or has fewer than 24 bytes");
  return key;
}

/** Checks that a webhook comes from the gateway, unchanged and just now (Standard Webhooks). */
export function isGenuine(headers, body, secret, now = Date.now()) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  if (!/^\d+$/.test(timestamp) || !(Math.abs(now / 1000 - Number(timestamp)) <= 300)) return false;
  const expected = createHmac("sha256", webhookKey(secret)).update(`${id}.${timestamp}.`).update(body).digest();
  // There are several while a secret is being replaced by another.
  return (headers["webhook-signature"] ?? "").split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

/** What the server API takes from nobody, such as a message that is too large: no use in trying again. */
export class Refused extends Error {
  constructor(status, { code = "refused", detail = `the server API said ${status}` }) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

/** Publishes once for each key within five minutes, so whoever gets no answer tries again. */
export async function publish({ url, apiKey }, to, data, key) {
  const response = await fetch(`${url}/publish`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json", "idempotency-key": key },
    body: JSON.stringify({ to, data }),
    signal: AbortSignal.timeout(5000),
  });
  if ([400, 413, 422].includes(response.status)) throw new Refused(response.status, await response.json().catch(() => ({})));
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response.json();
}

/** A token (JWT, HS256) for a user that is good for so many seconds. */
export function mintToken(user, seconds, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + seconds };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
