// What goes over the wire, in a few words: messages of both protocols, SockJS frames with such
// messages inside, server-sent events, and HTTP requests ("GET /poll?...") and answers ("200 {...}").

/** What it is and, in one line, what it says: a body before what stands around it. */
export function summaryOf(text) {
  if (isHeartbeat(text)) return { kind: "heartbeat", preview: text.trim() };
  const http = /^([A-Z]+|\d{3}) (.*)$/s.exec(text);
  if (http) return { kind: http[1], preview: httpPreviewOf(text, http[2]) };
  const inside = insideOf(text);
  if (inside) return { kind: text[0] === "a" ? "a" : "[…]", preview: inside.map(lineOf).join(" · ") };
  if (/^(o$|c\[)/.test(text)) return { kind: text[0], preview: text.slice(1) };
  if (/^[[{]/.test(text)) return nativeSummaryOf(text);
  if (/^(id|event|data|retry): /.test(text)) return eventSummaryOf(text);
  return stompSummaryOf(text);
}

/** Whether it only says that the connection lives. */
export function isHeartbeat(text) {
  if (/^[\r\n]*$/.test(text) || /^\{"type":"(ping|pong)"\}$/.test(text)) return true;
  const inside = insideOf(text);
  return inside ? inside.every(isHeartbeat) : text === "h" || /^:[^\n]*$/.test(text);
}

/** The messages inside a SockJS frame, or inside the request or WebSocket message that sends them. */
export function insideOf(text) {
  const array = /^(?:a|POST \S+\/xhr_send\n\n)?(\[".*\])$/s.exec(text)?.[1];
  const messages = array && valueOf(array);
  return Array.isArray(messages) && messages.every((message) => typeof message === "string") ? messages : undefined;
}

/** The whole, for reading: JSON over several lines, and control characters visible. */
export function prettyOf(text) {
  const value = valueOf(text);
  if (value !== undefined) return JSON.stringify(value, null, 2);
  const inside = insideOf(text)?.map((message) => `\n\n${prettyOf(message)}`) ?? [];
  return [visible(text), ...inside].join("");
}

/** Control characters as ^@, ^A and so on; line ends stay. */
export function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (char) => `^${String.fromCharCode(0x40 + char.charCodeAt(0))}`);
}

function lineOf(text) {
  const { kind, preview } = summaryOf(text);
  return `${kind} ${preview}`;
}

/** The last part of a SockJS path says what the request is for; other paths are short enough. */
function httpPreviewOf(text, rest) {
  const resource = /^\/sockjs\S*\/(\w+)/.exec(rest)?.[1];
  if (!resource) return rest;
  return [resource, ...(insideOf(text)?.map(lineOf) ?? [])].join(" · ");
}

function nativeSummaryOf(text) {
  const value = valueOf(text);
  const { type, data, ...rest } = value && !Array.isArray(value) ? value : {};
  if (typeof type !== "string") return { kind: "", preview: text };
  if (data !== undefined) return { kind: type, preview: JSON.stringify(data) };
  const fields = Object.entries(rest).map(([name, value]) => `${name}:${typeof value === "string" ? value : JSON.stringify(value)}`);
  return { kind: type, preview: fields.join(" · ") };
}

function eventSummaryOf(text) {
  const name = /^event: (.*)$/m.exec(text)?.[1];
  const data = text.match(/^data: .*$/gm)?.map((line) => line.slice("data: ".length)).join("\n");
  if (data === undefined) return { kind: name ?? text.split(":")[0], preview: text };
  const { kind, preview } = nativeSummaryOf(data);
  return { kind: name ?? "message", preview: kind ? preview : data };
}

function stompSummaryOf(text) {
  const [head, ...rest] = text.replace(/\0\n*$/, "").split("\n\n");
  const [command, ...headers] = head.trimStart().split("\n");
  return { kind: command, preview: rest.join("\n\n") || headers.join("\n") };
}

function valueOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
