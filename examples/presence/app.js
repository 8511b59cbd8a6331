// Who is online, and who was: a list from the backend, and then each change.
import { Connection } from "/web/native.js";
import { askUntilAnswered, avatar, clock, element, login, showState } from "/web/page.js";

const people = new Map();

login(({ session }) => {
  const connection = new Connection({ session, onState: showState });
  connection.subscribe("/topic/people", {
    onMessage: (person) => take([person]),
    async onLive({ recovered }) {
      // From now on no change is missed; what was before is in the list.
      if (!recovered) take(await askUntilAnswered("/people"));
    },
  });
  setInterval(draw, 10_000);
});

/** A list may be older than a change that has come meanwhile: the newer state counts. */
function take(states) {
  for (const person of states) {
    if (person.version > (people.get(person.user)?.version ?? 0)) people.set(person.user, person);
  }
  draw();
}

function draw() {
  const isOnline = ({ devices }) => Object.keys(devices).length > 0;
  const all = [...people.values()].sort(
    (a, b) => isOnline(b) - isOnline(a) || (isOnline(a) ? 0 : b.last_seen.localeCompare(a.last_seen)) || a.user.localeCompare(b.user),
  );
  const online = all.filter(isOnline).length;
  document.querySelector("#count").textContent = `${online} online, ${all.length - online} away`;
  document.querySelector("#people").replaceChildren(...all.map(drawPerson));
}

function drawPerson({ user, devices, last_seen: lastSeen }) {
  const sessions = Object.entries(devices).sort(([, a], [, b]) => a.localeCompare(b));
  const count = sessions.length === 1 ? "online" : `online on ${sessions.length} devices`;
  const state = sessions.length > 0 ? count : `last seen ${ago(lastSeen)}`;
  const words = element("div", { class: "grow" }, element("strong", {}, user));
  words.append(element("div", { class: "state", "data-state": sessions.length > 0 ? "online" : "away" }, state));
  const list = element("ul", { class: "plain small soft" });
  list.append(...sessions.map(([id, since]) => element("li", { "data-session": id }, `since ${clock(since)}`)));
  return element("article", { class: "card person row", "data-user": user }, avatar(user), words, list);
}

function ago(time) {
  const seconds = (Date.now() - new Date(time)) / 1000;
  if (seconds < 60) return "just now";
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  if (seconds < 3600) return words.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86400) return words.format(-Math.floor(seconds / 3600), "hour");
  return words.format(-Math.floor(seconds / 86400), "day");
}
