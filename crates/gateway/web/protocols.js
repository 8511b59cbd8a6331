// What is said over a connection both ways: the native protocol and STOMP 1.2, behind one face.
//
// A protocol is made with { write, on }. `write(text)` sends one message of text; `on` has the
// callbacks connected({ session, user }), message({ topic, body, at, position }),
// joined({ topic, position, recovered, reason }), accepted(receipt), refused({ code, message, fatal }),
// reconnect({ afterMs }) and lost(why). A position is "epoch:offset".

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The native protocol, `fanlight.v1.json`. */
export class Native {
  static subprotocol = "fanlight.v1.json";

  constructor({ write, on }) {
    this.write = (message) => write(JSON.stringify(message));
    this.on = on;
    this.nextId = 1;
    this.requests = new Map();
    this.beat = new Heartbeat(on.lost);
  }

  open(token) {
    this.write({ type: "connect", token });
  }

  join(topic, position) {
    const [epoch, offset] = position?.split(":") ?? [];
    const since = position && { epoch, offset: Number(offset) };
    this.request({ type: "subscribe", to: topic, since }, (ok) => this.on.joined({ topic, ...toldOf(ok) }));
  }

  send(topic, body) {
    return this.request({ type: "send", to: topic, data: body }, ({ id }) => this.on.accepted(id));
  }

  received(text) {
    this.beat.heard();
    const messages = parseJson(text);
    for (const message of Array.isArray(messages) ? messages : [messages]) {
      this.handle(message ?? {});
    }
  }

  close() {
    this.beat.stop();
  }

  /** Sends with an id of its own; `done` gets the server's `ok`. */
  request(message, done) {
    const id = this.nextId++;
    this.requests.set(id, done);
    this.write({ ...message, id });
    return id;
  }

  handle(message) {
    switch (message.type) {
      case "connected":
        this.beat.start(message.heartbeat_ms, message.heartbeat_ms, () => this.write({ type: "ping" }));
        this.on.connected({ session: message.session, user: message.user });
        break;
      case "ok":
        this.requests.get(message.id)?.(message);
        this.requests.delete(message.id);
        break;
      case "message":
        this.on.message(messageOf(message));
        break;
      case "error":
        this.requests.delete(message.id);
        this.on.refused({ code: message.code, message: message.message, fatal: false });
        break;
      case "reconnect":
        this.on.reconnect({ afterMs: message.after_ms });
        break;
    }
  }
}

/** What a native `message` says, by whichever transport it came. */
export function messageOf(message) {
  return { topic: message.to, body: message.data, at: message.at, position: positionOf(message) };
}

/** What a native `ok` says of a subscription. */
export function toldOf({ recovered, reason, ...rest }) {
  return { position: positionOf(rest), recovered, reason };
}

/** As text; without a history there is none. */
function positionOf({ epoch, offset }) {
  return epoch === undefined ? undefined : `${epoch}:${offset}`;
}

/** STOMP 1.2 (https://stomp.github.io/stomp-specification-1.2.html), as much as a chat needs. */
export class Stomp {
  static subprotocol = "v12.stomp";

  constructor({ write, on }) {
    this.write = write;
    this.on = on;
    this.nextReceipt = 1;
    this.receipts = new Map();
    this.frames = new FrameReader();
    this.beat = new Heartbeat(on.lost);
  }

  open(token) {
    this.write(stompFrame("CONNECT", {
      "accept-version": "1.2",
      host: location.hostname,
      "heart-beat": `${STOMP_BEAT_MS},${STOMP_BEAT_MS}`,
      Authorization: `Bearer ${token}`,
    }));
  }

  join(topic, position) {
    const receipt = this.expect((id, { recovered, ...headers }) =>
      this.on.joined({ topic, ...toldOf({ ...headers, recovered: recovered && recovered === "true" }) }),
    );
    const since = position ? { "last-event-id": position } : {};
    this.write(stompFrame("SUBSCRIBE", { id: "room", destination: topic, receipt, ...since }));
  }

  send(topic, body) {
    const receipt = this.expect((id) => this.on.accepted(id));
    const headers = { destination: topic, "content-type": "application/json", receipt };
    this.write(stompFrame("SEND", headers, JSON.stringify(body)));
    return receipt;
  }

  received(text) {
    this.beat.heard();
    for (const frame of this.frames.push(text)) this.handle(frame);
  }

  close() {
    this.beat.stop();
  }

  expect(done) {
    const receipt = `r${this.nextReceipt++}`;
    this.receipts.set(receipt, done);
    return receipt;
  }

  handle({ command, headers, body }) {
    switch (command) {
      case "CONNECTED": {
        const [theySend, theyWant] = (headers["heart-beat"] ?? "0,0").split(",").map(Number);
        const sendMs = theyWant && Math.max(theyWant, STOMP_BEAT_MS);
        const hearMs = theySend && Math.max(theySend, STOMP_BEAT_MS);
        this.beat.start(sendMs, hearMs, () => this.write("\n"));
        this.on.connected({ session: headers.session, user: headers["user-name"] });
        break;
      }
      case "RECEIPT":
        this.receipts.get(headers["receipt-id"])?.(headers["receipt-id"], headers);
        this.receipts.delete(headers["receipt-id"]);
        break;
      case "MESSAGE":
        this.on.message({ topic: headers.destination, body: parseJson(body), at: undefined, position: positionOf(headers) });
        break;
      case "ERROR":
        this.receipts.delete(headers["receipt-id"]);
        this.on.refused({ code: headers.code, message: headers.message ?? body, fatal: true });
        break;
    }
  }
}

/** One STOMP frame as text, its headers escaped as 1.2 says; CONNECT's are not. */
export function stompFrame(command, headers, body = "") {
  const escape = command === "CONNECT" ? (value) => value : escapeHeader;
  const lines = Object.entries(headers).map(([name, value]) => `${escape(name)}:${escape(value)}`);
  if (body) lines.push(`content-length:${encoder.encode(body).length}`);
  return [command, ...lines, "", `${body}\0`].join("\n");
}

/** Collects bytes until a frame is whole: frames may be split over messages, or share one. */
export class FrameReader {
  constructor() {
    this.pending = new Uint8Array();
  }

  /** The frames that `text` completes, in order; heartbeats are left out. */
  push(text) {
    this.pending = concat(this.pending, encoder.encode(text));
    const frames = [];
    for (let frame = this.take(); frame; frame = this.take()) frames.push(frame);
    return frames;
  }

  take() {
    const start = this.pending.findIndex((byte) => byte !== LF && byte !== CR);
    this.pending = start < 0 ? new Uint8Array() : this.pending.subarray(start);
    const head = headOf(this.pending);
    if (!head) return undefined;
    const length = head.headers["content-length"];
    const end = length === undefined ? this.pending.indexOf(0, head.size) : head.size + Number(length);
    if (end < 0 || end >= this.pending.length) return undefined;
    const body = decoder.decode(this.pending.subarray(head.size, end));
    this.pending = this.pending.subarray(end + 1);
    return { command: head.command, headers: head.headers, body };
  }
}

/** Sends when it is time to, and tells when nothing was heard for twice as long as promised. */
class Heartbeat {
  constructor(lost) {
    this.lost = lost;
    this.heardAt = 0;
    this.timers = [];
  }

  start(sendMs, hearMs, send) {
    this.stop();
    this.heard();
    if (sendMs) this.timers.push(setInterval(send, sendMs));
    if (hearMs) this.timers.push(setInterval(() => this.check(hearMs), hearMs));
  }

  heard() {
    this.heardAt = performance.now();
  }

  check(hearMs) {
    if (performance.now() - this.heardAt > 2 * hearMs) this.lost("Nothing heard from the gateway");
  }

  stop() {
    this.timers.forEach(clearInterval);
    this.timers = [];
  }
}

/** Command and headers, once the empty line after them is there. */
function headOf(bytes) {
  const lines = [];
  let at = 0;
  for (;;) {
    const end = bytes.indexOf(LF, at);
    if (end < 0) return undefined;
    const line = decoder.decode(bytes.subarray(at, end)).replace(/\r$/, "");
    at = end + 1;
    if (line === "") break;
    lines.push(line);
  }
  const [command, ...rest] = lines;
  const unescape = command === "CONNECTED" ? (text) => text : unescapeHeader;
  const headers = Object.create(null);
  for (const line of rest) {
    const colon = line.indexOf(":");
    const name = unescape(line.slice(0, colon));
    headers[name] ??= unescape(line.slice(colon + 1)); // a repeated header: the first wins
  }
  return { command, headers, size: at };
}

function escapeHeader(text) {
  return String(text).replace(/[\\\r\n:]/g, (char) => ESCAPES[char]);
}

function unescapeHeader(text) {
  return text.replace(/\\[rnc\\]/g, (pair) => UNESCAPES[pair]);
}

function concat(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const PROTOCOLS = { native: Native, stomp: Stomp };

const STOMP_BEAT_MS = 10_000;
const LF = 10;
const CR = 13;
const ESCAPES = { "\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c" };
const UNESCAPES = { "\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":" };
