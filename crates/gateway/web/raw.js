// What a person may send by hand, with examples for what the transport carries.

import { $ } from "./dom.js";
import { stompFrame } from "./protocols.js";

let taken = ""; // the example last chosen

/** `room()` gives { protocol, publishes, topic, user }; `write(text)` sends. */
export function startRaw({ room, write }) {
  $("examples").addEventListener("change", () => {
    const example = examplesFor(room())[$("examples").value];
    if (example !== undefined) $("raw").value = taken = example;
    $("examples").value = "";
  });
  $("raw-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const raw = $("raw").value;
    const isOpenFrame = room().protocol === "stomp" && !raw.endsWith("\0") && raw.trim();
    if (raw) write(isOpenFrame ? `${raw}\0` : raw);
  });
}

/** Offers what fits. */
export function fitRaw(room) {
  // An example for something else would only confuse; what a person wrote stays.
  if ($("raw").value === taken) $("raw").value = taken = "";
  const names = Object.keys(examplesFor(room));
  const options = ["Examples…", ...names].map((name) => new Option(name, name));
  options[0].value = "";
  $("examples").replaceChildren(...options);
  $("raw-label").textContent = room.publishes ? "Publish by hand" : "Send a raw frame";
  $("raw-send").textContent = room.publishes ? "Publish" : "Send frame";
  $("raw").placeholder = `Choose an example, or write any text: it goes out as one ${room.publishes ? "POST /publish" : "message"}.`;
  $("raw-hint").textContent = hintFor(room);
}

function hintFor({ protocol, publishes }) {
  if (publishes) return "Subscribing or pinging by hand needs a connection both ways.";
  return protocol === "stomp" ? "The NUL that ends a frame is added." : "An object, or an array of them.";
}

function examplesFor({ protocol, publishes, topic = "/topic/chat.lobby", user = "ann" }) {
  const data = { user, text: "by hand" };
  if (publishes) return publishExamples(topic, data);
  return protocol === "stomp" ? stompExamples(topic, JSON.stringify(data)) : nativeExamples(topic, data);
}

function publishExamples(to, data) {
  return {
    "Say something": JSON.stringify({ to, data }),
    "Say it once, however often it is sent": JSON.stringify({ to, data, key: "by-hand" }),
    "A forbidden destination": JSON.stringify({ to: "/queue/not-yours", data }),
    "Not JSON": '{"to":',
  };
}

function nativeExamples(to, data) {
  return {
    "Say something": JSON.stringify({ type: "send", to, data, id: "by-hand" }),
    "Ping": JSON.stringify({ type: "ping", id: "by-hand" }),
    "Subscribe to another topic": JSON.stringify({ type: "subscribe", to: "/topic/other", id: "by-hand" }),
    "A forbidden destination": JSON.stringify({ type: "subscribe", to: "/queue/not-yours", id: "by-hand" }),
    "Not JSON": '{"type":',
  };
}

function stompExamples(destination, body) {
  const example = (...parts) => stompFrame(...parts).replace(/\0$/, "");
  return {
    "Say something": example("SEND", { destination, "content-type": "application/json", receipt: "by-hand" }, body),
    "Subscribe to another topic": example("SUBSCRIBE", { id: "other", destination: "/topic/other", receipt: "by-hand" }),
    "A forbidden destination": example("SUBSCRIBE", { id: "no", destination: "/queue/not-yours" }),
    "An unknown command": "SHOUT\n\n",
    "Disconnect": example("DISCONNECT", { receipt: "bye" }),
  };
}
