// A small client of `fanlight.v1.json` (docs/protocol.md): comes back after a loss, to whichever
// node, and goes on behind the last message that it had.

/** The closes after which coming back is of no use: see "Close codes" in docs/protocol.md. */
const STOPS = [1000, 1002, 1003, 1007, 1009, 4503, 4505, 4508, 4509, 4510, 4511, 4512];

/** What is wrong may be over soon. */
const TRY_AGAIN = ["unavailable", "timeout", "overloaded", "rate_limited"];

export class Connection {
  #session;
  #onState;
  #socket;
  #subscriptions = new Map();
  #requests = new Map();
  #lastId = 0;
  #delay = 500;

  /** `session()` fetches `{token, gateway}`; `onState` hears `online`, `waiting` and `stopped`. */
  constructor({ session, onState }) {
    this.#session = session;
    this.#onState = onState;
    this.#connect();
  }

  /**
   * Subscribes, now and after each loss. `onMessage` gets each message once. `onLive` gets the
   * answer: whether what was missed has come (`recovered`, `count`), or the state is to be fetched
   * anew, as also when a message is lost for good. `onRefused` gets an error, and that is the end.
   */
  subscribe(to, { since, onMessage, onLive, onRefused }) {
    const subscription = { to, since, onMessage, onLive, onRefused };
    this.#subscriptions.set(to, subscription);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#subscribe(subscription);
  }

  #subscribe(subscription) {
    const { to, since } = subscription;
    const id = ++this.#lastId;
    this.#requests.set(id, subscription);
    this.#send({ type: "subscribe", to, ...(since && { since }), id });
  }

  async #connect() {
    try {
      const { token, gateway } = await this.#session();
      const socket = new WebSocket(`${gateway.replace(/^http/, "ws")}/ws`, "fanlight.v1.json");
      this.#socket = socket;
      socket.onopen = () => this.#send({ type: "connect", token });
      socket.onmessage = ({ data }) => this.#receive([JSON.parse(data)].flat());
      socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    } catch {
      this.#closed();
    }
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #receive(messages) {
    this.heard = Date.now();
    for (const message of messages) this[`on_${message.type}`]?.(message);
  }

  on_connected({ heartbeat_ms: heartbeat }) {
    this.#delay = 500;
    this.#onState("online");
    this.#subscriptions.forEach((subscription) => this.#subscribe(subscription));
    // A connection that has died without a word is known by the pongs that do not come.
    this.beat = setInterval(() => {
      if (Date.now() - this.heard > 2 * heartbeat) this.#socket.close(4000);
      else this.#send({ type: "ping" });
    }, heartbeat);
  }

  on_ok({ id, epoch, offset, ...answer }) {
    const subscription = this.#requests.get(id);
    this.#requests.delete(id);
    if (!subscription) return;
    const isReturn = subscription.since !== undefined;
    if (epoch !== undefined) subscription.since = { epoch, offset };
    subscription.onLive?.({ ...answer, isReturn });
  }

  on_message({ to, data, epoch, offset, ...more }) {
    const subscription = this.#subscriptions.get(to);
    if (!subscription) return;
    if (epoch !== undefined) subscription.since = { epoch, offset };
    subscription.onMessage(data, { position: subscription.since, ...more });
  }

  on_lost({ to, epoch, offset, reason }) {
    const subscription = this.#subscriptions.get(to);
    if (!subscription) return;
    subscription.since = { epoch, offset };
    subscription.onLive?.({ recovered: false, reason, isReturn: true });
  }

  on_error({ id, code, message, retry_after_ms: after = 1000 }) {
    const subscription = this.#requests.get(id);
    this.#requests.delete(id);
    if (subscription && TRY_AGAIN.includes(code)) {
      const socket = this.#socket;
      setTimeout(() => this.#socket === socket && socket.readyState === 1 && this.#subscribe(subscription), after);
      return undefined;
    }
    if (!subscription?.onRefused) return console.error(`${code}: ${message}`);
    this.#subscriptions.delete(subscription.to);
    return subscription.onRefused({ code, message });
  }

  /** Advice of a node that goes away: the close that follows is no reason to hurry. */
  on_reconnect({ after_ms: after }) {
    this.advised = after;
  }

  #closed(code, reason) {
    clearInterval(this.beat);
    this.#requests.clear();
    if (STOPS.includes(code)) return this.#onState("stopped", `ended: ${reason || code}`);
    this.#onState("waiting");
    // Longer each time, and not all at once, as after a deploy many come back together.
    setTimeout(() => this.#connect(), this.advised ?? Math.random() * this.#delay);
    this.advised = undefined;
    this.#delay = Math.min(this.#delay * 2, 20_000);
  }
}
