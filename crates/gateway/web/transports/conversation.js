// A link both ways: a protocol, spoken over what carries messages of text.
//
// A carrier is made with { subprotocol, on } where `on` has open(), text(text), frame(direction, text)
// and closed({ code, reason }); it has send(text) and close().

import { PROTOCOLS } from "../protocols.js";

export class Conversation {
  constructor(carrierWith, { protocol, token, topic, position, on }) {
    const Protocol = PROTOCOLS[protocol];
    this.carrier = carrierWith({
      subprotocol: Protocol.subprotocol,
      on: {
        frame: on.frame,
        open: () => this.protocol.open(token),
        text: (text) => this.protocol.received(text),
        closed: ({ code, reason }) =>
          on.closed({ why: `Closed: ${reason || "connection lost"} (${code})`, isFinal: isFinal(code, reason) }),
      },
    });
    this.protocol = new Protocol({
      write: (text) => this.write(text),
      on: {
        ...on,
        connected: (told) => {
          on.connected(told);
          this.protocol.join(topic, position);
        },
        lost: (why) => on.closed({ why, isFinal: false }),
      },
    });
  }

  send(topic, body) {
    return this.protocol.send(topic, body);
  }

  write(text) {
    this.carrier.send(text);
  }

  close() {
    this.protocol.close();
    this.carrier.close();
  }
}

/** Codes after which the same client would only fail again. A fresh token comes with each try, so
 *  an expired or refused one (4501, 4502) is worth another. So is what SockJS says of a session
 *  whose node died. */
function isFinal(code, reason) {
  if (code === 1002 && reason === "Connection interrupted") return false;
  return [1002, 1003, 1007, 1009].includes(code) || (code >= 4503 && code <= 4599);
}
