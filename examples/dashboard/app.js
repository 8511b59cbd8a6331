// Live figures by EventSource, which comes back by itself, to whichever node.
import { askUntilAnswered, element, showState } from "/web/page.js";

const FIGURES = {
  cpu: { title: "CPU", unit: "% of a core" },
  memory: { title: "Memory in use", unit: "%" },
  disk: { title: "Disk in use", unit: "%" },
  load: { title: "Load", unit: "processes" },
  threads: { title: "Threads", unit: "of all processes" },
  network: { title: "Network", unit: "KiB/s" },
  sessions: { title: "Sessions", unit: "of all gateways" },
  published: { title: "Published", unit: "messages/s" },
  sent: { title: "Delivered", unit: "messages/s" },
};
const SHOWN = 120;
const SVG = "http://www.w3.org/2000/svg";

for (const [name, { title, unit }] of Object.entries(FIGURES)) {
  const value = element("p", { class: "value" }, "–");
  const line = document.createElementNS(SVG, "polyline");
  const area = document.createElementNS(SVG, "polygon");
  const graph = document.createElementNS(SVG, "svg");
  graph.setAttribute("viewBox", `0 0 ${SHOWN - 1} 40`);
  graph.setAttribute("preserveAspectRatio", "none");
  graph.append(area, line);
  const card = element("section", { class: "card figure", "data-figure": name }, element("h2", {}, title), value);
  card.append(element("p", { class: "soft small" }, unit), graph);
  document.querySelector("#figures").append(card);
  Object.assign(FIGURES[name], { value, area, line, past: [] });
}

let received = 0;
let first;
let last;

function show({ to, data }) {
  const figure = FIGURES[to.split(".")[1]];
  if (!figure) return;
  figure.past = [...figure.past, data.value].slice(-SHOWN);
  figure.value.textContent = data.value.toLocaleString("en", { maximumFractionDigits: data.value < 10 ? 2 : 0 });
  const top = Math.max(...figure.past, 0.001) * 1.15;
  const points = figure.past.map((each, at) => `${SHOWN - figure.past.length + at},${40 - (40 * each) / top}`);
  figure.line.setAttribute("points", points.join(" "));
  figure.area.setAttribute("points", `${SHOWN - figure.past.length},40 ${points.join(" ")} ${SHOWN - 1},40`);
  // What this page gets of one figure, beside what is published of it.
  if (to.endsWith(".cpu")) {
    received += 1;
    first ??= data;
    last = data;
  }
}

setInterval(() => {
  if (!first || last.at <= first.at) return;
  const seconds = (last.at - first.at) / 1000;
  const per = (count) => (count / seconds).toFixed(1);
  const rates = document.querySelector("#rates");
  rates.textContent = `${per(last.n - first.n)} samples/s made, ${per(received - 1)}/s shown`;
  rates.dataset.made = per(last.n - first.n);
  rates.dataset.shown = per(received - 1);
}, 500);

async function connect() {
  const { token, gateway } = await askUntilAnswered("/session");
  const query = new URLSearchParams(Object.keys(FIGURES).map((name) => ["destination", `/topic/metrics.${name}`]));
  query.set("access_token", token);
  const events = new EventSource(`${gateway}/events?${query}`);
  events.addEventListener("connected", () => {
    showState("online");
    // A pause says nothing of how often figures come: count anew.
    received = 0;
    first = undefined;
  });
  events.onmessage = ({ data }) => show(JSON.parse(data));
  events.onerror = () => {
    showState("waiting");
    // It comes back by itself unless it was refused, as with a token that has expired.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 1000 + Math.random() * 4000);
  };
}

connect();
