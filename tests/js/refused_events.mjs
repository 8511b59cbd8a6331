// A browser's EventSource that a backend refuses, and one that it fails first and takes then.
//
//   node refused_events.mjs http://127.0.0.1:8080 TOKEN REFUSED FAILED
//
// Prints what each came to as a line of JSON. CHROMIUM names another browser binary than
// /usr/bin/chromium.

import { chromium } from "playwright-core";

const [gateway, token, refused, failed] = process.argv.slice(2);

/** Within the page: what becomes of an EventSource, until it is closed for good or subscribed. */
function listen(url) {
  return new Promise((resolve, reject) => {
    const told = [];
    const source = new EventSource(url);
    const end = (how) => {
      source.close();
      resolve([...told, how]);
    };
    source.addEventListener("subscribed", () => end("subscribed"));
    source.addEventListener("fault", ({ data }) => end(`fault ${data}`));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) end("closed");
      else told.push("reconnecting");
    });
    setTimeout(() => reject(new Error(`neither closed nor subscribed: ${told}`)), 20_000);
  });
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update"],
});
try {
  const tab = await browser.newPage();
  await tab.goto(`${gateway}/livez`);
  const url = (to) => `${gateway}/events?destination=${to}&access_token=${token}`;
  const told = { refused: await tab.evaluate(listen, url(refused)), failed: await tab.evaluate(listen, url(failed)) };
  console.log(JSON.stringify(told));
} finally {
  await browser.close();
}
