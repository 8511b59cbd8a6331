// Server-sent events: GET /events brings messages, POST /publish sends them.
//
// An EventSource would do, and applications take one. It keeps lines, ids and comments to itself,
// and comes back by itself; here all of that is to be seen.

import { messageOf, toldOf } from "../protocols.js";
import { RequestLink, bearer, pieces } from "./http.js";

export class EventsLink extends RequestLink {
  async receive() {
    const target = `/events?destination=${encodeURI(this.topic)}`;
    const last = this.position ? { "Last-Event-ID": this.position } : {};
    this.on.frame("out", [`GET ${target}`, ...Object.entries(last).map((pair) => pair.join(": "))].join("\n"));
    const headers = { ...bearer(this.token), ...last };
    const response = await fetch(target, { headers, signal: this.aborter.signal });
    if (!response.ok) {
      const text = await response.text();
      this.on.frame("in", `${response.status} ${text}`);
      return this.refused(response.status, text);
    }
    for await (const event of pieces(response, "\n\n")) {
      this.on.frame("in", event);
      this.received(event);
    }
    this.on.closed({ why: "The stream ended", isFinal: false });
  }

  received(event) {
    const { name, data } = fieldsOf(event);
    switch (name) {
      case "connected":
        this.on.connected(data);
        break;
      case "subscribed":
        this.on.joined({ topic: this.topic, ...toldOf(data) });
        break;
      case "message":
        this.on.message(messageOf(data));
        break;
      case "reconnect":
        this.on.reconnect({ afterMs: data.after_ms });
        break;
      case "fault":
        this.on.refused(data);
        break;
    }
  }
}

/** An event's name and data; a comment has neither, and `retry:` is for an EventSource. */
function fieldsOf(event) {
  let name = "message";
  const data = [];
  for (const line of event.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice("event: ".length);
    if (line.startsWith("data: ")) data.push(line.slice("data: ".length));
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : {};
}
