// The chat room: its messages, what was missed and came back, and the line below that says how it goes.

import { $, appendBounded, fromTemplate, showTime } from "./dom.js";

export function clearRoom() {
  $("messages").replaceChildren();
}

/** A message; `recovered` if it came while we were away. */
export function showMessage({ body, at, recovered }, me) {
  const who = textOf(body?.user, "someone");
  const item = fromTemplate("message-template");
  item.classList.toggle("mine", who === me);
  item.querySelector(".avatar").textContent = who.slice(0, 2).toUpperCase();
  item.querySelector(".avatar").classList.add(`hue-${hueOf(who)}`);
  item.querySelector(".who").textContent = who;
  item.querySelector(".text").textContent = textOf(body?.text, JSON.stringify(body) ?? "");
  item.querySelector(".recovered").hidden = !recovered;
  showTime(item.querySelector("time"), at ?? Date.now(), false);
  appendBounded($("messages"), item, MAX_MESSAGES);
}

/** How coming back went: a line between the messages. */
export function showReturn({ recovered, missed, reason }) {
  const item = document.createElement("li");
  item.className = "return";
  item.classList.toggle("problem", !recovered);
  const messages = `${missed} missed ${missed === 1 ? "message" : "messages"}`;
  item.textContent = recovered ? `Back: ${messages} recovered` : `Back, but not all can be recovered: ${reason}`;
  appendBounded($("messages"), item, MAX_MESSAGES);
}

export function note(text, isProblem = false) {
  $("footnote").textContent = text || "\u00a0";
  $("footnote").classList.toggle("problem", isProblem);
}

/** Whether the line below says what went wrong. */
export function hasProblem() {
  return $("footnote").classList.contains("problem");
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
const HUES = 8;
