// The page: a chat room on one side, everything that goes over the wire to make it work on the other.

import { Connection } from "./connection.js";
import { $ } from "./dom.js";
import { showFrame, startInspector } from "./inspector.js";
import { fitRaw, startRaw } from "./raw.js";
import { clearRoom, hasProblem, note, showMessage, showReturn } from "./room.js";
import { TRANSPORTS } from "./transports.js";

const page = {
  connection: undefined,
  user: undefined,
  topic: undefined,
  wanted: "native", // the protocol last chosen, also while the transport has only the other
  sentAt: new Map(), // id → when, to tell how long the acknowledgement took
};

function start() {
  $("transport").replaceChildren(...Object.entries(TRANSPORTS).map(([name, { label }]) => new Option(label, name)));
  fillFromAddress();
  $("join-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (page.connection) leave();
    else join();
  });
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    say($("text").value.trim());
  });
  $("transport").addEventListener("change", choose);
  document.querySelectorAll("[name=protocol]").forEach((radio) =>
    radio.addEventListener("change", () => {
      page.wanted = radio.value;
      choose();
    }),
  );
  $("reconnect").addEventListener("click", () => page.connection?.reconnectNow());
  $("cut").addEventListener("click", () => page.connection?.cut());
  startInspector();
  startRaw({ room, write: (text) => page.connection?.write(text) });
  fitControls();
  if (new URLSearchParams(location.search).has("user")) join();
}

function fillFromAddress() {
  const asked = new URLSearchParams(location.search);
  $("user").value = asked.get("user") ?? `guest-${1000 + Math.floor(Math.random() * 9000)}`;
  $("room").value = asked.get("room") ?? "lobby";
  if (Object.hasOwn(TRANSPORTS, asked.get("transport") ?? "")) $("transport").value = asked.get("transport");
  if (asked.get("protocol") === "stomp") page.wanted = "stomp";
}

/** So that a reload, or a copied address, comes back to the same room by the same way. */
function rememberInAddress() {
  const address = new URL(location);
  const { protocol } = room();
  address.search = new URLSearchParams({ room: $("room").value, user: page.user, transport: $("transport").value, protocol });
  history.replaceState(null, "", address);
}

/** What is chosen, and what comes of it. */
function room() {
  const { protocols, publishes } = TRANSPORTS[$("transport").value];
  const protocol = protocols.includes(page.wanted) ? page.wanted : protocols[0];
  return { protocol, publishes, topic: page.topic, user: page.user };
}

/** Another transport or protocol: whoever is in a room goes on there from the same position. */
function choose() {
  fitControls();
  if (page.connection) join(page.connection.position);
}

/** What the transport does not have can't be chosen, and it is said why. */
function fitControls() {
  const { protocols, about } = TRANSPORTS[$("transport").value];
  document.querySelectorAll("[name=protocol]").forEach((radio) => {
    radio.disabled = !protocols.includes(radio.value);
    radio.checked = radio.value === room().protocol;
  });
  $("transport-note").textContent = about;
  fitRaw(room());
}

function join(position) {
  page.connection?.leave();
  page.user = $("user").value;
  const topic = `/topic/chat.${$("room").value}`;
  if (topic !== page.topic) clearRoom();
  page.topic = topic;
  page.sentAt.clear();
  note("");
  const on = { state: showState, session: showSession, message, joined, accepted, refused, frame: showFrame };
  const transport = $("transport").value;
  page.connection = new Connection({ transport, protocol: room().protocol, user: page.user, topic, position, on });
  showJoined(true);
  fitRaw(room());
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

// ── what the connection tells

function message(told) {
  showMessage(told, page.user);
}

function joined({ recovered, missed, reason }) {
  setCanTalk(true);
  if (recovered === false || missed > 0) showReturn({ recovered, missed, reason });
  // A STOMP refusal ends the connection; coming back must not hide why.
  if (!hasProblem()) note(`In ${page.topic}.`);
  // Whoever is choosing among transports by keyboard stays there.
  const at = document.activeElement;
  if (at === document.body || at?.closest("#join-form")) $("text").focus();
}

function accepted(id) {
  const sentAt = page.sentAt.get(id);
  page.sentAt.delete(id);
  if (sentAt !== undefined) note(`Acknowledged by the broker in ${(performance.now() - sentAt).toFixed(1)} ms.`);
}

function refused({ code, message }) {
  note(`Refused: ${[code, message].filter(Boolean).join(": ")}`, true);
}

function showState({ state, text }) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
  $("reconnect").hidden = state !== "waiting" && state !== "stopped";
  $("cut").hidden = state !== "online";
  $("raw-send").disabled = state !== "online";
  if (state !== "online") setCanTalk(false);
}

function showSession(id) {
  $("session").hidden = !id;
  $("session").textContent = id ?? "";
  $("session").title = `Session ${id ?? ""}`;
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

start();
