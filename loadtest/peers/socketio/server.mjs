// Socket.IO as its own documentation tunes it: WebSocket only, the native add-on for masks, no
// compression, and the handshake's request forgotten (socket.io/docs/v4/performance-tuning,
// /memory-usage). Tokens are checked in a middleware, as socket.io/docs/v4/middlewares shows.
//
// Environment: PORT, SECRET (HS256), and REDIS_URL for several nodes.

import { createServer } from "node:http";

import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  maxHttpBufferSize: 1 << 20,
});

if (process.env.REDIS_URL) {
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const { createClient } = await import("redis");
  const publisher = createClient({ url: process.env.REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

io.engine.on("connection", (socket) => {
  socket.request = null;
});

io.use((socket, next) => {
  jwt.verify(
    socket.handshake.auth.token,
    process.env.SECRET,
    { algorithms: ["HS256"] },
    (error, claims) => {
      if (error) {
        next(new Error("unauthorized"));
      } else {
        socket.data.user = claims.sub;
        next();
      }
    },
  );
});

io.on("connection", (socket) => {
  socket.on("subscribe", async (room, done) => {
    await socket.join(room);
    done?.();
  });
  socket.on("publish", (room, body, done) => {
    io.to(room).emit("message", body);
    done?.();
  });
});

http.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
