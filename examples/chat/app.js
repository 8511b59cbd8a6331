// The page: rooms on the left, what is said in the middle, who is there on the right.
import { avatar, clock, element, login, showState } from "/web/page.js";

import { Connection } from "/connection.js";
import { Private, Room } from "/room.js";

const shown = (id) => document.getElementById(id);
const conversations = new Map();
const knownRooms = new Set();
const typing = new Map();
let me;
let connection;
let current;

login(({ user, session }) => {
  me = user;
  connection = new Connection({ session, onState: showState, onRefused: refused });
  connection.subscribe("/topic/rooms", {
    onMessage: ({ room }) => draw(knownRooms.add(room)),
    async onLive() {
      (await connection.request("/app/rooms")).forEach((room) => knownRooms.add(room));
      draw();
    },
  });
  connection.subscribe("/user/queue/private", {
    onMessage: takePrivate,
    async onLive({ recovered }) {
      if (!recovered) (await connection.request("/app/private")).forEach((message) => takePrivate(message, {}));
    },
  });
  join("lobby");
});

function join(name) {
  const key = `#${name}`;
  if (!conversations.has(key)) {
    const room = new Room(name, connection, { onChange: draw, onMessage: heard, onTyping });
    conversations.set(key, room);
    knownRooms.add(name);
  }
  show(conversations.get(key));
}

function takePrivate(message, { subscription }) {
  const name = message.author === me ? message.recipient : message.author;
  const conversation = privateWith(name);
  // What comes from the database is no news.
  if (conversation.take(message) && subscription) heard(conversation, message);
  draw();
}

function privateWith(name) {
  const key = `@${name}`;
  if (!conversations.has(key)) conversations.set(key, new Private(name, me));
  return conversations.get(key);
}

function heard(conversation, { author }) {
  typing.get(conversation.key)?.delete(author);
  if (conversation !== current && author !== me) conversation.unread += 1;
}

function onTyping({ key }, user) {
  if (user === me) return;
  const here = typing.get(key) ?? new Map();
  typing.set(key, here.set(user, Date.now()));
  setTimeout(drawTyping, 3100);
  drawTyping();
}

function refused(message, { id }) {
  conversations.forEach(({ pending }) => pending.delete(id));
  shown("problem").textContent = message;
  shown("problem").hidden = false;
  draw();
}

function show(conversation) {
  current = conversation;
  current.unread = 0;
  draw();
  shown("text").focus();
}

function draw() {
  if (!current) return;
  current.unread = 0;
  const rooms = [...knownRooms].sort().map((name) => entry(`#${name}`, name, () => join(name)));
  shown("rooms").replaceChildren(...rooms);
  const others = [...conversations.values()].filter((each) => each instanceof Private);
  shown("private").replaceChildren(...others.map((each) => entry(each.key, each.name, () => show(each))));
  shown("title").textContent = current.key;
  shown("part").hidden = current instanceof Private || current.name === "lobby";
  shown("older").hidden = !current.mayHaveOlder;
  drawMessages();
  drawTyping();
  shown("count").textContent = current.members.size;
  shown("members").replaceChildren(...[...current.members].sort().map(drawMember));
}

function entry(key, name, open) {
  const conversation = conversations.get(key);
  const button = element("button", { "data-joined": Boolean(conversation) }, key[0], name);
  button.onclick = open;
  if (conversation === current) button.setAttribute("aria-current", "true");
  const item = element("li", { class: "row entry", "data-key": key }, button);
  if (conversation?.unread) item.append(element("span", { class: "badge" }, conversation.unread));
  return item;
}

function drawMessages() {
  const list = shown("messages");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.replaceChildren(
    ...current.entries().map(({ message, line, isPending }) => {
      if (line) return element("li", { class: "line soft small" }, line);
      const words = element("div", { class: "grow" });
      const head = element("div", { class: "small" }, element("strong", { class: "who" }, message.author), " ");
      head.append(element("time", { class: "soft" }, isPending ? "sending" : clock(message.at)));
      words.append(head, element("div", { class: "text" }, message.text));
      return element("li", { class: "message row", "data-pending": Boolean(isPending) }, avatar(message.author), words);
    }),
  );
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function drawTyping() {
  const here = typing.get(current.key) ?? new Map();
  const users = [...here].filter(([, at]) => Date.now() - at < 3000).map(([user]) => user);
  const verb = users.length === 1 ? "is" : "are";
  shown("typing").textContent = users.length > 0 ? `${users.join(", ")} ${verb} typing…` : "";
}

function drawMember(name) {
  const button = element("button", { class: "grow" }, name);
  button.disabled = name === me;
  button.onclick = () => show(privateWith(name));
  return element("li", { class: "row member" }, avatar(name), button);
}

shown("say").onsubmit = (event) => {
  event.preventDefault();
  const message = { id: crypto.randomUUID(), text: shown("text").value };
  shown("problem").hidden = true;
  current.pending.set(message.id, { ...message, author: me });
  connection.send(current.target, message);
  shown("text").value = "";
  toldAt = 0;
  draw();
};

/** At most every two seconds. */
let toldAt = 0;
shown("text").oninput = () => {
  if (Date.now() - toldAt < 2000 || !shown("text").value) return;
  toldAt = Date.now();
  current.typing();
};

shown("open").onsubmit = (event) => {
  event.preventDefault();
  join(shown("room").value);
  shown("room").value = "";
};

shown("part").onclick = () => {
  current.leave();
  conversations.delete(current.key);
  join("lobby");
};

shown("older").onclick = () => current.older();
