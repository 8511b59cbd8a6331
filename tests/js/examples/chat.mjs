// Rules of examples/chat.
import assert from "node:assert/strict";

import { eventually, withNodeKilled } from "./tabs.mjs";

const HOSTILE = `<img src=x onerror="document.title='owned'"> & "quotes" 🪭`;

export const rules = {
  async "what one says in a room, everybody there reads, and markup is text"({ tabs }) {
    this.ann = await tabs.enter("ann");
    this.bob = await tabs.enter("bob");
    await say(this.ann, "Hello, lobby");
    await say(this.bob, HOSTILE);
    for (const tab of [this.ann, this.bob]) {
      await reads(tab, "ann", "Hello, lobby");
      await reads(tab, "bob", HOSTILE);
      assert.equal(await tab.title(), "Chat");
    }
  },

  async "it is shown who is there, who comes, and who is typing"() {
    for (const tab of [this.ann, this.bob]) await members(tab, ["ann", "bob"]);
    await this.ann.locator("#messages .line", { hasText: "bob joined" }).waitFor();
    await this.bob.locator("#text").pressSequentially("I am about to");
    await this.ann.locator("#typing", { hasText: "bob is typing…" }).waitFor();
    await eventually("the typing ends", async () => !(await this.ann.locator("#typing").textContent()));
    await this.bob.fill("#text", "");
  },

  async "a room is opened by who says something in it, and left"() {
    await join(this.bob, "garden");
    await say(this.bob, "Nobody here yet");
    await this.ann.locator('[data-key="#garden"] button').click();
    await reads(this.ann, "bob", "Nobody here yet");
    await members(this.bob, ["ann", "bob"]);
    await this.ann.click("#part");
    await members(this.bob, ["bob"]);
    await this.bob.locator("#messages .line", { hasText: "ann left" }).waitFor();
    await say(this.bob, "Gone again");
    await reads(this.bob, "bob", "Gone again");
    await open(this.bob, "#lobby");
    assert.equal(await this.ann.locator("#messages", { hasText: "Gone again" }).count(), 0);
  },

  async "a private message reaches one, on all devices, and nobody else"({ tabs }) {
    const phone = await tabs.enter("bob", { as: "bobs-phone", width: 420 });
    const carl = await tabs.enter("carl");
    await members(this.ann, ["ann", "bob", "carl"]);
    await this.ann.locator("#members").getByRole("button", { name: "bob" }).click();
    await say(this.ann, "just between us");
    await this.bob.locator('[data-key="@ann"] .badge', { hasText: "1" }).waitFor();
    for (const tab of [this.bob, phone]) {
      await open(tab, "@ann");
      await reads(tab, "ann", "just between us");
    }
    await say(this.bob, "of course");
    await reads(this.ann, "bob", "of course");
    assert.equal(await carl.locator('[data-key^="@"]').count(), 0);
    await phone.context().close();
    await carl.context().close();
    for (const tab of [this.ann, this.bob]) await open(tab, "#lobby");
  },

  async "what the backend refuses is told, and the conversation goes on"({ app }) {
    await this.ann.locator("#text").evaluate((field) => field.removeAttribute("maxlength"));
    await say(this.ann, "x".repeat(2001));
    await this.ann.locator("#problem", { hasText: "`text` has 1 to 2000 characters" }).waitFor();
    await say(this.ann, "shorter");
    await reads(this.bob, "ann", "shorter");
    await app.stop();
    await say(this.ann, "while the backend is away");
    await this.ann.locator('[data-pending="true"]', { hasText: "while the backend is away" }).waitFor();
    await app.start();
    await reads(this.bob, "ann", "while the backend is away");
  },

  async "a node that is killed loses nothing, and what is said is said once, in order"({ stack }) {
    const texts = (name) => Array.from({ length: 6 }, (_, n) => `${name} during the kill ${n}`);
    await withNodeKilled(stack, "ann", this.ann, async () => {
      for (const [tab, name] of [[this.ann, "ann"], [this.bob, "bob"]]) {
        for (const text of texts(name)) await say(tab, text);
      }
      for (const tab of [this.ann, this.bob]) {
        for (const name of ["ann", "bob"]) await reads(tab, name, texts(name).at(-1));
      }
    });
    await eventually("nothing is on its way", async () => {
      return (await this.ann.locator('[data-pending="true"]').count()) === 0;
    });
    const seen = [this.ann, this.bob].map((tab) => tab.locator("#messages .text").allTextContents());
    const [atAnns, atBobs] = (await Promise.all(seen)).map((all) => all.filter((text) => /during the kill/.test(text)));
    assert.deepEqual(atAnns, atBobs);
    for (const name of ["ann", "bob"]) {
      assert.deepEqual(atAnns.filter((text) => text.startsWith(name)), texts(name));
    }
  },

  async "the database has all of it for who comes later"({ tabs }) {
    for (let n = 0; n < 20; n += 1) await say(this.bob, `filling ${n}`);
    await reads(this.ann, "bob", "filling 19");
    const dora = await tabs.enter("dora");
    await reads(dora, "bob", "filling 19");
    assert.equal(await dora.locator(".text").getByText("Hello, lobby", { exact: true }).count(), 0);
    await dora.click("#older");
    await reads(dora, "ann", "Hello, lobby");
    await dora.locator('[data-key="#garden"]').waitFor();
  },
};

async function say(tab, text) {
  await tab.fill("#text", text);
  await tab.press("#text", "Enter");
}

function reads(tab, author, text) {
  return tab
    .locator('.message[data-pending="false"]')
    .filter({ has: tab.locator(".who").getByText(author, { exact: true }) })
    .filter({ has: tab.locator(".text").getByText(text, { exact: true }) })
    .first()
    .waitFor();
}

async function members(tab, names) {
  const shown = () => tab.locator("#members button").allTextContents();
  await eventually(`${names} are there`, async () => `${await shown()}` === `${names}`);
}

async function join(tab, room) {
  await tab.fill("#room", room);
  await tab.press("#room", "Enter");
  await tab.locator("#title").getByText(`#${room}`).waitFor();
}

async function open(tab, key) {
  await tab.locator(`[data-key="${key}"] button`).click();
  await tab.locator("#title").getByText(key, { exact: true }).waitFor();
}
