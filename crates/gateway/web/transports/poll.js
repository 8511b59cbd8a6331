// Long polling: GET /poll waits for messages, POST /publish sends them.

import { messageOf, toldOf } from "../protocols.js";
import { RequestLink, bearer } from "./http.js";

export class PollLink extends RequestLink {
  /** First without waiting, until all that was missed is here; then with. */
  async receive() {
    const isReturn = this.position !== undefined;
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
    const cursor = this.position ? `&cursor=${this.position}` : "";
    const target = `/poll?destination=${encodeURI(this.topic)}${cursor}&wait=${wait}`;
    this.on.frame("out", `GET ${target}`);
    const response = await fetch(target, { headers: bearer(this.token), signal: this.aborter.signal });
    const text = await response.text();
    this.on.frame("in", `${response.status} ${text}`);
    if (!response.ok) {
      this.refused(response.status, text);
      return undefined;
    }
    const page = JSON.parse(text);
    this.position = page.cursor;
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
