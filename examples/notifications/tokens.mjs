// Tokens (JWT, HS256) that the gateway accepts too, as it has the same secret.
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";

const secret = readFileSync(process.env.JWT_SECRET_FILE, "utf8").trim();
const HEAD = encode({ alg: "HS256", typ: "JWT" });

/** A token that is good for an hour. */
export function mint(user) {
  const signed = `${HEAD}.${encode({ sub: user, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${signed}.${sign(signed).toString("base64url")}`;
}

/** Whose token it is, if it is ours and still good. */
export function userOf(token) {
  const [head, claims, signature] = token.split(".");
  if (head !== HEAD || !signature) return undefined;
  const given = Buffer.from(signature, "base64url");
  const expected = sign(`${head}.${claims}`);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
  const { sub, exp } = JSON.parse(Buffer.from(claims, "base64url"));
  return exp > Date.now() / 1000 ? sub : undefined;
}

function encode(value) {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}

function sign(text) {
  return createHmac("sha256", secret).update(text).digest();
}
