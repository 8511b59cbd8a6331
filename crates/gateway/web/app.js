// The page: a chat room on one side, every frame that makes it work on the other.

import { Connection, PROTOCOLS } from "./connection.js";
import { isHeartbeat, stompFrame } from "./protocols.js";

const $ = (id) => document.getElementById(id);

const page = {
  connection: undefined,
  user: undefined,
  topic: undefined,
  sentAt: new Map(), // receipt → when, to tell how long the acknowledgement took
};

function start() {
  const asked = new URLSearchParams(location.search);
  $("user").value = asked.get("user") ?? `guest-${1000 + Math.floor(Math.random() * 9000)}`;
  $("room").value = asked.get("room") ?? "lobby";
  if (asked.get("protocol") in PROTOCOLS) $(`protocol-${asked.get("protocol")}`).checked = true;
  $("join-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (page.connection) leave();
    else join();
  });
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    say($("text").value.trim());
  });
  document.querySelectorAll("[name=protocol]").forEach((radio) =>
    radio.addEventListener("change", () => {
      fillExamples();
      if (page.connection) join();
    }),
  );
  $("reconnect").addEventListener("click", () => page.connection?.reconnectNow());
  $("pause").addEventListener("click", () => inspector.pause(!inspector.paused));
  $("clear").addEventListener("click", () => inspector.clear());
  $("beats").addEventListener("change", () => inspector.render());
  $("examples").addEventListener("change", chooseExample);
  $("raw-form").addEventListener("submit", sendRaw);
  fillExamples();
  if (asked.has("user")) join();
}

// ── the room

function join() {
  page.connection?.leave();
  page.user = $("user").value;
  const topic = `/topic/chat.${$("room").value}`;
  if (topic !== page.topic) $("messages").replaceChildren();
  page.topic = topic;
  page.sentAt.clear();
  note("");
  const on = { state: showState, session: showSession, message: showMessage, joined, accepted, refused, frame };
  page.connection = new Connection({ protocol: protocol(), user: page.user, topic, on });
  showJoined(true);
  rememberInAddress();
}

function leave() {
  page.connection.leave();
  page.connection = undefined;
  showJoined(false);
}

function say(text) {
  if (!text || $("send").disabled) return;
  page.sentAt.set(page.connection.send({ user: page.user, text }), performance.now());
  $("text").value = "";
  $("text").focus();
}

function joined(topic) {
  setCanTalk(true);
  // A STOMP refusal ends the connection; coming back must not hide why.
  if (!$("footnote").classList.contains("problem")) note(`In ${topic}.`);
  $("text").focus();
}

function accepted(receipt) {
  const sentAt = page.sentAt.get(receipt);
  page.sentAt.delete(receipt);
  if (sentAt !== undefined) note(`Acknowledged by the broker in ${(performance.now() - sentAt).toFixed(1)} ms.`);
}

function refused({ code, message }) {
  note(`Refused: ${[code, message].filter(Boolean).join(": ")}`, true);
}

function showMessage({ topic, body, at }) {
  if (topic !== page.topic) return;
  const who = textOf(body?.user, "someone");
  const item = $("message-template").content.cloneNode(true).firstElementChild;
  item.classList.toggle("mine", who === page.user);
  item.querySelector(".avatar").textContent = who.slice(0, 2).toUpperCase();
  item.querySelector(".avatar").classList.add(`hue-${hueOf(who)}`);
  item.querySelector(".who").textContent = who;
  item.querySelector(".text").textContent = textOf(body?.text, JSON.stringify(body) ?? "");
  showTime(item.querySelector("time"), at ?? Date.now(), false);
  appendBounded($("messages"), item, MAX_MESSAGES);
}

// ── what the room shows of the connection

function showState({ state, text }) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
  $("reconnect").hidden = state !== "waiting" && state !== "stopped";
  $("raw-send").disabled = state !== "online";
  if (state !== "online") setCanTalk(false);
}

function showSession(id) {
  $("session").hidden = !id;
  $("session").textContent = id ?? "";
}

function showJoined(isJoined) {
  $("join").textContent = isJoined ? "Leave" : "Join";
  $("join").classList.toggle("leave", isJoined);
  $("user").disabled = $("room").disabled = isJoined;
  $("destination").textContent = isJoined ? page.topic : "";
  if (!isJoined) note("");
}

function setCanTalk(can) {
  $("text").disabled = $("send").disabled = !can;
}

function note(text, isProblem = false) {
  $("footnote").textContent = text || "\u00a0";
  $("footnote").classList.toggle("problem", isProblem);
}

/** So that a reload, or a copied address, comes back to the same room. */
function rememberInAddress() {
  const address = new URL(location);
  address.search = new URLSearchParams({ room: $("room").value, user: page.user, protocol: protocol() });
  history.replaceState(null, "", address);
}

// ── the inspector

const inspector = {
  frames: [],
  paused: false,
  missed: 0,
  total: 0,
  bytes: 0,

  add(direction, text) {
    const size = new TextEncoder().encode(text).length;
    const entry = { direction, text, size, at: Date.now() };
    this.total += 1;
    this.bytes += size;
    this.frames.push(entry);
    if (this.frames.length > MAX_FRAMES) this.frames.shift();
    if (this.paused) this.missed += 1;
    else if (isShown(entry)) appendBounded($("frames"), frameRow(entry), MAX_FRAMES);
    this.count();
  },

  pause(paused) {
    this.paused = paused;
    $("pause").textContent = paused ? "Resume" : "Pause";
    $("pause").setAttribute("aria-pressed", String(paused));
    if (!paused) this.render();
    this.count();
  },

  clear() {
    Object.assign(this, { frames: [], missed: 0, total: 0, bytes: 0 });
    this.render();
  },

  render() {
    this.missed = 0;
    $("frames").replaceChildren(...this.frames.filter(isShown).map(frameRow));
    scrollToEnd($("frames"));
    this.count();
  },

  count() {
    const waiting = this.missed ? ` · ${this.missed} since the pause` : "";
    $("counts").textContent = this.total
      ? `${this.total} ${this.total === 1 ? "frame" : "frames"} · ${sizeText(this.bytes)}${waiting}`
      : "none yet";
  },
};

function frame(direction, text) {
  inspector.add(direction, text);
}

function isShown({ text }) {
  return $("beats").checked || !isHeartbeat(text);
}

function frameRow({ direction, text, size, at }) {
  const item = $("frame-template").content.cloneNode(true).firstElementChild;
  const isOut = direction === "out";
  item.firstElementChild.classList.add(direction);
  showTime(item.querySelector("time"), at, true);
  item.querySelector(".direction").textContent = isOut ? "↑" : "↓";
  item.querySelector(".direction").setAttribute("aria-label", isOut ? "sent" : "received");
  const { kind, preview } = summaryOf(text);
  item.querySelector(".kind").textContent = kind;
  item.querySelector(".kind").classList.toggle("problem", /^error$/i.test(kind));
  item.querySelector(".preview").textContent = visible(preview).replace(/\s*\n\s*/g, " · ").slice(0, MAX_PREVIEW);
  item.querySelector(".size").textContent = sizeText(size);
  // Pretty-printing costs; most frames are never opened. What opens below the edge comes into view.
  item.firstElementChild.addEventListener("toggle", ({ target }) => {
    item.querySelector("pre").textContent = prettyOf(text);
    if (target.open) item.scrollIntoView({ block: "nearest" });
  });
  return item;
}

/** What a frame is and, in one line, what it says: a body before what stands around it. */
function summaryOf(text) {
  if (isHeartbeat(text)) return { kind: "heartbeat", preview: text.trim() };
  if (/^[[{]/.test(text)) return nativeSummaryOf(text);
  const [head, ...rest] = text.replace(/\0\n*$/, "").split("\n\n");
  const [command, ...headers] = head.trimStart().split("\n");
  return { kind: command, preview: rest.join("\n\n") || headers.join("\n") };
}

function nativeSummaryOf(text) {
  const { type, data, ...rest } = objectOf(text);
  if (typeof type !== "string") return { kind: "", preview: text };
  if (data !== undefined) return { kind: type, preview: JSON.stringify(data) };
  const fields = Object.entries(rest).map(([name, value]) => `${name}:${textOf(value, JSON.stringify(value))}`);
  return { kind: type, preview: fields.join(" · ") };
}

/** The JSON object that `text` is, or an empty one. */
function objectOf(text) {
  try {
    const value = JSON.parse(text);
    return value && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

function prettyOf(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return visible(text);
  }
}

/** Control characters as ^@, ^A and so on; line ends stay. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (char) => `^${String.fromCharCode(0x40 + char.charCodeAt(0))}`);
}

// ── raw frames

function sendRaw(event) {
  event.preventDefault();
  const raw = $("raw").value;
  if (!raw) return;
  const isStomp = protocol() === "stomp";
  page.connection?.write(isStomp && !raw.endsWith("\0") && raw.trim() ? `${raw}\0` : raw);
}

function fillExamples() {
  const isStomp = protocol() === "stomp";
  const names = Object.keys(isStomp ? stompExamples() : nativeExamples());
  const options = ["Examples…", ...names].map((name) => new Option(name, name));
  options[0].value = "";
  $("examples").replaceChildren(...options);
  $("raw-hint").textContent = isStomp ? "The NUL that ends a frame is added." : "An object, or an array of them.";
}

function chooseExample() {
  const examples = protocol() === "stomp" ? stompExamples() : nativeExamples();
  const example = examples[$("examples").value];
  if (example !== undefined) $("raw").value = example;
  $("examples").value = "";
}

function nativeExamples() {
  const to = page.topic ?? "/topic/chat.lobby";
  const data = { user: page.user ?? "ann", text: "by hand" };
  return {
    "Say something": JSON.stringify({ type: "send", to, data, id: "by-hand" }),
    "Ping": JSON.stringify({ type: "ping", id: "by-hand" }),
    "Subscribe to another topic": JSON.stringify({ type: "subscribe", to: "/topic/other", id: "by-hand" }),
    "A forbidden destination": JSON.stringify({ type: "subscribe", to: "/queue/not-yours", id: "by-hand" }),
    "Not JSON": '{"type":',
  };
}

function stompExamples() {
  const destination = page.topic ?? "/topic/chat.lobby";
  const body = JSON.stringify({ user: page.user ?? "ann", text: "by hand" });
  const example = (...parts) => stompFrame(...parts).replace(/\0$/, "");
  return {
    "Say something": example("SEND", { destination, "content-type": "application/json", receipt: "by-hand" }, body),
    "Subscribe to another topic": example("SUBSCRIBE", { id: "other", destination: "/topic/other", receipt: "by-hand" }),
    "A forbidden destination": example("SUBSCRIBE", { id: "no", destination: "/queue/not-yours" }),
    "An unknown command": "SHOUT\n\n",
    "Disconnect": example("DISCONNECT", { receipt: "bye" }),
  };
}

// ── small things

function protocol() {
  return document.querySelector("[name=protocol]:checked").value;
}

function appendBounded(list, item, max) {
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.children.length > max) list.firstElementChild.remove();
  if (isAtEnd) scrollToEnd(list);
}

function scrollToEnd(list) {
  list.scrollTop = list.scrollHeight;
}

function showTime(element, at, withMillis) {
  const date = new Date(at);
  element.dateTime = date.toISOString();
  const millis = withMillis ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "";
  element.textContent = date.toLocaleTimeString([], { hour12: false }) + millis;
}

function sizeText(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`;
}

function textOf(value, otherwise) {
  return typeof value === "string" && value ? value : otherwise;
}

/** The same name has the same colour in every tab. */
function hueOf(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 8192;
  return sum % HUES;
}

const MAX_MESSAGES = 500;
const MAX_FRAMES = 500;
const MAX_PREVIEW = 300;
const HUES = 8;

start();
