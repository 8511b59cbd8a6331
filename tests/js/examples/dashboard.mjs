// Rules of examples/dashboard.
import { eventually, isOnline } from "./tabs.mjs";

const FIGURES = ["cpu", "memory", "disk", "load", "threads", "network", "sessions", "published", "sent"];

export const rules = {
  async "every figure is shown and moves"({ tabs }) {
    this.page = await tabs.open("page");
    await isOnline(this.page);
    for (const name of FIGURES) {
      await eventually(name, async () => /^[\d.,]+$/.test(await value(this.page, name)));
    }
    await eventually("what was published is known", async () => Number(await value(this.page, "published")) > 50);
    await eventually("so is this session", async () => Number(await value(this.page, "sessions")) >= 1);
    await moves(this.page);
  },


  async "a page gets no more than four a second of what is published twenty times"() {
    const rates = this.page.locator("#rates[data-made]");
    await eventually("several seconds of it", async () => {
      const { made, shown } = await rates.evaluate((shown) => ({ ...shown.dataset }));
      return Number(made) > 10 && Number(shown) > 2 && Number(shown) < 4.5;
    });
  },

  async "it goes on at the other node, whichever is killed"({ stack }) {
    for (const node of stack.nodes) {
      await node.kill();
      await moves(this.page);
      await isOnline(this.page);
      await node.start();
    }
  },
};

function value(tab, name) {
  return tab.locator(`[data-figure=${name}] .value`).textContent();
}

/** Its line changes several times: more than what may have been under way. */
async function moves(tab) {
  const points = () => tab.locator("[data-figure=network] polyline").getAttribute("points");
  const seen = new Set();
  await eventually("the graph moves", async () => seen.add(await points()).size > 8);
}
