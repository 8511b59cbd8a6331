// The code of docs/backends in each language, and that of docs/spring.md, against a real gateway:
// webhooks' signatures, connect, message and disconnected, publishing to topics and users by the
// server API, what that refuses, tokens.
//
//   node backends.mjs --gateway PATH [LANGUAGE...]
//
// Prints one JSON line per language; exits with 1, and says why, where something did not hold or a
// language's tools are missing.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

import WebSocket from "ws";

import { Program, find, listens, runToEnd, takePort } from "../../examples/stack/processes.mjs";
import { ROOT } from "../../examples/stack/stack.mjs";
import { sign, theModuleIsStrict, withoutASecretItDoesNotBegin } from "./signatures.mjs";

const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { gateway: { type: "string" } } });
const FOLDER = join(ROOT, "docs/backends");
const PROBES = join(ROOT, "tests/js/signatures");

const LANGUAGES = {
  node: {
    needs: ["node"],
    start: () => [process.execPath, [join(FOLDER, "node/backend.mjs")]],
    probe: () => [process.execPath, [join(PROBES, "probe.mjs")]],
  },
  python: {
    needs: ["python3"],
    start: () => [find("python3"), [join(FOLDER, "python/backend.py")]],
    probe() {
      const env = { ...process.env, PYTHONPATH: join(FOLDER, "python"), PYTHONDONTWRITEBYTECODE: "1" };
      return [find("python3"), [join(PROBES, "probe.py")], { env }];
    },
  },
  go: {
    needs: ["go"],
    async start(folder, log) {
      const program = join(folder, "backend");
      await runToEnd("go build", find("go"), ["build", "-o", program, "."], { log, cwd: join(FOLDER, "go") });
      return [program, []];
    },
    probe: () => [find("go"), ["run", "."], { cwd: join(PROBES, "go") }],
  },
  java: {
    needs: ["java", "javac"],
    async start(folder, log) {
      const sources = join(FOLDER, "java");
      await runToEnd("javac", find("javac"), ["-d", folder, "-sourcepath", sources, join(sources, "Backend.java")], { log });
      return [find("java"), ["-XX:TieredStopAtLevel=1", "-cp", folder, "Backend"]];
    },
    probe: (folder) => [find("java"), ["-cp", folder, join(PROBES, "Probe.java")]],
  },
  spring: {
    needs: ["java", "javac", "mvn"],
    async start(folder, log) {
      const output = join(folder, "target");
      const application = "-Dstart-class=io.fanlight.examples.backend.BackendApplication";
      const args = ["--batch-mode", "--no-transfer-progress", "--quiet", "-DskipTests", `-Doutput=${output}`, application];
      await runToEnd("mvn", find("mvn"), [...args, "package"], { log, cwd: join(ROOT, "examples/spring-relay") });
      return [find("java"), ["-XX:TieredStopAtLevel=1", "-jar", join(output, "spring-relay-0.1.0.jar")]];
    },
  },
};

async function check(language) {
  const folder = mkdtempSync(join(tmpdir(), `fanlight-backend-${language}-`));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const log = join(folder, "log");
  // Once as a text, and once as other tools write such secrets.
  const secret = ["go", "node"].includes(language)
    ? `whsec_${randomBytes(32).toString("base64")}`
    : randomBytes(32).toString("hex");
  const secrets = { jwt: randomBytes(32).toString("hex"), webhook: secret, "api-key": randomBytes(32).toString("hex") };
  mkdirSync(join(folder, "secrets"));
  for (const [name, value] of Object.entries(secrets)) writeFileSync(join(folder, "secrets", name), value);
  const [port, api, clients, admin] = await Promise.all([0, 0, 0, 0].map(takePort));
  const text = readFileSync(join(FOLDER, "fanlight.toml"), "utf8").replace(":9000/", `:${port}/`);
  // A JVM that has just begun may be slow, where much else runs.
  writeFileSync(join(folder, "fanlight.toml"), text.replace("[[webhooks]]", '[[webhooks]]\ntimeout = "20s"'));

  const [command, args] = await LANGUAGES[language].start(folder, log);
  const env = {
    ...process.env,
    PORT: port,
    WEBHOOK_SECRET: secret,
    JWT_SECRET: secrets.jwt,
    API_KEY: secrets["api-key"],
    GATEWAY_API: `http://127.0.0.1:${api}/api/v1`,
  };
  const backend = new Program(language, command, args, { log, env });
  // Spring takes its time to end; its check is Java's.
  const bad = language === "spring" ? [""] : [undefined, "", "whsec_", "k".repeat(23)];
  const listen = ["--listen", clients, "--api", api, "--admin", admin];
  const at = listen.map((each) => (typeof each === "number" ? `127.0.0.1:${each}` : each));
  const gateway = new Program("gateway", resolve(options.gateway), ["serve", "--config", "fanlight.toml", ...at], {
    log,
    cwd: folder,
    env: { ...process.env, FANLIGHT__APP__TIMEOUT: "30s", FANLIGHT__LIMITS__CONNECT_TIME: "30s" },
  });
  try {
    await backend.until(() => listens(port), 180);
    await gateway.until(async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok);
    await withoutASecretItDoesNotBegin(bad, [command, args], { folder, env });
    const { probe } = LANGUAGES[language];
    if (probe) await theModuleIsStrict(probe(folder));
    await onlyGoodSignaturesAreTaken(`http://127.0.0.1:${port}/fanlight`, secret);
    await theGatewayAndTheBackendWorkTogether(`http://127.0.0.1:${port}`, `ws://127.0.0.1:${clients}/ws`);
    await whatIsTooLargeIsTheClientsFault(`http://127.0.0.1:${port}`, `ws://127.0.0.1:${clients}/ws`);
  } catch (error) {
    throw new Error(`${language}: ${error.stack}\n${backend.said()}`);
  } finally {
    await Promise.all([backend.stop(), gateway.stop()]);
  }
}

async function onlyGoodSignaturesAreTaken(url, secret) {
  const now = Math.floor(Date.now() / 1000);
  const good = { secret, id: "msg_1", timestamp: now, body: '{"type":"connected","user":"änn"}' };
  const headers = (signature, { id, timestamp } = good) => ({
    "webhook-id": id,
    "webhook-timestamp": `${timestamp}`,
    ...(signature !== undefined && { "webhook-signature": signature }),
  });
  const other = { ...good, secret: "another secret, which is long enough" };
  const cases = [
    [200, headers(sign(good)), good.body],
    [200, headers(`${sign(other)} ${sign(good)}`), good.body],
    [401, headers(sign(other)), good.body],
    [401, headers(sign(good)), good.body.replace("connected", "connecteD")],
    [401, headers(sign(good), { ...good, id: "msg_2" }), good.body],
    [401, headers(sign(good), { ...good, timestamp: now - 1 }), good.body],
    [401, headers(sign(good).replace("v1,", "v2,")), good.body],
    [401, headers(sign(good).slice(0, 20)), good.body],
    [401, headers(""), good.body],
    [401, headers(), good.body],
    [401, {}, good.body],
  ];
  for (const [status, timestamp] of [[200, now - 200], [200, now + 200], [401, now - 400], [401, now + 400], [401, "9".repeat(5000)]]) {
    const late = { ...good, timestamp };
    cases.push([status, headers(sign(late), late), good.body]);
  }
  for (const [status, header, body] of cases) {
    const response = await fetch(url, { method: "POST", headers: header, body });
    assert.equal(response.status, status, `${JSON.stringify(header).slice(0, 300)} ${body}: ${await response.text()}`);
  }
}

async function theGatewayAndTheBackendWorkTogether(backend, gateway) {
  const mallory = new Client(gateway, await token(backend, "mallory"));
  await mallory.expect(({ type, message }) => type === "error" && /not welcome/.test(message));

  const [ann, bob] = [new Client(gateway, await token(backend, "ann")), new Client(gateway, await token(backend, BOB))];
  for (const client of [ann, bob]) {
    await client.expect(({ type }) => type === "connected");
    client.send({ type: "subscribe", to: "/topic/greetings", id: 1 });
    client.send({ type: "subscribe", to: "/user/queue/replies", id: 2 });
    client.send({ type: "subscribe", to: "/user/queue/alerts", id: 3 });
    await client.expect(({ type, id }) => type === "ok" && id === 3);
  }
  ann.send({ type: "send", to: "/app/greet", data: { text: 'hello "all" – 🪭' }, id: 4 });
  await ann.expect(({ type, id }) => type === "ok" && id === 4);
  await ann.expect(({ to, data }) => to === "/user/queue/replies" && data.heard === 'hello "all" – 🪭');
  for (const client of [ann, bob]) {
    await client.expect(({ to, data }) => to === "/topic/greetings" && data.from === "ann" && /"all" – 🪭/.test(data.text));
  }
  assert.equal(bob.has(({ to }) => to === "/user/queue/replies"), false);
  for (const data of [null, "hello", { text: 1 }]) {
    ann.send({ type: "send", to: "/app/greet", data, id: "bad" });
    await ann.expect(({ type, id, code }) => type === "error" && id === "bad" && code === "bad_greeting");
    ann.forget(({ id }) => id === "bad");
  }

  const notified = await fetch(`${backend}/notify?user=${encodeURIComponent(BOB)}`, { method: "POST", body: "paid – 🪭" });
  assert.equal(notified.status, 200);
  await bob.expect(({ to, data }) => to === "/user/queue/alerts" && data.text === "paid – 🪭");
  bob.close();
  await ann.expect(({ to, data }) => to === "/topic/greetings" && data.left === BOB);
  assert.equal(ann.has(({ to }) => to === "/user/queue/alerts"), false);
  for (const client of [ann, mallory]) client.close();
}

/** With the user's name, the message exceeds `limits.message` only where the backend publishes it. */
async function whatIsTooLargeIsTheClientsFault(backend, gateway) {
  const carol = new Client(gateway, await token(backend, "carol".padEnd(128, "l")));
  await carol.expect(({ type }) => type === "connected");
  carol.send({ type: "subscribe", to: "/user/queue/replies", id: 1 });
  await carol.expect(({ type, id }) => type === "ok" && id === 1);
  carol.send({ type: "send", to: "/app/greet", data: { text: "x".repeat(MESSAGE_MAX - 100) }, id: 2 });
  await carol.expect(({ type, id, code, message }) => type === "error" && id === 2 && code === "too_large" && /limits.message/.test(message));
  carol.send({ type: "send", to: "/app/greet", data: { text: "short" }, id: 3 });
  await carol.expect(({ to, data }) => to === "/user/queue/replies" && data.heard === "short");
  const notified = await fetch(`${backend}/notify?user=ann`, { method: "POST", body: "x".repeat(MESSAGE_MAX - 1) });
  assert.equal(notified.status, 413, await notified.text());
  carol.close();
}

async function token(backend, user) {
  return (await fetch(`${backend}/token?user=${encodeURIComponent(user)}`)).text();
}

/** `limits.message`, by default. */
const MESSAGE_MAX = 65_536;

/** A user whose name has to be encoded in a destination. */
const BOB = "bob/ö & 1";

/** Speaks the native protocol, and keeps what came. */
class Client {
  #socket;
  #got = [];
  #wake = () => {};

  constructor(url, token) {
    this.#socket = new WebSocket(url, "fanlight.v1.json");
    this.#socket.on("open", () => this.send({ type: "connect", token }));
    this.#socket.on("message", (text) => {
      this.#got.push(...[JSON.parse(text)].flat());
      this.#wake();
    });
    this.#socket.on("error", (error) => this.#got.push({ type: "broken", message: error.message }));
  }

  send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  has(is) {
    return this.#got.some(is);
  }

  forget(is) {
    this.#got = this.#got.filter((message) => !is(message));
  }

  async expect(is) {
    const deadline = Date.now() + 40_000;
    while (!this.has(is)) {
      assert(Date.now() < deadline, `${is} never came, but ${JSON.stringify(this.#got)}`);
      await Promise.race([new Promise((wake) => (this.#wake = wake)), new Promise((wake) => setTimeout(wake, 100))]);
    }
  }

  close() {
    this.#socket.terminate();
  }
}

async function main() {
  const example = {
    secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
    timestamp: 1614265330,
    body: '{"test": 2432232314}',
  };
  assert.equal(sign(example), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
  const languages = positionals.length > 0 ? positionals : Object.keys(LANGUAGES);
  const outcomes = await Promise.allSettled(
    languages.map(async (language) => {
      const missing = LANGUAGES[language].needs.filter((program) => !find(program));
      if (missing.length > 0) throw new Error(`${language}: missing ${missing.join(", ")}: run cargo xtask test, which installs what is missing`);
      const started = Date.now();
      await check(language);
      print({ language, held: true, ms: Date.now() - started });
    }),
  );
  const failed = outcomes.filter(({ reason }) => reason);
  for (const { reason } of failed) console.error(reason.message);
  process.exit(failed.length > 0 ? 1 : 0);
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

await main();
