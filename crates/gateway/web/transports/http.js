// What the links by requests share: publishing, refusals, and reading a response as it comes.

/** Yields what comes up to each mark, without it. */
export async function* pieces(response, mark) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (pending + value).split(mark);
    pending = parts.pop();
    yield* parts;
  }
}

/** Publishes by POST /publish, one request after the other, so that they stay in order. */
class Publisher {
  constructor({ token, signal, on }) {
    this.token = token;
    this.signal = signal;
    this.on = on;
    this.nextId = 1;
    this.last = Promise.resolve();
  }

  send(topic, body) {
    return this.write(JSON.stringify({ to: topic, data: body }));
  }

  /** Publishes a text that should be such JSON; gives the id that `accepted` will tell. */
  write(text) {
    const id = this.nextId++;
    const refused = ({ message }) => this.on.refused({ code: "unknown", message });
    this.last = this.last.then(() => this.post(id, text)).catch(refused);
    return id;
  }

  async post(id, body) {
    const headers = { ...bearer(this.token), "Content-Type": "application/json" };
    this.on.frame("out", `POST /publish\n\n${body}`);
    const response = await fetch("/publish", { method: "POST", headers, body, signal: this.signal });
    const text = await response.text();
    this.on.frame("in", `${response.status} ${text}`);
    if (response.ok) this.on.accepted(id);
    else this.on.refused(problemOf(text, response.status));
  }
}

/** A link that hears by requests of its own, in `receive`, and publishes by others. */
export class RequestLink {
  constructor({ token, topic, position, on }) {
    this.on = on;
    this.token = token;
    this.topic = topic;
    this.position = position;
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

  refused(status, text) {
    this.on.refused(problemOf(text, status));
    this.on.closed({ why: `Refused (HTTP ${status})`, isFinal: isFinalStatus(status) });
  }
}

export function bearer(token) {
  return { Authorization: `Bearer ${token}` };
}

/** Code and message of a refusal (RFC 9457). */
function problemOf(text, status) {
  try {
    const { code, detail } = JSON.parse(text);
    return { code, message: detail };
  } catch {
    return { code: `http_${status}`, message: "" };
  }
}

/** Whether the same request would only be refused again. */
function isFinalStatus(status) {
  return status >= 400 && status < 500 && ![401, 408, 409, 429].includes(status);
}
