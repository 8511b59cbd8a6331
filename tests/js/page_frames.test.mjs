// The page's own STOMP codec, without a browser: what its frames look like, and reading them back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { FrameReader, Native, Stomp, isHeartbeat, stompFrame } from "../../crates/gateway/web/protocols.js";

const MESSAGE = "MESSAGE\ndestination:/topic/a\nx:1\nx:2\ncontent-length:7\n\ngr\u00fc\u00df\0\0";

test("a frame has its command, escaped headers, an empty line, the body and NUL", () => {
  assert.equal(
    stompFrame("SEND", { destination: "/topic/a", note: "a:b\\c\nd\re" }, "gr\u00fc\u00df"),
    "SEND\ndestination:/topic/a\nnote:a\\cb\\\\c\\nd\\re\ncontent-length:6\n\ngr\u00fc\u00df\0",
  );
});

test("CONNECT is not escaped", () => {
  assert.equal(stompFrame("CONNECT", { host: "a:1" }), "CONNECT\nhost:a:1\n\n\0");
});

test("content-length counts bytes, and a NUL inside it is body", () => {
  const [frame] = new FrameReader().push(MESSAGE);
  assert.equal(frame.body, "gr\u00fc\u00df\0");
});

test("of a repeated header the first counts", () => {
  const [frame] = new FrameReader().push(MESSAGE);
  assert.equal(frame.headers.x, "1");
});

test("frames may be split anywhere or share a message, with heartbeats between", () => {
  const text = `\n\n${"MESSAGE\r\na:x\\cy\r\n\r\nbody\0"}\n${"RECEIPT\nreceipt-id:r1\n\n\0"}`;
  const whole = new FrameReader().push(text);
  assert.deepEqual(whole.map(({ command, body }) => [command, body]), [["MESSAGE", "body"], ["RECEIPT", ""]]);
  assert.equal(whole[0].headers.a, "x:y");
  for (let at = 0; at <= text.length; at++) {
    const reader = new FrameReader();
    assert.deepEqual([...reader.push(text.slice(0, at)), ...reader.push(text.slice(at))], whole, `split at ${at}`);
  }
});

test("heartbeats are known in both protocols", () => {
  for (const beat of ["\n", "\r\n", '{"type":"ping"}', '{"type":"pong"}']) assert(isHeartbeat(beat), beat);
  for (const other of ["SEND\n\n\0", '{"type":"ping","id":1}']) assert(!isHeartbeat(other), other);
});

/** A protocol with its wire and callbacks recorded. */
function recorded(Protocol) {
  const log = [];
  const record = (name) => (value) => log.push([name, value]);
  const names = ["connected", "message", "joined", "accepted", "refused", "reconnect", "lost"];
  const on = Object.fromEntries(names.map((name) => [name, record(name)]));
  return { protocol: new Protocol({ write: record("write"), on }), log };
}

test("a native client joins when its subscribe is answered, by id", () => {
  const { protocol, log } = recorded(Native);
  protocol.join("/topic/a");
  protocol.received('[{"type":"ok","id":1},{"type":"message","to":"/topic/a","id":"m","data":{"text":"x"},"at":5}]');
  assert.deepEqual(log, [
    ["write", '{"type":"subscribe","to":"/topic/a","id":1}'],
    ["joined", "/topic/a"],
    ["message", { topic: "/topic/a", body: { text: "x" }, at: 5 }],
  ]);
});

test("a refusal is told with its code", () => {
  const native = recorded(Native);
  native.protocol.received('{"type":"error","id":1,"code":"forbidden","message":"no rule"}');
  assert.deepEqual(native.log, [["refused", { code: "forbidden", message: "no rule", fatal: false }]]);

  const stomp = recorded(Stomp);
  stomp.protocol.received("ERROR\ncode:forbidden\nmessage:no rule\n\n\0");
  assert.deepEqual(stomp.log, [["refused", { code: "forbidden", message: "no rule", fatal: true }]]);
});

test("a STOMP send is accepted by its receipt", () => {
  const { protocol, log } = recorded(Stomp);
  const receipt = protocol.send("/topic/a", { text: "x" });
  protocol.received(`RECEIPT\nreceipt-id:${receipt}\n\n\0`);
  assert.deepEqual(log.at(-1), ["accepted", receipt]);
});
