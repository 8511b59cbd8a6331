// SockJS 0.3.4 (https://sockjs.github.io/sockjs-protocol/sockjs-protocol-0.3.3.html), as much as shows
// what goes over the wire. Applications take sockjs-client, which also finds out what works.
//
// Frames: o (open), h (heartbeat), a[...] (messages), c[code,reason] (closed).

import { pieces } from "./http.js";
import { wsOrigin } from "./websocket.js";

/** Handles frames alike, however they come. */
class SockJs {
  constructor({ on }) {
    this.on = on;
    this.isOpen = false;
  }

  received(frame) {
    this.on.frame("in", frame);
    switch (frame[0]) {
      case "o":
        this.isOpen = true;
        this.on.open();
        break;
      case "a":
        for (const text of JSON.parse(frame.slice(1))) this.on.text(text);
        break;
      case "c": {
        const [code, reason] = JSON.parse(frame.slice(1));
        this.closed(code, reason);
        break;
      }
    }
  }

  closed(code, reason) {
    this.isOpen = false;
    this.on.closed({ code, reason });
  }
}

/** Its frames in a WebSocket. */
export class SockJsWebSocket extends SockJs {
  constructor(more) {
    super(more);
    this.socket = new WebSocket(new URL(`${sessionPath()}/websocket`, wsOrigin()));
    this.socket.onmessage = ({ data }) => this.received(data);
    // The code of the frame says why; that of the WebSocket only that it was closed.
    this.socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  send(text) {
    if (!this.isOpen) return;
    const frame = JSON.stringify([text]);
    this.socket.send(frame);
    this.on.frame("out", frame);
  }

  close() {
    this.socket.close(1000);
  }
}

/** A session by requests: `resource` is xhr_streaming or xhr, which bring frames; xhr_send sends. */
export class SockJsRequests extends SockJs {
  constructor(resource, more) {
    super(more);
    this.path = sessionPath();
    this.aborter = new AbortController();
    this.waiting = [];
    this.isSending = false;
    this.receive(resource).catch((error) => this.closed(1006, error.message));
  }

  /** One request after the other, until the session is closed. */
  async receive(resource) {
    do {
      const response = await this.post(resource);
      if (!response.ok) return this.closed(1006, `HTTP ${response.status}`);
      for await (const frame of pieces(response, "\n")) {
        if (!PRELUDE.test(frame)) this.received(frame);
      }
    } while (this.isOpen);
  }

  send(text) {
    if (!this.isOpen) return;
    this.waiting.push(text);
    if (!this.isSending) this.flush().catch((error) => this.closed(1006, error.message));
  }

  /** One request at a time, or messages could overtake each other: what waits meanwhile goes together. */
  async flush() {
    this.isSending = true;
    while (this.waiting.length) {
      const response = await this.post("xhr_send", JSON.stringify(this.waiting.splice(0)));
      // It is 204 each time, which is not worth a line.
      if (!response.ok) {
        this.on.frame("in", `${response.status} ${await response.text()}`);
        return this.closed(1006, `HTTP ${response.status}`);
      }
    }
    this.isSending = false;
  }

  post(resource, body = "") {
    const url = new URL(`${this.path}/${resource}`, location.href);
    this.on.frame("out", `POST ${url.pathname}${body && `\n\n${body}`}`);
    return fetch(url, { method: "POST", body, signal: this.aborter.signal });
  }

  /** A session without a connection that receives ends by itself. */
  close() {
    this.isOpen = false;
    this.aborter.abort();
  }
}

/** A session of our own; its first part is for balancers that want to see one. */
function sessionPath() {
  const [server, ...session] = crypto.getRandomValues(new Uint32Array(3));
  return `/sockjs/${String(server % 1000).padStart(3, "0")}/${session.map((part) => part.toString(36)).join("")}`;
}

const PRELUDE = /^h{2048}$/;
