// Rules of examples/presence.
import { eventually, withNodeKilled } from "./tabs.mjs";

export const rules = {
  async "who comes is online for all, counted by devices"({ tabs }) {
    this.ann = await tabs.enter("ann");
    await says(this.ann, "ann", "online");
    this.bob = await tabs.enter("bob");
    await says(this.ann, "bob", "online");
    await says(this.bob, "ann", "online");
    this.phone = await tabs.enter("bob", { as: "bobs-phone", width: 420 });
    for (const tab of [this.ann, this.bob, this.phone]) await says(tab, "bob", "online on 2 devices");
  },

  async "who goes with one device stays, and with the last is last seen now"() {
    await this.phone.context().close();
    await says(this.ann, "bob", "online");
    await this.bob.context().close();
    await says(this.ann, "bob", "last seen just now");
  },

  async "a node that dies leaves no ghosts behind"({ tabs, stack }) {
    this.carl = await tabs.enter("carl");
    await says(this.ann, "carl", "online");
    const devices = () =>
      this.ann.locator('[data-user="carl"] li').evaluateAll((all) => all.map(({ dataset }) => dataset.session));
    const [before] = await devices();
    await withNodeKilled(stack, "carl", this.carl, () =>
      // The node could not say that this session ended: another one does, once its lease is over.
      eventually(
        "carl's new session is there, and the old one is gone",
        async () => {
          const now = await devices();
          return now.length === 1 && now[0] !== before;
        },
        40,
      ),
    );
    for (const tab of [this.ann, this.carl]) await says(tab, "carl", "online");
  },

  async "what the backend missed while it was away is asked for"({ app }) {
    await app.stop();
    await this.carl.context().close();
    await app.start();
    await says(this.ann, "carl", "last seen just now", 40);
    await says(this.ann, "ann", "online");
  },
};

async function says(tab, user, text, seconds = 20) {
  const state = tab.locator(`[data-user="${user}"] .state`);
  await eventually(`${user} is ${text}`, async () => (await state.allTextContents())[0] === text, seconds);
}
