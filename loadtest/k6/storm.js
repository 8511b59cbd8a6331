// A reconnect storm with k6: all clients lose their connection together and come back with full
// jitter, as they do when a node is gone; how long each was away is `fanlight_away`.
//
//   k6 run -e URL=ws://127.0.0.1:8080/ws -e TOKEN=... loadtest/k6/storm.js
//
// CLIENTS (100), STORMS (3), CALM_S (10, between two of them), ROOMS (10).
import ws from 'k6/ws';
import { check, sleep } from 'k6';
import { Counter, Trend } from 'k6/metrics';

const url = __ENV.URL || 'ws://127.0.0.1:8080/ws';
const clients = Number(__ENV.CLIENTS || 100);
const storms = Number(__ENV.STORMS || 3);
const calmMs = Number(__ENV.CALM_S || 10) * 1000;
const rooms = Number(__ENV.ROOMS || 10);

const away = new Trend('fanlight_away', true);
const returned = new Counter('fanlight_returned');
const attempts = new Counter('fanlight_attempts');

export const options = {
  scenarios: {
    clients: {
      executor: 'per-vu-iterations',
      vus: clients,
      iterations: 1,
      maxDuration: `${Math.ceil(((storms + 1) * calmMs) / 1000) + 60}s`,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    fanlight_returned: [`count==${clients * storms}`],
  },
};

export function setup() {
  return { began: Date.now() };
}

export default function ({ began }) {
  for (let storm = 0; storm <= storms; storm += 1) {
    const until = began + (storm + 1) * calmMs;
    const lost = storm === 0 ? null : Date.now();
    let came = false;
    for (let failures = 0; !came && failures < 8; failures += 1) {
      sleep((Math.random() * Math.min(500 * 2 ** failures, 20000)) / 1000);
      attempts.add(1);
      came = stay(until, lost);
    }
    check(came, { 'everybody is back': (is) => is });
  }
}

// Connects and subscribes, and stays until the next storm; whether that was possible.
function stay(until, lost) {
  let subscribed = false;
  const answer = ws.connect(url, parameters(), (socket) => {
    const say = (message) => socket.send(JSON.stringify(message));
    socket.on('open', () => {
      say({ type: 'connect' });
      say({ type: 'subscribe', id: 1, to: `/topic/k6.${__VU % rooms}` });
    });
    socket.on('message', (text) => {
      if (subscribed || JSON.parse(text).type !== 'ok') return;
      subscribed = true;
      if (lost !== null) {
        away.add(Date.now() - lost);
        returned.add(1);
      }
    });
    socket.setTimeout(() => socket.close(), Math.max(1, until - Date.now()));
  });
  return answer.status === 101 && subscribed;
}

function parameters() {
  const headers = { 'Sec-WebSocket-Protocol': 'fanlight.v1.json' };
  if (__ENV.TOKEN) headers.Authorization = `Bearer ${__ENV.TOKEN}`;
  return { headers };
}
