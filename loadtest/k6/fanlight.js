// Connects, subscribes and publishes with k6, and tells how long messages took.
//
//   k6 run -e URL=ws://127.0.0.1:8080/ws -e TOKEN=... loadtest/k6/fanlight.js
//
// CLIENTS (50), SECONDS (30), PER_SECOND (1, of each client), ROOMS (10), BODY_BYTES (128),
// RAMP_S (5). Publications are not on an open schedule, and k6 costs far more per connection than
// the gateway does: for limits and for latencies that count, take fanlight-loadtest.
import ws from 'k6/ws';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';

const url = __ENV.URL || 'ws://127.0.0.1:8080/ws';
const seconds = Number(__ENV.SECONDS || 30);
const rooms = Number(__ENV.ROOMS || 10);
const everyMs = 1000 / Number(__ENV.PER_SECOND || 1);
const padding = 'x'.repeat(Number(__ENV.BODY_BYTES || 128));

const connecting = new Trend('fanlight_connecting', true);
const latency = new Trend('fanlight_latency', true);
const acknowledging = new Trend('fanlight_acknowledging', true);
const published = new Counter('fanlight_published');
const delivered = new Counter('fanlight_delivered');
const refused = new Counter('fanlight_refused');

export const options = {
  scenarios: {
    clients: {
      executor: 'ramping-vus',
      startVUs: 0,
      stages: [
        { duration: `${__ENV.RAMP_S || 5}s`, target: Number(__ENV.CLIENTS || 50) },
        { duration: `${seconds}s`, target: Number(__ENV.CLIENTS || 50) },
      ],
      gracefulRampDown: '0s',
      gracefulStop: '5s',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    fanlight_delivered: ['count>0'],
    fanlight_refused: ['count==0'],
  },
};

export default function () {
  const room = `/topic/k6.${__VU % rooms}`;
  const began = Date.now();
  const sent = new Map();
  const answer = ws.connect(url, parameters(), (socket) => {
    let number = 0;
    const say = (message) => socket.send(JSON.stringify(message));
    const publish = () => {
      number += 1;
      sent.set(number, Date.now());
      published.add(1);
      say({ type: 'send', id: number, to: room, data: { at: Date.now(), padding } });
    };
    const on = {
      connected: () => {
        connecting.add(Date.now() - began);
        say({ type: 'subscribe', id: 'subscribe', to: room });
      },
      ok: ({ id }) => {
        if (id === 'subscribe') {
          // Clients that begin together should not publish together.
          socket.setTimeout(() => socket.setInterval(publish, everyMs), 1 + Math.random() * everyMs);
          return;
        }
        acknowledging.add(Date.now() - sent.get(id));
        sent.delete(id);
      },
      message: ({ data }) => {
        delivered.add(1);
        latency.add(Date.now() - data.at);
      },
      error: ({ code, message }) => {
        refused.add(1, { code });
        console.error(`${code}: ${message}`);
      },
    };
    socket.on('open', () => say({ type: 'connect' }));
    socket.on('message', (text) => {
      const messages = JSON.parse(text);
      for (const message of Array.isArray(messages) ? messages : [messages]) {
        const react = on[message.type];
        if (react) react(message);
      }
    });
    socket.setTimeout(() => socket.close(), seconds * 1000);
  });
  check(answer, { 'the handshake was accepted': ({ status }) => status === 101 });
}

function parameters() {
  const headers = { 'Sec-WebSocket-Protocol': 'fanlight.v1.json' };
  if (__ENV.TOKEN) headers.Authorization = `Bearer ${__ENV.TOKEN}`;
  return { headers };
}
