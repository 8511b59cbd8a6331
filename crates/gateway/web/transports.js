// What there is to choose from. A transport opens a link with { protocol, token, topic, position, on };
// `position` is where to go on from, as "epoch:offset". A link has send(topic, body), which gives an
// id, write(text) and close(), and tells `on`:
//
//   frame(direction, text)                          what went over the wire
//   connected({ session?, user? })
//   message({ topic, body, at?, position? })
//   joined({ topic, position?, recovered?, reason? })   behind what was missed
//   accepted(id), refused({ code, message })
//   reconnect({ afterMs })                          advice for the end that follows
//   closed({ why, isFinal })                        the end; `isFinal`: trying again is in vain

import { Conversation } from "./transports/conversation.js";
import { EventsLink } from "./transports/events.js";
import { PollLink } from "./transports/poll.js";
import { SockJsRequests, SockJsWebSocket } from "./transports/sockjs.js";
import { WebSocketCarrier } from "./transports/websocket.js";

const BOTH_WAYS = ["native", "stomp"];
const NATIVE_ONLY = ["native"];

export const TRANSPORTS = {
  "websocket": {
    label: "WebSocket",
    about: "One connection, both ways.",
    protocols: BOTH_WAYS,
    open: (wanted) => new Conversation((more) => new WebSocketCarrier(more), wanted),
  },
  "sockjs-websocket": {
    label: "SockJS: WebSocket",
    about: "What sockjs-client tries first: its frames in a WebSocket.",
    protocols: BOTH_WAYS,
    open: (wanted) => new Conversation((more) => new SockJsWebSocket(more), wanted),
  },
  "sockjs-streaming": {
    label: "SockJS: XHR streaming",
    about: "One response streams in, and requests send. Each may come to another node.",
    protocols: BOTH_WAYS,
    open: (wanted) => new Conversation((more) => new SockJsRequests("xhr_streaming", more), wanted),
  },
  "sockjs-polling": {
    label: "SockJS: XHR polling",
    about: "A request for each batch that comes, and requests that send. Each may come to another node.",
    protocols: BOTH_WAYS,
    open: (wanted) => new Conversation((more) => new SockJsRequests("xhr", more), wanted),
  },
  "events": {
    label: "Server-sent events",
    about: "One response streams in; POST /publish sends. Native JSON only: there is no STOMP here, and no frames to send by hand but publications.",
    protocols: NATIVE_ONLY,
    publishes: true,
    open: (wanted) => new EventsLink(wanted),
  },
  "poll": {
    label: "Long polling",
    about: "A request waits for messages; POST /publish sends. Native JSON only: there is no STOMP here, and no frames to send by hand but publications.",
    protocols: NATIVE_ONLY,
    publishes: true,
    open: (wanted) => new PollLink(wanted),
  },
};
