// The list of everything that goes over the wire.

import { $, appendBounded, fromTemplate, scrollToEnd, showTime, sizeText } from "./dom.js";
import { isHeartbeat, prettyOf, summaryOf, visible } from "./frames.js";

const kept = [];
const count = { paused: false, missed: 0, total: 0, bytes: 0 };

export function startInspector() {
  $("pause").addEventListener("click", () => pause(!count.paused));
  $("clear").addEventListener("click", clear);
  $("beats").addEventListener("change", render);
}

/** Adds what was sent ("out") or received ("in"), just as it was. */
export function showFrame(direction, text) {
  const size = new TextEncoder().encode(text).length;
  const entry = { direction, text, size, at: Date.now() };
  count.total += 1;
  count.bytes += size;
  kept.push(entry);
  if (kept.length > MAX_FRAMES) kept.shift();
  if (count.paused) count.missed += 1;
  else if (isShown(entry)) appendBounded($("frames"), row(entry), MAX_FRAMES);
  showCount();
}

function pause(paused) {
  count.paused = paused;
  $("pause").textContent = paused ? "Resume" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
  if (!paused) render();
  showCount();
}

function clear() {
  kept.length = 0;
  Object.assign(count, { missed: 0, total: 0, bytes: 0 });
  render();
}

function render() {
  count.missed = 0;
  $("frames").replaceChildren(...kept.filter(isShown).map(row));
  scrollToEnd($("frames"));
  showCount();
}

function showCount() {
  const waiting = count.missed ? ` · ${count.missed} since the pause` : "";
  $("counts").textContent = count.total
    ? `${count.total} ${count.total === 1 ? "frame" : "frames"} · ${sizeText(count.bytes)}${waiting}`
    : "none yet";
}

function isShown({ text }) {
  return $("beats").checked || !isHeartbeat(text);
}

function row({ direction, text, size, at }) {
  const item = fromTemplate("frame-template");
  const isOut = direction === "out";
  item.firstElementChild.classList.add(direction);
  showTime(item.querySelector("time"), at, true);
  item.querySelector(".direction").textContent = isOut ? "↑" : "↓";
  item.querySelector(".direction").setAttribute("aria-label", isOut ? "sent" : "received");
  const { kind, preview } = summaryOf(text);
  item.querySelector(".kind").textContent = kind;
  item.querySelector(".kind").classList.toggle("problem", /^(error|fault|c|[45]\d\d)$/i.test(kind));
  item.querySelector(".preview").textContent = visible(preview).replace(/\s*\n\s*/g, " · ").slice(0, MAX_PREVIEW);
  item.querySelector(".size").textContent = sizeText(size);
  // Pretty-printing costs; most frames are never opened. What opens below the edge comes into view.
  item.firstElementChild.addEventListener("toggle", ({ target }) => {
    item.querySelector("pre").textContent = prettyOf(text);
    if (target.open) item.scrollIntoView({ block: "nearest" });
  });
  return item;
}

const MAX_FRAMES = 500;
const MAX_PREVIEW = 300;
