// Conversations: rooms, and private ones with somebody. What was said, and who is there.

class Conversation {
  messages = new Map();
  pending = new Map();
  lines = [];
  members = new Set();
  unread = 0;

  /** Each message may come twice: by the history of the gateway, and from the database. */
  take(message) {
    this.pending.delete(message.id);
    const isNew = !this.messages.has(message.seq);
    this.messages.set(message.seq, message);
    return isNew;
  }

  /** In their order: what was said, who came and went in between, and what is on its way. */
  entries() {
    const said = [...this.messages.values()].sort((a, b) => a.seq - b.seq);
    const all = said.map((message) => ({ at: message.seq, message }));
    const merged = [...all, ...this.lines].sort((a, b) => a.at - b.at);
    return [...merged, ...[...this.pending.values()].map((message) => ({ message, isPending: true }))];
  }

  oldest() {
    return Math.min(...this.messages.keys());
  }

  /** A line that is no message, behind the newest one. */
  note(line) {
    this.lines.push({ at: Math.max(0, ...this.messages.keys()) + 0.5, line });
    this.lines = this.lines.slice(-20);
  }
}

export class Room extends Conversation {
  constructor(name, connection, { onChange, onMessage, onTyping }) {
    super();
    Object.assign(this, { key: `#${name}`, name, connection, onChange });
    this.target = `/app/chat/${name}/send`;
    this.ends = [
      connection.subscribe(`/topic/chat.${name}`, {
        headers: { presence: "true" },
        onMessage: (data, { event }) => {
          if (event === "presence") this.#changed(data);
          else if (this.take(data)) onMessage(this, data);
          onChange();
        },
        onLive: ({ recovered }) => this.#live(recovered),
      }),
      connection.subscribe(`/topic/typing.${name}`, { onMessage: ({ user }) => onTyping(this, user) }),
    ];
  }

  /** From here on nothing is missed. What was before is asked for, unless it has come. */
  async #live(recovered) {
    if (!recovered) this.#older(`/app/chat/${this.name}/history`);
    // Who came and went meanwhile was told to those who were there: ask who is left.
    this.members = new Set(await this.connection.request(`/app/chat/${this.name}/members`));
    this.onChange();
  }

  async #older(destination) {
    const messages = await this.connection.request(destination);
    messages.forEach((message) => this.take(message));
    this.mayHaveOlder = messages.length === 30;
    this.onChange();
  }

  older() {
    return this.#older(`/app/chat/${this.name}/before/${this.oldest()}`);
  }

  async #changed({ joined, left, truncated }) {
    for (const { user } of joined) {
      if (!this.members.has(user)) this.note(`${user} joined`);
      this.members.add(user);
    }
    for (const { user } of left) {
      this.members.delete(user);
      this.note(`${user} left`);
    }
    if (truncated) this.members = new Set(await this.connection.request(`/app/chat/${this.name}/members`));
    this.onChange();
  }

  typing() {
    this.connection.tell(`/app/chat/${this.name}/typing`);
  }

  leave() {
    this.ends.forEach((end) => end());
  }
}

export class Private extends Conversation {
  constructor(name, me) {
    super();
    Object.assign(this, { key: `@${name}`, name, members: new Set([name, me]) });
    this.target = `/app/private/${encodeURIComponent(name)}`;
  }

  typing() {}
}
