// What is kept here is what this page has seen; the gateway's history brings what it has missed.
import { Connection } from "/web/native.js";
import { ask, askUntilAnswered, avatar, clock, element, login, showState } from "/web/page.js";

const shown = (id) => document.getElementById(id);
let token;
let received = new Map();
let sent = new Map();

login(({ user, session }) => {
  const kept = JSON.parse(localStorage.getItem(`notifications-${user}`) ?? "null");
  received = new Map(kept?.received);
  sent = new Map(kept?.sent);
  let position = kept?.position;
  draw();

  const keep = () => {
    const value = { received: [...received], sent: [...sent], position };
    localStorage.setItem(`notifications-${user}`, JSON.stringify(value));
    draw();
  };
  const connection = new Connection({
    async session() {
      const answer = await session();
      token = answer.token;
      return answer;
    },
    onState: showState,
  });
  connection.subscribe("/user/queue/notifications", {
    since: position,
    onMessage(event, { position: now }) {
      apply(event);
      position = now;
      keep();
    },
    async onLive({ isReturn, recovered, count }) {
      if (recovered) return sayCaughtUp(count);
      // The first time, or the history does not reach back to where this page was.
      const state = await askUntilAnswered("/notifications", { token });
      for (const item of state.received) received.set(item.id, { ...item, ...received.get(item.id) });
      for (const item of state.sent) sent.set(item.id, { ...item, ...sent.get(item.id) });
      if (isReturn) sayCaughtUp();
      keep();
    },
  });
});

/** Each may come twice, also in a state that is fetched; once is enough. */
function apply({ type, ids, id, at, ...notification }) {
  if (type === "notification") received.set(id, { id, at, ...notification, ...received.get(id) });
  if (type === "read") for (const each of ids) received.set(each, { ...received.get(each), readAt: at });
  // A receipt may be faster than the answer to what was sent.
  if (type === "receipt") sent.set(id, { ...sent.get(id), readAt: at });
}

function sayCaughtUp(count) {
  const text = count === undefined ? "Fetched anew." : `${count} while you were away.`;
  shown("caught-up").textContent = text;
  shown("caught-up").hidden = count === 0;
}

function draw() {
  const unread = unreadOnes();
  shown("unread").textContent = unread.length;
  shown("unread").hidden = unread.length === 0;
  shown("read-all").disabled = unread.length === 0;
  shown("nothing").hidden = received.size > 0;
  shown("nothing-sent").hidden = sent.size > 0;
  document.title = unread.length > 0 ? `(${unread.length}) Notifications` : "Notifications";
  const newest = (items) => [...items.values()].filter(({ text }) => text).sort((a, b) => b.at - a.at).slice(0, 50);
  shown("received").replaceChildren(...newest(received).map(drawReceived));
  shown("sent").replaceChildren(...newest(sent).map(drawSent));
}

function unreadOnes() {
  return [...received.values()].filter(({ text, readAt }) => text && !readAt);
}

function drawReceived({ id, from, text, at, readAt }) {
  const words = element("div", { class: "grow" }, element("p", { class: "text" }, text));
  words.append(element("p", { class: "soft small" }, `${from}, ${clock(at)}`));
  const item = element("li", { class: "item row", "data-read": Boolean(readAt) }, avatar(from), words);
  if (!readAt) {
    const button = element("button", {}, "Read");
    button.onclick = () => markRead([id]);
    item.append(button);
  }
  return item;
}

function drawSent({ to, text, at, readAt }) {
  const words = element("div", { class: "grow" }, element("p", { class: "text" }, text));
  words.append(element("p", { class: "soft small" }, `to ${to}, ${clock(at)}`));
  const receipt = element("span", { class: "receipt small" }, readAt ? `✓✓ read ${clock(readAt)}` : "✓ sent");
  return element("li", { class: "item row", "data-read": Boolean(readAt) }, words, receipt);
}

/** What others see of it comes back as an event, here too. */
function markRead(ids) {
  const body = JSON.stringify({ ids });
  askUntilAnswered("/read", { method: "POST", body, token }).then(() => showProblem(), showProblem);
}

function showProblem(error) {
  shown("problem").textContent = error?.message ?? "";
  shown("problem").hidden = !error;
}

shown("read-all").onclick = () => markRead(unreadOnes().map(({ id }) => id));

shown("compose").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const body = JSON.stringify({ to: shown("to").value, text: shown("text").value });
    const notification = await ask("/notifications", { method: "POST", body, token });
    sent.set(notification.id, { ...notification, ...sent.get(notification.id) });
    shown("text").value = "";
    draw();
    showProblem();
  } catch (error) {
    showProblem(error);
  }
};
