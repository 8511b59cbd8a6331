// The page's own codecs, without a browser: what its frames look like, reading them back, and what is
// said of them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { insideOf, isHeartbeat, summaryOf } from "../../crates/gateway/web/frames.js";
import { FrameReader, Native, Stomp, stompFrame } from "../../crates/gateway/web/protocols.js";

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

test("heartbeats are known in both protocols and by every transport", () => {
  const beats = ["\n", "\r\n", '{"type":"ping"}', '{"type":"pong"}', "h", ":", 'a["\\n"]', '["\\n"]', 'POST /sockjs/0/a/xhr_send\n\n["\\n"]'];
  for (const beat of beats) assert(isHeartbeat(beat), beat);
  const others = ["SEND\n\n\0", '{"type":"ping","id":1}', 'a["\\n","SEND\\n\\n"]', "o", "id: 1:2\ndata: {}", "200 {}"];
  for (const other of others) assert(!isHeartbeat(other), other);
});

test("a line says what goes over the wire, whichever way it goes", () => {
  for (const [text, kind, preview] of [
    ['{"type":"send","to":"/topic/a","data":{"x":1}}', "send", '{"x":1}'],
    ["MESSAGE\ndestination:/topic/a\n\nhi\0", "MESSAGE", "hi"],
    ['a["MESSAGE\\na:b\\n\\nhi\\u0000"]', "a", "MESSAGE hi"],
    ['POST /sockjs/000/abc/xhr_send\n\n["{\\"type\\":\\"connect\\"}"]', "POST", "xhr_send · connect "],
    ["POST /sockjs/000/abc/xhr_streaming", "POST", "xhr_streaming"],
    ["o", "o", ""],
    ['c[1002,"Connection interrupted"]', "c", '[1002,"Connection interrupted"]'],
    ['event: subscribed\ndata: {"type":"ok","id":0}', "subscribed", "id:0"],
    ['id: 5f:3\ndata: {"type":"message","data":7}', "message", "7"],
    ["GET /poll?destination=/topic/a&wait=0", "GET", "/poll?destination=/topic/a&wait=0"],
    ['200 {"messages":[]}', "200", '{"messages":[]}'],
  ]) {
    assert.deepEqual(summaryOf(text), { kind, preview }, text);
  }
});

test("only an array of texts has messages inside", () => {
  assert.deepEqual(insideOf('a["x","y"]'), ["x", "y"]);
  for (const text of ['[{"type":"ok"}]', "a[1]", "[]", "abc"]) assert.equal(insideOf(text), undefined, text);
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
    ["joined", { topic: "/topic/a", position: undefined, recovered: undefined, reason: undefined }],
    ["message", { topic: "/topic/a", body: { text: "x" }, at: 5, position: undefined }],
  ]);
});

test("both protocols give a position back, and learn where they are", () => {
  const native = recorded(Native);
  native.protocol.join("/topic/a", "5f1c:41");
  native.protocol.received('{"type":"ok","id":1,"epoch":"5f1c","offset":43,"recovered":true,"count":2}');
  const stomp = recorded(Stomp);
  stomp.protocol.join("/topic/a", "5f1c:41");
  stomp.protocol.received("RECEIPT\nreceipt-id:r1\nepoch:5f1c\noffset:43\nrecovered:true\n\n\0");
  const joined = ["joined", { topic: "/topic/a", position: "5f1c:43", recovered: true, reason: undefined }];
  assert.deepEqual(native.log, [
    ["write", '{"type":"subscribe","to":"/topic/a","since":{"epoch":"5f1c","offset":41},"id":1}'],
    joined,
  ]);
  assert.match(stomp.log[0][1], /^SUBSCRIBE\n.*\nlast-event-id:5f1c\\c41\n/s);
  assert.deepEqual(stomp.log[1], joined);
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
