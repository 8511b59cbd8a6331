// Orders, as the backend tells them, and from then on each step of theirs.
import { Connection } from "/web/native.js";
import { ask, askUntilAnswered, clock, element, login, showState } from "/web/page.js";

const STEPS = ["placed", "paid", "packed", "shipped", "delivered"];
/** What may be done in a state: by the customer, by the staff. */
const DEEDS = {
  customer: { placed: { paid: "Pay", cancelled: "Cancel" }, paid: { cancelled: "Cancel" } },
  staff: { paid: { packed: "Pack" }, packed: { shipped: "Ship" }, shipped: { delivered: "Delivered" } },
};

const shown = (id) => document.getElementById(id);
const orders = new Map();
let me;
let token;
let connection;

login(({ user, session }) => {
  const role = new URLSearchParams(sessionStorage.getItem("login")).get("role");
  me = { user, role };
  shown("counter").hidden = role === "staff";
  connection = new Connection({
    async session() {
      const answer = await session();
      token = answer.token;
      return answer;
    },
    onState: (...state) => {
      showState(...state);
      if (state[0] === "online" && orders.size === 0 && role !== "staff") fetchMine();
    },
  });
  if (role === "staff") {
    connection.subscribe("/topic/order-board", {
      onMessage: take,
      async onLive({ recovered }) {
        if (!recovered) (await askUntilAnswered("/orders", { token })).forEach(take);
      },
    });
  }
});

async function fetchMine() {
  const mine = await askUntilAnswered("/orders", { token });
  for (const order of mine) {
    take(order);
    watch(order.id, order.position);
  }
}

/** From the position that came with its state, so that no step between the two is missed. */
function watch(id, since) {
  connection.subscribe(`/topic/orders.${id}`, {
    since,
    onMessage: take,
    async onLive({ recovered }) {
      if (!recovered) take(await askUntilAnswered(`/orders/${id}`, { token }));
    },
    onRefused: ({ message }) => showProblem(`${id}: ${message}`),
  });
}

/** The same state may come twice, and an older one after a newer; drawn anew, a click would miss. */
function take(order) {
  if (order.steps.length <= (orders.get(order.id)?.steps.length ?? 0)) return;
  orders.set(order.id, order);
  draw();
}

function draw() {
  const newest = [...orders.values()].sort((a, b) => b.steps[0].at - a.steps[0].at);
  shown("orders").replaceChildren(...newest.map(drawOrder));
  shown("nothing").hidden = newest.length > 0;
}

function drawOrder({ id, item, customer, steps }) {
  const state = steps.at(-1).state;
  const card = element("article", { class: "card order", "data-order": id, "data-state": state });
  const title = element("div", { class: "row" }, element("strong", { class: "grow item-name" }, item));
  title.append(element("code", { class: "soft small" }, id));
  if (me.role === "staff") title.append(element("span", { class: "soft small" }, `for ${customer}`));
  card.append(title, state === "cancelled" ? element("p", { class: "soft" }, "Cancelled") : drawProgress(steps));
  const deeds = customer === me.user || me.role === "staff" ? DEEDS[me.role][state] : {};
  const buttons = Object.entries(deeds ?? {}).map(([to, name]) => {
    const button = element("button", { class: to === "cancelled" ? "" : "primary" }, name);
    button.onclick = () => act(`/orders/${id}`, { to });
    return button;
  });
  card.append(element("div", { class: "row" }, ...buttons));
  return card;
}

function drawProgress(steps) {
  const list = element("ol", { class: "plain progress" });
  for (const name of STEPS) {
    const step = steps.find(({ state }) => state === name);
    const entry = element("li", { "data-done": Boolean(step) }, name);
    if (step) entry.append(element("time", { class: "soft small" }, clock(step.at)));
    list.append(entry);
  }
  return list;
}

async function act(path, body) {
  try {
    const order = await ask(path, { method: "POST", body: JSON.stringify(body), token });
    take(order);
    showProblem();
    return order;
  } catch (error) {
    showProblem(error.message);
    return undefined;
  }
}

function showProblem(text = "") {
  shown("problem").textContent = text;
  shown("problem").hidden = !text;
}

shown("place").onsubmit = async (event) => {
  event.preventDefault();
  const order = await act("/orders", { item: shown("item").value });
  if (!order) return;
  shown("item").value = "";
  watch(order.id, order.position);
};

shown("track").onsubmit = (event) => {
  event.preventDefault();
  showProblem();
  // Whether one may, the gateway asks the backend.
  watch(shown("number").value);
  shown("number").value = "";
};
