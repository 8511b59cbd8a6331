// A connection that comes back by any transport: token, link, a jittered backoff between tries, and
// the position from which it goes on.

import { TRANSPORTS } from "./transports.js";

/**
 * Keeps one user in one topic until `leave`.
 *
 * `on` has state({ state, text }), session(id), message(message), joined({ recovered, missed, reason }),
 * accepted(id), refused(error) and frame(direction, text).
 */
export class Connection {
  constructor({ transport, protocol, user, topic, position, on }) {
    this.transport = TRANSPORTS[transport];
    this.protocol = protocol;
    this.user = user;
    this.topic = topic;
    this.position = position;
    this.on = on;
    this.failures = 0;
    this.open();
  }

  /** Sends a chat message; gives the id that `accepted` will tell. */
  send(body) {
    return this.link.send(this.topic, body);
  }

  /** Sends any text as the transport sends one message. */
  write(text) {
    this.link?.write(text);
  }

  reconnectNow() {
    this.failures = 0;
    this.open();
  }

  /** Loses the connection, and stays away long enough to miss something. */
  cut() {
    this.drop();
    this.retryLater("Cut off", CUT_MS);
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
      if (this.attempt !== attempt) return;
      const { protocol, topic, position } = this;
      this.link = this.transport.open({ protocol, token, topic, position, on: this.callbacks(attempt) });
    } catch (error) {
      if (this.attempt === attempt) this.retryLater(error.message);
    }
  }

  /** What a link tells. Each first asks whether the link is still ours: a dropped one must stay silent. */
  callbacks(attempt) {
    const ours = (handle) => (...told) => this.attempt === attempt && handle(...told);
    const { frame, accepted, refused } = this.on;
    let advisedMs;
    let missed = 0;
    let isLive = false;
    return {
      frame: ours(frame),
      accepted: ours(accepted),
      refused: ours(refused),
      connected: ours(({ session, user }) => {
        this.failures = 0;
        this.on.session(session);
        this.on.state({ state: "online", text: `Connected as ${user ?? this.user}` });
      }),
      message: ours((message) => {
        if (message.topic !== this.topic) return;
        this.position = message.position ?? this.position;
        if (!isLive) missed += 1;
        this.on.message({ ...message, recovered: !isLive });
      }),
      joined: ours(({ topic, position, recovered, reason }) => {
        if (topic !== this.topic) return;
        isLive = true;
        this.position = position ?? this.position;
        this.on.joined({ recovered, missed, reason });
      }),
      reconnect: ours(({ afterMs }) => (advisedMs = afterMs)),
      closed: ours(({ why, isFinal }) => {
        this.drop();
        if (isFinal) this.on.state({ state: "stopped", text: why });
        else this.retryLater(why, advisedMs);
      }),
    };
  }

  /** Waits a random part of a time that doubles up to 15 seconds, so that clients do not return at once. */
  retryLater(why, advisedMs) {
    const longest = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** this.failures++);
    const waitMs = advisedMs ?? FIRST_WAIT_MS / 2 + Math.random() * longest;
    this.on.state({ state: "waiting", text: `${why}. Again in ${(waitMs / 1000).toFixed(1)} s` });
    this.retry = setTimeout(() => this.open(), waitMs);
  }

  /** Lets go of the link without hearing from it again. */
  drop() {
    const link = this.link;
    this.attempt = undefined;
    this.link = undefined;
    this.on.session(undefined);
    link?.close();
  }
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
const CUT_MS = 5_000;
