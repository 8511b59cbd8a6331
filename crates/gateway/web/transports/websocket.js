// A WebSocket at /ws, with the protocol as its subprotocol.

export class WebSocketCarrier {
  constructor({ subprotocol, on }) {
    this.on = on;
    this.socket = new WebSocket(new URL("/ws", wsOrigin()), subprotocol);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => on.open();
    this.socket.onmessage = ({ data }) => {
      const text = typeof data === "string" ? data : new TextDecoder().decode(data);
      on.frame("in", text);
      on.text(text);
    };
    this.socket.onclose = ({ code, reason }) => on.closed({ code, reason });
  }

  send(text) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(text);
    this.on.frame("out", text);
  }

  close() {
    this.socket.close(1000);
  }
}

/** Where this page is from, as WebSockets call it. */
export function wsOrigin() {
  return location.href.replace(/^http/, "ws");
}
