// Rules of examples/notifications.
import assert from "node:assert/strict";

import { eventually, withNodeKilled } from "./tabs.mjs";

const HOSTILE = `<img src=x onerror="document.title='owned'"> & "quotes" 🪭`;

export const rules = {
  async "who is notified sees it at once, counted as unread"({ tabs }) {
    const ann = await tabs.enter("ann");
    const bob = await tabs.enter("bob");
    await notify(ann, "bob", "The build is green");
    await has(bob, "The build is green");
    await unread(bob, 1);
    await ann.locator("#sent .item", { hasText: "✓ sent" }).waitFor();
    Object.assign(this, { ann, bob });
  },

  async "markup is text"({ tabs }) {
    await notify(this.ann, "bob", HOSTILE);
    await has(this.bob, HOSTILE);
    assert.equal(await this.bob.locator("#received img").count(), 0);
    await unread(this.bob, 2);
    assert.equal(await this.bob.title(), "(2) Notifications");
  },

  async "what is read on one device is read on the other, and the sender gets a receipt"({ tabs }) {
    const phone = await tabs.enter("bob", { as: "bobs-phone", width: 420 });
    await unread(phone, 2);
    await phone.locator(".item", { hasText: "The build is green" }).getByRole("button", { name: "Read" }).click();
    await unread(this.bob, 1);
    await this.ann.locator("#sent .item", { hasText: "The build is green" }).getByText("✓✓ read").waitFor();
    await this.bob.click("#read-all");
    await unread(phone, 0);
    await this.ann.locator('#sent .item[data-read="false"]').waitFor({ state: "detached" });
    await phone.context().close();
  },

  async "who was away gets what came meanwhile, from the history"({ tabs }) {
    const context = this.bob.context();
    await this.bob.close();
    for (const text of ["missed one", "missed two"]) await notify(this.ann, "bob", text);
    assert.equal(context.pages().length, 0);
    const again = await tabs.open("bob-again", { on: { context: () => context } });
    await again.fill("#login [name=user]", "bob");
    await again.press("#login [name=user]", "Enter");
    await again.locator("#caught-up", { hasText: "2 while you were away." }).waitFor();
    await unread(again, 2);
    this.bob = again;
  },

  async "a node that is killed loses nothing and repeats nothing"({ stack }) {
    const texts = Array.from({ length: 8 }, (_, n) => `during the kill ${n}`);
    for (const text of texts.slice(0, 3)) await notify(this.ann, "bob", text);
    await withNodeKilled(stack, "bob", this.bob, async () => {
      for (const text of texts.slice(3)) await notify(this.ann, "bob", text);
      for (const text of texts) await has(this.bob, text);
    });
    const shown = await this.bob.locator("#received .text").allTextContents();
    assert.deepEqual(shown.filter((text) => text.startsWith("during")), texts.reverse());
    await unread(this.bob, 10);
  },

  async "the backend has kept it all after a restart"({ tabs, app }) {
    await app.stop();
    await app.start();
    const anew = await tabs.enter("bob", { as: "bob-anew" });
    await unread(anew, 10);
    await has(anew, "missed two");
    await eventually("each once", async () => (await anew.locator("#received .item").count()) === 12);
  },
};

async function notify(tab, to, text) {
  await tab.fill("#to", to);
  await tab.fill("#text", text);
  await tab.press("#text", "Enter");
  // The field is emptied once the backend has it.
  await eventually(`sent: ${text}`, async () => (await tab.inputValue("#text")) === "");
}

function has(tab, text) {
  return tab.locator("#received .text").getByText(text, { exact: true }).waitFor();
}

async function unread(tab, count) {
  await eventually(`${count} unread`, async () => Number(await tab.locator("#unread").textContent()) === count);
}
