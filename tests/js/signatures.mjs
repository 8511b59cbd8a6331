// Signatures of webhooks, and which of them the code of docs/backends must and must not take.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { Program } from "../../examples/stack/processes.mjs";

/** As the specification of Standard Webhooks says. */
export function sign({ secret, id, timestamp, body }) {
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : Buffer.from(secret);
  return `v1,${createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64")}`;
}

/** Where the tolerance ends and what a key must have, by a small program around the module itself. */
export async function theModuleIsStrict([command, args, options]) {
  const now = 1_764_000_000;
  const secret = "k".repeat(24);
  const other = (size) => `whsec_${Buffer.alloc(size, 7).toString("base64")}`;
  const cases = [
    ["true", now, secret],
    ["true", now - 300, secret],
    ["true", now + 300, secret],
    ["false", now - 301, secret],
    ["false", now + 301, secret],
    ["true", now, other(24)],
    // Anybody could have signed these.
    ["refused", now, ""],
    ["refused", now, "whsec_"],
    ["refused", now, "k".repeat(23)],
    ["refused", now, other(23)],
    ["false", "9".repeat(5000), secret],
    ["false", "9223372036854775807", secret],
    ["false", "-9223372036854775808", secret],
    ["false", `0x${now.toString(16)}`, secret],
    ["false", "", secret],
  ];
  const words = cases.flatMap(([, timestamp, secret]) => {
    const signature = sign({ secret, id: "msg_1", timestamp, body: "{}" });
    return [`${timestamp}`, signature, secret, `${now}`];
  });
  const { stdout } = await promisify(execFile)(command, [...args, ...words], options);
  const said = stdout.trim().split("\n");
  for (const [at, [expected, timestamp, secret]] of cases.entries()) {
    const what = `${timestamp} signed with ${JSON.stringify(secret)}: ${said[at]}`;
    assert(said[at]?.startsWith(expected) && (expected === "true" || !said[at].endsWith("true")), what);
  }
  assert.equal(said.length, cases.length);
}

/** A backend without a secret, or with a short one, does not even begin. */
export async function withoutASecretItDoesNotBegin(secrets, [command, args], { folder, env }) {
  const tries = secrets.map(async (secret, at) => {
    const log = join(folder, `log-${at}`);
    const { WEBHOOK_SECRET: _, ...others } = env;
    const own = secret === undefined ? others : { ...others, WEBHOOK_SECRET: secret };
    const program = new Program("a backend without a secret", command, args, { log, env: own });
    const timer = setTimeout(() => program.kill(), 120_000);
    const how = await program.ended;
    clearTimeout(timer);
    const said = readFileSync(log, "utf8");
    assert.match(how, /^ended with [1-9]/, `with ${JSON.stringify(secret)} it ${how}: ${said}`);
    assert.match(said, /webhooks' secret is missing, or has fewer than 24 bytes/);
  });
  await Promise.all(tries);
}
