// Node's own HTTP/2, and with https also `ws`, as clients of a gateway.
//
//   node secure_clients.mjs --gateway https://127.0.0.1:8080 --token T
//
// By HTTP/2: two WebSockets (RFC 8441) and a POST on one connection, one WebSocket closed by its
// handshake and one by RST_STREAM. By `ws`: one WebSocket of HTTP/1.1. Certificates are not checked.
// Exits with 1, and says why, at the first that does not hold.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, constants } from "node:http2";
import { parseArgs } from "node:util";

import WebSocket from "ws";

const { values: options } = parseArgs({ options: { gateway: { type: "string" }, token: { type: "string" } } });
const TOPIC = "/topic/open.node";

/** A masked text or close frame of a client, shorter than 64 KiB. */
function frame(opcode, payload) {
  const mask = [1, 2, 3, 4];
  const length = payload.length < 126 ? [payload.length | 0x80] : [126 | 0x80, payload.length >> 8, payload.length & 0xff];
  return Buffer.from([0x80 | opcode, ...length, ...mask, ...payload.map((byte, at) => byte ^ mask[at % 4])]);
}

/** The frames of a server that come whole, as `[opcode, payload]`. */
async function* frames(stream) {
  let pending = Buffer.alloc(0);
  for await (const chunk of stream) {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= 2) {
      const short = pending[1] & 0x7f;
      const begin = short === 126 ? 4 : 2;
      if (pending.length < begin) break;
      const length = short === 126 ? pending.readUInt16BE(2) : short;
      if (pending.length < begin + length) break;
      yield [pending[0] & 0x0f, pending.subarray(begin, begin + length)];
      pending = pending.subarray(begin + length);
    }
  }
}

class Http2WebSocket {
  static async open(session) {
    const stream = session.request({
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":path": "/ws",
      "sec-websocket-version": "13",
      "sec-websocket-protocol": "fanlight.v1.json",
      authorization: `Bearer ${options.token}`,
    });
    const [headers] = await once(stream, "response");
    assert.equal(headers[":status"], 200);
    assert.equal(headers["sec-websocket-protocol"], "fanlight.v1.json");
    const client = new Http2WebSocket();
    Object.assign(client, { stream, frames: frames(stream) });
    await client.ask({ type: "connect" }, "connected");
    await client.ask({ type: "subscribe", to: TOPIC, id: 1 }, "ok");
    return client;
  }

  async ask(message, type) {
    this.stream.write(frame(1, Buffer.from(JSON.stringify(message))));
    assert.equal((await this.heard()).type, type);
  }

  async heard() {
    const { value, done } = await this.frames.next();
    assert.ok(!done, "the stream ended");
    const [opcode, payload] = value;
    assert.equal(opcode, 1);
    return JSON.parse(payload);
  }
}

async function publish(session, data) {
  const stream = session.request({
    ":method": "POST",
    ":path": "/publish",
    "content-type": "application/json",
    authorization: `Bearer ${options.token}`,
  });
  stream.end(JSON.stringify({ to: TOPIC, data }));
  const [headers] = await once(stream, "response");
  assert.equal(headers[":status"], 200);
  stream.resume();
  await once(stream, "end");
}

async function http2() {
  const session = connect(options.gateway, { rejectUnauthorized: false });
  session.on("error", (error) => assert.fail(error));
  const [settings] = await once(session, "remoteSettings");
  assert.equal(settings.enableConnectProtocol, true);
  const [one, other] = [await Http2WebSocket.open(session), await Http2WebSocket.open(session)];
  await publish(session, "hello");
  for (const client of [one, other]) assert.equal((await client.heard()).data, "hello");
  one.stream.write(frame(8, Buffer.from([0x03, 0xe8])));
  const { value: close } = await one.frames.next();
  assert.deepEqual([close[0], close[1].readUInt16BE(0)], [8, 1000]);
  assert.equal((await one.frames.next()).done, true);
  one.stream.end();
  const closed = once(other.stream, "close");
  other.stream.close(constants.NGHTTP2_CANCEL);
  await closed;
  await publish(session, "the connection goes on");
  session.close();
  await once(session, "close");
}

async function ws() {
  const url = `${options.gateway.replace("https", "wss")}/ws`;
  const headers = { authorization: `Bearer ${options.token}` };
  const client = new WebSocket(url, ["v12.stomp"], { rejectUnauthorized: false, headers });
  await once(client, "open");
  client.send("CONNECT\naccept-version:1.2\n\n\0");
  const [connected] = await once(client, "message");
  assert.match(connected.toString(), /^CONNECTED\n/);
  client.close(1000);
  const [code] = await once(client, "close");
  assert.equal(code, 1000);
}

await http2();
if (options.gateway.startsWith("https")) await ws();
