// Many `sockjs-client`s by all transports, sending all the time, until standard input ends. Then one
// line of JSON: what became of each.
//
//     node sockjs_crowd.mjs http://127.0.0.1:8000/sockjs TOKEN 60

import http from "node:http";
import SockJS from "sockjs-client";

const [url, token, count] = process.argv.slice(2);
const TRANSPORTS = ["xhr-streaming", "xhr-polling", "eventsource", "websocket"];
http.globalAgent.maxSockets = Infinity;

const clients = [];
let isOver = false;

function connect(client) {
  const socket = new SockJS(url, null, { transports: [client.transport] });
  client.socket = socket;
  let wasOpen = false;
  socket.onopen = () => {
    wasOpen = true;
    socket.send(JSON.stringify({ type: "connect", token }));
  };
  socket.onmessage = ({ data }) => {
    const { type } = JSON.parse(data);
    if (type === "connected") client.isUp = true;
    if (type === "pong") client.pongs += 1;
  };
  socket.onclose = ({ code, reason }) => {
    client.isUp = false;
    if (isOver) return;
    // On a busy machine sockjs-client may give up what takes longer than /info took (2000).
    if (wasOpen) client.closes.push({ code, reason });
    setTimeout(() => connect(client), 50 + Math.random() * 100);
  };
}

for (let n = 0; n < Number(count); n += 1) {
  const client = { transport: TRANSPORTS[n % TRANSPORTS.length], isUp: false, pongs: 0, closes: [] };
  clients.push(client);
  connect(client);
}

let wasUp = false;
setInterval(() => {
  const isUp = clients.every((client) => client.isUp);
  if (isUp && !wasUp) console.log(JSON.stringify({ event: "up" }));
  wasUp = isUp;
  for (const client of clients) {
    if (client.isUp && Math.random() < 0.3) client.socket.send('{"type":"ping","id":1}');
  }
}, 100);

// Each is to be heard once more, wherever it is by then.
process.stdin.resume().on("end", () => {
  const before = clients.map(({ pongs }) => pongs);
  setInterval(() => {
    // What was asked for before may still have been under way.
    if (!clients.every(({ isUp, pongs }, n) => isUp && pongs > before[n] + 1)) return;
    isOver = true;
    const told = clients.map(({ transport, closes }) => ({ transport, closes }));
    console.log(JSON.stringify({ event: "over", clients: told }));
    process.exit(0);
  }, 50);
});
