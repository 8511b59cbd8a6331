// @stomp/stompjs under remote control: commands come as JSON lines on stdin, events go as JSON
// lines to stdout. Exits with 0 when stdin ends, with 1 on a command it can't carry out.
//
//   node stomp_client.mjs ws://127.0.0.1:8080/ws
//
// Commands ("op"):
//   connect     { headers?, versions?, outgoing_ms?, incoming_ms?, reconnect_ms?, handshake_headers?, url?,
//                 transport? (of sockjs-client, in place of a WebSocket) }
//   subscribe   { destination, id?, headers?, receipt? }      unsubscribe { id, headers? }
//   publish     { destination, body? | base64?, headers?, receipt? }
//   begin | commit | abort { transaction }                    ack | nack { id, subscription, headers? }
//   disconnect  { receipt? } (waits for its receipt)          drop {} (cuts the socket)
// Events ("event"):
//   connected, message, receipt, stomp-error, heartbeat, disconnected, websocket-close,
//   websocket-error, unhandled, transport (the one that sockjs-client uses)

import { createInterface } from "node:readline";

import { Client, Versions } from "@stomp/stompjs";
import SockJS from "sockjs-client";
import { WebSocket } from "ws";

const [defaultUrl] = process.argv.slice(2);
const subscriptions = new Map();
const transactions = new Map();
let client;

const operations = {
  connect,

  subscribe({ destination, id, headers = {}, receipt }) {
    expectReceipt(receipt);
    const asked = { ...headers, ...(id && { id }), ...(receipt && { receipt }) };
    const subscription = client.subscribe(destination, (frame) => emit("message", fieldsOf(frame)), asked);
    subscriptions.set(subscription.id, subscription);
  },

  unsubscribe({ id, headers = {} }) {
    expectReceipt(headers.receipt);
    subscriptions.get(id).unsubscribe(headers);
    subscriptions.delete(id);
  },

  publish({ destination, body = "", base64, headers = {}, receipt }) {
    expectReceipt(receipt);
    const binary = base64 === undefined ? {} : { binaryBody: new Uint8Array(Buffer.from(base64, "base64")) };
    client.publish({ destination, body, ...binary, headers: { ...headers, ...(receipt && { receipt }) } });
  },

  begin: ({ transaction }) => transactions.set(transaction, client.begin(transaction)),
  commit: ({ transaction }) => transactions.get(transaction).commit(),
  abort: ({ transaction }) => transactions.get(transaction).abort(),
  ack: ({ id, subscription, headers }) => client.ack(id, subscription, headers),
  nack: ({ id, subscription, headers }) => client.nack(id, subscription, headers),

  disconnect({ receipt }) {
    if (receipt) client.disconnectHeaders = { receipt };
    return client.deactivate();
  },

  drop: () => client.forceDisconnect(),
};

function connect({ url = defaultUrl, headers = {}, versions, handshake_headers: handshakeHeaders, transport, ...times }) {
  const stompVersions = versions ? new Versions(versions) : Versions.default;
  client = new Client({
    webSocketFactory: () =>
      transport
        ? overSockJs(url, transport)
        : new WebSocket(url, stompVersions.protocolVersions(), { headers: handshakeHeaders }),
    stompVersions,
    connectHeaders: headers,
    heartbeatOutgoing: times.outgoing_ms ?? 0,
    heartbeatIncoming: times.incoming_ms ?? 0,
    reconnectDelay: times.reconnect_ms ?? 0,
    onConnect: (frame) => emit("connected", { version: client.connectedVersion, ...fieldsOf(frame) }),
    onDisconnect: (frame) => emit("disconnected", fieldsOf(frame)),
    onStompError: (frame) => emit("stomp-error", fieldsOf(frame)),
    onWebSocketClose: ({ code, reason, wasClean }) => emit("websocket-close", { code, reason, clean: wasClean }),
    onWebSocketError: ({ message }) => emit("websocket-error", { message }),
    onUnhandledMessage: (frame) => emit("unhandled", fieldsOf(frame)),
    onUnhandledReceipt: (frame) => emit("unhandled", fieldsOf(frame)),
    onUnhandledFrame: (frame) => emit("unhandled", fieldsOf(frame)),
    // The library tells of heartbeats nowhere else in every version.
    debug: (line) => {
      if (line === "<<< PONG") emit("heartbeat", { direction: "in" });
      if (line === ">>> PING") emit("heartbeat", { direction: "out" });
    },
  });
  client.activate();
}

/** By this transport alone; a loaded machine is given the time it needs. */
function overSockJs(url, transport) {
  const socket = new SockJS(url, null, { transports: [transport], timeout: 30_000 });
  socket.addEventListener("open", () => emit("transport", { transport: socket.transport }));
  return socket;
}

function expectReceipt(receipt) {
  if (receipt) client.watchForReceipt(receipt, () => emit("receipt", { id: receipt }));
}

function fieldsOf({ command, headers, body, binaryBody }) {
  const bytes = Buffer.from(binaryBody ?? []);
  const isText = bytes.equals(Buffer.from(body));
  return { command, headers, ...(isText ? { body } : { base64: bytes.toString("base64") }) };
}

function emit(event, fields) {
  process.stdout.write(`${JSON.stringify({ event, at_ms: Date.now(), ...fields })}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  if (!line.trim()) continue;
  try {
    const { op, ...fields } = JSON.parse(line);
    await operations[op](fields);
  } catch (error) {
    process.stderr.write(`${line}: ${error.stack}\n`);
    process.exit(1);
  }
}
process.exit(0);
