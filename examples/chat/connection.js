// STOMP by @stomp/stompjs, with what it leaves to applications: to go on behind the last message
// after a loss, and to send again what nobody has confirmed.
/* global StompJs */

/** Nothing has happened, or it is not known: it is tried again, under the same id. */
const TRY_AGAIN = ["unavailable", "timeout", "unknown", "overloaded"];

export class Connection {
  #subscriptions = new Set();
  #requests = new Map();
  #outbox = [];
  #isSending = false;
  #last = 0;

  /** `onRefused` hears why something was not taken, and what. */
  constructor({ session, onState, onRefused }) {
    this.onRefused = onRefused;
    this.client = new StompJs.Client({
      reconnectDelay: 300,
      maxReconnectDelay: 20_000,
      reconnectTimeMode: StompJs.ReconnectionTimeMode.EXPONENTIAL,
      beforeConnect: async (client) => {
        const { token, gateway } = await session();
        client.brokerURL = `${gateway.replace(/^http/, "ws")}/ws`;
        client.connectHeaders = { Authorization: `Bearer ${token}` };
      },
      onConnect: () => {
        onState("online");
        this.#subscriptions.forEach((subscription) => this.#begin(subscription));
        this.#pump();
      },
      onWebSocketClose: () => {
        this.#isSending = false;
        this.#requests.clear();
        onState("waiting");
      },
      onStompError: ({ headers }) => console.error(headers.message),
    });
    this.subscribe("/user/queue/errors", { onMessage: (error) => this.#failed(error) });
    this.client.activate();
  }

  /**
   * Subscribes, now and after each loss. `onMessage` gets each message once, and its headers;
   * `onLive` whether what was missed has come (`recovered`). Gives a function that ends it.
   */
  subscribe(destination, { headers, onMessage, onLive }) {
    const subscription = { destination, headers, onMessage, onLive };
    this.#subscriptions.add(subscription);
    if (this.client.connected) this.#begin(subscription);
    return () => {
      this.#subscriptions.delete(subscription);
      if (this.client.connected) subscription.handle?.unsubscribe();
    };
  }

  #begin(subscription) {
    const { destination, headers, position, onMessage, onLive } = subscription;
    const receipt = `subscribed-${++this.#last}`;
    this.client.watchForReceipt(receipt, ({ headers: { recovered, epoch, offset } }) => {
      if (epoch !== undefined) subscription.position = { epoch, offset };
      onLive?.({ recovered: recovered === "true" });
    });
    const got = (message) => {
      const { epoch, offset, lost } = message.headers;
      if (epoch !== undefined) subscription.position = { epoch, offset };
      if (lost !== undefined) onLive?.({ recovered: false });
      onMessage(JSON.parse(message.body), message.headers);
    };
    subscription.handle = this.client.subscribe(destination, got, { ...headers, ...position, receipt });
  }

  /** What the backend answers to a SUBSCRIBE, once it does; to be asked anew after a loss. */
  request(destination) {
    return new Promise((resolve) => {
      const ask = () => {
        const handle = this.client.subscribe(destination, (message) => {
          handle.unsubscribe();
          this.#requests.delete(destination);
          resolve(JSON.parse(message.body));
        });
      };
      this.#requests.set(destination, ask);
      ask();
    });
  }

  /** Sends one after the other, each until it is confirmed or refused. */
  send(destination, data) {
    this.#outbox.push({ destination, data });
    this.#pump();
  }

  /** Sends what is of no use later. */
  tell(destination) {
    if (this.client.connected) this.client.publish({ destination, body: "{}", headers: JSON_TYPE });
  }

  #pump() {
    const next = this.#outbox[0];
    if (!next || this.#isSending || !this.client.connected) return;
    this.#isSending = true;
    const receipt = `sent-${++this.#last}`;
    // The backend has kept it: that is what a receipt for a message to /app means.
    this.client.watchForReceipt(receipt, () => this.#done());
    const { destination, data } = next;
    this.client.publish({ destination, body: JSON.stringify(data), headers: { ...JSON_TYPE, receipt } });
  }

  #done() {
    this.#outbox.shift();
    this.#isSending = false;
    this.#pump();
  }

  #failed({ code, message, destination }) {
    const ask = this.#requests.get(destination);
    if (ask && TRY_AGAIN.includes(code)) {
      setTimeout(() => this.client.connected && this.#requests.get(destination) === ask && ask(), 500);
    }
    if (destination !== this.#outbox[0]?.destination) return;
    if (TRY_AGAIN.includes(code)) {
      setTimeout(() => {
        this.#isSending = false;
        this.#pump();
      }, 500);
      return;
    }
    this.onRefused(message, this.#outbox[0].data);
    this.#done();
  }
}

const JSON_TYPE = { "content-type": "application/json" };
