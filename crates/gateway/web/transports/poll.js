// Long polling: GET /poll waits for messages, POST /publish sends them.

import { messageOf, toldOf } from "../protocols.js";
import { Publisher, bearer, isFinalStatus, problemOf } from "./http.js";

export class PollLink {
  constructor({ token, topic, position, on }) {
    this.on = on;
    this.topic = topic;
    this.token = token;
    this.cursor = position;
    this.aborter = new AbortController();
    this.publisher = new Publisher({ token, signal: this.aborter.signal, on });
    this.receive().catch(({ message }) => on.closed({ why: message, isFinal: false }));
  }

  send(topic, body) {
    return this.publisher.send(topic, body);
  }

  write(text) {
    this.publisher.write(text);
  }

  close() {
    this.aborter.abort();
  }

  /** First without waiting, until all that was missed is here; then with. */
  async receive() {
    const isReturn = this.cursor !== undefined;
    let told = isReturn ? { recovered: true } : {};
    let page = await this.poll("0");
    if (page) this.on.connected({});
    for (; page?.messages.length; page = await this.poll("0")) told = this.received(page) ?? told;
    if (page) this.on.joined({ topic: this.topic, ...told });
    while (page) {
      page = await this.poll(WAIT);
      if (page) this.received(page);
    }
  }

  /** A page, or nothing if it was refused, which ends the link. */
  async poll(wait) {
    const cursor = this.cursor ? `&cursor=${this.cursor}` : "";
    const target = `/poll?destination=${encodeURI(this.topic)}${cursor}&wait=${wait}`;
    this.on.frame("out", `GET ${target}`);
    const response = await fetch(target, { headers: bearer(this.token), signal: this.aborter.signal });
    const text = await response.text();
    this.on.frame("in", `${response.status} ${text}`);
    if (!response.ok) {
      this.on.refused(problemOf(text, response.status));
      this.on.closed({ why: `Refused (HTTP ${response.status})`, isFinal: isFinalStatus(response.status) });
      return undefined;
    }
    const page = JSON.parse(text);
    this.cursor = page.cursor;
    return page;
  }

  /** Hands on a page's messages; what it tells of the subscription, if it does. */
  received({ messages }) {
    let told;
    for (const message of messages) {
      if (message.type === "ok") told = toldOf(message);
      if (message.type === "message") this.on.message(messageOf(message));
      if (message.type === "reconnect") this.on.reconnect({ afterMs: message.after_ms });
    }
    return told;
  }
}

const WAIT = "25s";
