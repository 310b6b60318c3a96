// A client on the TypeScript SDK, of the generation that the task names, that finds the authorization server itself,
// registers or names its document, sends its person there, and calls a tool.
import { ask, done, task } from "./person.mjs";

const first = task.generation === "1";
const sdk = first
  ? {
      ...(await import("@modelcontextprotocol/sdk/client/index.js")),
      ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      ...(await import("@modelcontextprotocol/sdk/client/auth.js")),
    }
  : await import("@modelcontextprotocol/client");

const kept = {};
let opened;
const provider = {
  redirectUrl: task.redirect_uri,
  clientMetadataUrl: task.document,
  clientMetadata: {
    client_name: "TypeScript client",
    redirect_uris: [task.redirect_uri],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: "none",
  },
  state: () => "state-of-the-typescript-client",
  clientInformation: () => kept.client,
  saveClientInformation: (client) => {
    kept.client = client;
  },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => {
    kept.tokens = tokens;
  },
  redirectToAuthorization: (url) => {
    opened = url.href;
  },
  saveCodeVerifier: (verifier) => {
    kept.verifier = verifier;
  },
  codeVerifier: () => kept.verifier,
  saveDiscoveryState: (state) => {
    kept.discovery = state;
  },
  discoveryState: () => kept.discovery,
};

async function connect() {
  const transport = new sdk.StreamableHTTPClientTransport(new URL(task.resource), { authProvider: provider });
  const client = new sdk.Client(
    { name: "typescript", version: "1" },
    first ? {} : { versionNegotiation: { mode: "auto" } },
  );
  return { client, transport };
}

let { client, transport } = await connect();
let asked = false;
try {
  await client.connect(transport);
} catch (error) {
  if (!opened) throw error;
  asked = true;
  const { callback } = await ask({ open: opened });
  const answer = new URL(callback).searchParams;
  if (first) await transport.finishAuth(answer.get("code"));
  else await transport.finishAuth(answer);
  await client.close();
  ({ client, transport } = await connect());
  await client.connect(transport);
}
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const result = await client.callTool({ name: task.call.name, arguments: task.call.arguments });
await client.close();
done({ asked, tools, text: result.content[0].text, client: kept.client, tokens: kept.tokens });
