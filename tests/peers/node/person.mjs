// How the scripts here and the test that starts them talk: one JSON value a line. The first line in is what to do;
// `ask` prints what a person is to do and waits for what came of it; `done` prints the result.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function read() {
  const { value, done } = await lines.next();
  if (done) throw new Error("nobody answers");
  return JSON.parse(value);
}

export const task = await read();

export async function ask(what) {
  console.log(JSON.stringify(what));
  return read();
}

export function done(result) {
  console.log(JSON.stringify({ done: result }));
  process.exit(0);
}

export function importKey(jwk) {
  return crypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
}

export const DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code";
export const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
export const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
