// A client on the TypeScript SDK, of the generation that the first argument names: makes the tour that it reads, and
// prints what it met. What a tour is, peers/tour.py says.
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";

const first = process.argv[2] === "1";
const sdk = first
  ? {
      ...(await import("@modelcontextprotocol/sdk/client/index.js")),
      ...(await import("@modelcontextprotocol/sdk/client/sse.js")),
      ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      ...(await import("@modelcontextprotocol/sdk/types.js")),
    }
  : await import("@modelcontextprotocol/client");
const tour = JSON.parse(await text(process.stdin));
const modern = tour.version >= "2026";

const asked = [];
const notified = [];
const progress = [];

const Transport = tour.url.endsWith("/sse") ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
const transport = new Transport(new URL(tour.url), {
  requestInit: { headers: { Authorization: `Bearer ${tour.token}` } },
});
if (first) {
  // This generation always offers the newest version that it knows.
  const send = transport.send.bind(transport);
  transport.send = (message, options) => {
    if (message.method !== "initialize") return send(message, options);
    return send({ ...message, params: { ...message.params, protocolVersion: tour.version } }, options);
  };
}

const client = new sdk.Client(
  { name: "tourist", version: "1" },
  {
    capabilities: { sampling: {}, elicitation: { form: {} }, roots: { listChanged: true } },
    ...(first ? {} : modern ? { versionNegotiation: { mode: { pin: tour.version } } } : { supportedProtocolVersions: [tour.version] }),
  },
);

function answer(method, schema, result) {
  client.setRequestHandler(first ? sdk[schema] : method, () => {
    asked.push(method);
    return result;
  });
}
answer("sampling/createMessage", "CreateMessageRequestSchema", {
  role: "assistant",
  content: { type: "text", text: tour.sampled },
  model: "none",
});
answer("elicitation/create", "ElicitRequestSchema", { action: "accept", content: tour.elicited });
answer("roots/list", "ListRootsRequestSchema", { roots: tour.roots.map((uri) => ({ uri })) });
client.fallbackNotificationHandler = async ({ method }) => {
  notified.push(method);
};

const names = (list, key) => list.map((entry) => entry[key]).sort();
const steps = {
  tools: async () => names((await client.listTools()).tools, "name"),
  prompts: async () => names((await client.listPrompts()).prompts, "name"),
  resources: async () => names((await client.listResources()).resources, "uri"),
  templates: async () => names((await client.listResourceTemplates()).resourceTemplates, "uriTemplate"),
  call: async (name, args) => {
    const options = { onprogress: (made) => progress.push([made.progress, made.total ?? 0]) };
    const result = await client.callTool({ name, arguments: args }, ...(first ? [undefined, options] : [options]));
    const said = result.content.map((item) => item.text ?? "").join("");
    return result.isError ? { error: said } : said;
  },
  read: async (uri) => (await client.readResource({ uri })).contents[0].text,
  prompt: async (name, args) => (await client.getPrompt({ name, arguments: args })).messages[0].content.text,
  complete: async (prompt, name, value) =>
    (await client.complete({ ref: { type: "ref/prompt", name: prompt }, argument: { name, value } })).completion.values,
  subscribe: async (uri) => void (await client.subscribeResource({ uri })),
  unsubscribe: async (uri) => void (await client.unsubscribeResource({ uri })),
  listen: async (filter) => (await client.listen(filter)).honoredFilter,
  level: async (level) => void (await client.setLoggingLevel(level)),
  ping: async () => void (await client.ping()),
  notified: async (method) => {
    const deadline = Date.now() + tour.patience * 1000;
    while (!notified.includes(method)) {
      if (Date.now() > deadline) throw new Error(`no ${method} came`);
      await pause(20);
    }
  },
  // Tells that the roots changed, again and again, until the server asks for them.
  change_roots: async () => {
    const before = asked.length;
    const come = () => asked.indexOf("roots/list", before) >= 0;
    while (!come()) {
      await client.sendRootsListChanged();
      for (const deadline = Date.now() + 500; !come() && Date.now() < deadline; ) await pause(20);
    }
  },
};

// The newer generation says what was settled on, the older one tells it to its transport.
let version;
const settled = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (told) => settled?.((version = told));
await client.connect(transport);
version = client.getNegotiatedProtocolVersion?.() ?? version;
const results = [];
for (const [step, ...args] of tour.steps) {
  try {
    results.push((await steps[step](...args)) ?? null);
  } catch (error) {
    if (typeof error.code !== "number" && typeof error.status !== "number") throw error;
    // An answer that is not 200 is shown as its text.
    const body = /\{"jsonrpc".*\}/s.exec(error.message)?.[0];
    results.push({ code: body ? JSON.parse(body).error.code : error.code });
  }
}
const met = {
  version,
  server: client.getServerVersion().name,
  session: transport.sessionId !== undefined,
  results,
  asked,
  notified,
  progress,
};
if (met.session) await transport.terminateSession();
await client.close();
console.log(JSON.stringify(met));
