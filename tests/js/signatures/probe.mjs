// Says of each signature whether fanlight.mjs takes it; see ../signatures.mjs.
import { isGenuine } from "../../../docs/backends/node/fanlight.mjs";

const words = process.argv.slice(2);
while (words.length > 0) {
  const [timestamp, signature, secret, now] = words.splice(0, 4);
  const headers = { "webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature };
  try {
    console.log(isGenuine(headers, "{}", secret, Number(now) * 1000));
  } catch (error) {
    console.log(`refused: ${error.message}`);
  }
}
