// What was sent and read, in memory and in a file of one JSON line for each.
import { existsSync, readFileSync } from "node:fs";
import { open } from "node:fs/promises";

/** Opens the file, or begins it. */
export function openStore(path) {
  const notifications = new Map();
  const apply = (record) => {
    if (record.type === "read") for (const id of record.ids) notifications.get(id).readAt = record.at;
    else notifications.set(record.id, record);
  };
  if (existsSync(path)) readFileSync(path, "utf8").split("\n").filter(Boolean).map(JSON.parse).forEach(apply);
  const file = open(path, "a");
  const newest = (is) => [...notifications.values()].filter(is).slice(-SHOWN).reverse();
  return {
    /** Done once it is on disk. */
    async add(record) {
      const handle = await file;
      await handle.appendFile(`${JSON.stringify(record)}\n`);
      await handle.datasync();
      apply(record);
    },
    receivedBy: (user) => newest(({ to }) => to === user),
    sentBy: (user) => newest(({ from }) => from === user),
    unreadOf: (user) => [...notifications.values()].filter(({ to, readAt }) => to === user && !readAt),
  };
}

/** As many as a page shows. */
const SHOWN = 50;
