// A connection that comes back: token, WebSocket, protocol, and a jittered backoff between tries.

import { Native, Stomp } from "./protocols.js";

export const PROTOCOLS = { native: Native, stomp: Stomp };

/**
 * Keeps one user in one topic until `leave`.
 *
 * `on` has state({ state, text }), session(id), message(message), joined(topic), accepted(receipt),
 * refused(error) and frame(direction, text).
 */
export class Connection {
  constructor({ protocol, user, topic, on }) {
    this.Protocol = PROTOCOLS[protocol];
    this.user = user;
    this.topic = topic;
    this.on = on;
    this.failures = 0;
    this.open();
  }

  /** Sends a chat message; gives the id that `accepted` will tell. */
  send(body) {
    return this.protocol.send(this.topic, body);
  }

  /** Sends any text as one WebSocket message. */
  write(text) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send(text);
    this.on.frame("out", text);
  }

  reconnectNow() {
    this.failures = 0;
    this.open();
  }

  leave() {
    clearTimeout(this.retry);
    this.drop();
    this.on.state({ state: "offline", text: "Not connected" });
  }

  async open() {
    clearTimeout(this.retry);
    this.drop();
    this.on.state({ state: "connecting", text: "Connecting…" });
    const attempt = (this.attempt = {});
    try {
      const token = await fetchToken(this.user);
      if (this.attempt === attempt) this.openSocket(token);
    } catch (error) {
      if (this.attempt === attempt) this.retryLater(error.message);
    }
  }

  openSocket(token) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`, this.Protocol.subprotocol);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.advisedMs = undefined;
    this.protocol = new this.Protocol({ write: (text) => this.write(text), on: this.callbacks() });
    // Each handler first asks whether the socket is still ours: a dropped one must stay silent.
    const ours = (handle) => (event) => this.socket === socket && handle(event);
    socket.onopen = ours(() => this.protocol.open(token));
    socket.onmessage = ours(({ data }) => {
      const text = typeof data === "string" ? data : new TextDecoder().decode(data);
      this.on.frame("in", text);
      this.protocol.received(text);
    });
    socket.onclose = ours(({ code, reason }) => this.closed(code, reason));
  }

  callbacks() {
    const { message, joined, accepted } = this.on;
    return {
      message,
      accepted,
      joined,
      connected: ({ session, user }) => {
        this.failures = 0;
        this.on.session(session);
        this.on.state({ state: "online", text: `Connected as ${user ?? this.user}` });
        this.protocol.join(this.topic);
      },
      refused: (error) => this.on.refused(error),
      reconnect: ({ afterMs }) => (this.advisedMs = afterMs),
      lost: (why) => {
        this.drop();
        this.retryLater(why);
      },
    };
  }

  closed(code, reason) {
    const why = `Closed: ${reason || "connection lost"} (${code})`;
    const advisedMs = this.advisedMs;
    this.drop();
    if (isFinal(code)) {
      this.on.state({ state: "stopped", text: why });
    } else {
      this.retryLater(why, advisedMs);
    }
  }

  /** Waits a random part of a time that doubles up to 15 seconds, so that clients do not return at once. */
  retryLater(why, advisedMs) {
    const longest = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** this.failures++);
    const waitMs = advisedMs ?? FIRST_WAIT_MS / 2 + Math.random() * longest;
    this.on.state({ state: "waiting", text: `${why}. Again in ${(waitMs / 1000).toFixed(1)} s` });
    this.retry = setTimeout(() => this.open(), waitMs);
  }

  /** Lets go of the socket without hearing from it again. */
  drop() {
    const socket = this.socket;
    this.attempt = undefined;
    this.socket = undefined;
    this.protocol?.close();
    this.on.session(undefined);
    socket?.close(1000);
  }
}

/** Codes after which the same client would only fail again. A fresh token comes with each try, so
 *  an expired or refused one (4501, 4502) is worth another. */
function isFinal(code) {
  return [1002, 1003, 1007, 1009].includes(code) || (code >= 4503 && code <= 4599);
}

async function fetchToken(user) {
  const response = await fetch(`dev/token?user=${encodeURIComponent(user)}`).catch(() => {
    throw new Error("The gateway does not answer");
  });
  if (!response.ok) throw new Error(`No token (HTTP ${response.status})`);
  const { token } = await response.json();
  return token;
}

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 15_000;
