// Rules of examples/orders.
import assert from "node:assert/strict";

import { isOnline, withNodeKilled } from "./tabs.mjs";

const HOSTILE = `<script>document.title="owned"</script> & "tea"`;

export const rules = {
  async "a customer's order goes its way, step by step, before both"({ tabs }) {
    this.ann = await tabs.enter("ann", { role: "customer" });
    this.staff = await tabs.enter("sam", { role: "staff" });
    this.id = await place(this.ann, HOSTILE);
    await state(this.staff, this.id, "placed");
    await press(this.ann, this.id, "Pay", "paid");
    await press(this.staff, this.id, "Pack", "packed");
    await state(this.ann, this.id, "packed");
    assert.equal(await this.ann.title(), "Orders");
  },

  async "nobody watches or changes what is not theirs"({ tabs, app }) {
    const bob = await tabs.enter("bob", { role: "customer" });
    await bob.fill("#number", this.id);
    await bob.press("#number", "Enter");
    await bob.locator("#problem", { hasText: "not your order" }).waitFor();
    assert.equal(await bob.locator(".order").count(), 0);
    await isOnline(bob);
    const { token } = await (await fetch(`${app.url}/session?user=bob&role=customer`)).json();
    const asBob = { method: "POST", headers: { authorization: `Bearer ${token}` }, body: '{"to":"cancelled"}' };
    assert.equal((await fetch(`${app.url}/orders/${this.id}`, asBob)).status, 403);
    await bob.context().close();
  },

  async "a step that does not follow is refused"({ app }) {
    const { token } = await (await fetch(`${app.url}/session?user=ann&role=customer`)).json();
    const again = { method: "POST", headers: { authorization: `Bearer ${token}` }, body: '{"to":"cancelled"}' };
    const response = await fetch(`${app.url}/orders/${this.id}`, again);
    assert.deepEqual([response.status, await response.text()], [409, "an order that is packed can't be cancelled"]);
    await state(this.ann, this.id, "packed");
  },

  async "who loses its node misses no step"({ stack }) {
    await withNodeKilled(stack, "ann", this.ann, async () => {
      await press(this.staff, this.id, "Ship", "shipped");
      await press(this.staff, this.id, "Delivered", "delivered");
      await state(this.ann, this.id, "delivered");
    });
    const done = await this.ann.locator(`[data-order="${this.id}"] [data-done=true]`).count();
    assert.equal(done, 5);
  },

  async "orders outlive the backend, and a page that is opened anew goes on with them"({ app }) {
    await app.stop();
    await app.start();
    await this.ann.reload();
    await state(this.ann, this.id, "delivered");
    const second = await place(this.ann, "a second thing");
    await press(this.ann, second, "Cancel", "cancelled");
    await state(this.staff, second, "cancelled");
    const third = await place(this.ann, "a third thing");
    await press(this.ann, third, "Pay", "paid");
    await state(this.staff, third, "paid");
  },
};

async function place(tab, item) {
  await tab.fill("#item", item);
  await tab.press("#item", "Enter");
  const order = tab.locator(".order", { has: tab.getByText(item, { exact: true }) });
  return order.getAttribute("data-order");
}

async function press(tab, id, name, then) {
  await tab.locator(`[data-order="${id}"]`).getByRole("button", { name, exact: true }).click();
  await state(tab, id, then);
}

function state(tab, id, name) {
  return tab.locator(`[data-order="${id}"][data-state=${name}]`).waitFor();
}
