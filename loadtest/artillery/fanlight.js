// What the Artillery scripts of this folder do beyond sending texts: times, and many messages.
'use strict';

module.exports = { begin, enter, publish };

// Before the connection is made.
function begin(_parameters, context, done) {
  context.vars.began = Date.now();
  done();
}

// Connects, subscribes to one of the rooms, and measures what comes from now on. Artillery's own
// `match` takes one message, and fails when another follows before its next step.
function enter(context, events, done) {
  const rooms = Number(context.vars.rooms || 10);
  context.vars.room = `/topic/artillery.${Math.floor(Math.random() * rooms)}`;
  context.vars.sent = new Map();
  const on = {
    connected: () => {
      events.emit('histogram', 'fanlight.connecting', Date.now() - context.vars.began);
      say(context, { type: 'subscribe', id: 'subscribe', to: context.vars.room });
    },
    ok: ({ id }) => {
      if (id === 'subscribe') return done();
      events.emit('histogram', 'fanlight.acknowledging', Date.now() - context.vars.sent.get(id));
      context.vars.sent.delete(id);
    },
    message: ({ data }) => {
      events.emit('counter', 'fanlight.delivered', 1);
      events.emit('histogram', 'fanlight.latency', Date.now() - data.at);
    },
    error: ({ code }) => events.emit('counter', `fanlight.refused.${code}`, 1),
  };
  context.ws.on('message', (text) => {
    const messages = JSON.parse(text);
    for (const message of Array.isArray(messages) ? messages : [messages]) {
      if (on[message.type]) on[message.type](message);
    }
  });
  say(context, { type: 'connect' });
}

function publish(context, events, done) {
  const id = (context.vars.number = (context.vars.number || 0) + 1);
  context.vars.sent.set(id, Date.now());
  events.emit('counter', 'fanlight.published', 1);
  const data = { at: Date.now(), padding: 'x'.repeat(Number(context.vars.bodyBytes || 128)) };
  say(context, { type: 'send', id, to: context.vars.room, data });
  done();
}

function say(context, message) {
  context.ws.send(JSON.stringify(message));
}
