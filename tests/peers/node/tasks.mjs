// A client on the TypeScript SDK that has a tool run as a task, and answers what the task asks on its way.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CallToolResultSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { text } from "node:stream/consumers";

const tour = JSON.parse(await text(process.stdin));
const transport = new StreamableHTTPClientTransport(new URL(tour.url), {
  requestInit: { headers: { Authorization: `Bearer ${tour.token}` } },
});
const client = new Client({ name: "tasks", version: "1" }, { capabilities: { elicitation: { form: {} } } });
let asked = 0;
client.setRequestHandler(ElicitRequestSchema, () => {
  asked += 1;
  return { action: "accept", content: { interpretation: "technical" } };
});
await client.connect(transport);

const tools = (await client.listTools()).tools.map((tool) => tool.name);
const seen = [];
const [[name, args]] = tour.steps;
const options = { task: { ttl: 60000 } };
for await (const message of client.experimental.tasks.callToolStream({ name, arguments: args }, CallToolResultSchema, options)) {
  if (message.type === "taskCreated") seen.push(["created", message.task.taskId, message.task.status]);
  else if (message.type === "taskStatus") seen.push(["status", message.task.taskId, message.task.status]);
  else if (message.type === "result") seen.push(["result", "", message.result.content.map((item) => item.text ?? "").join("")]);
  else seen.push(["error", "", String(message.error.message)]);
}
await client.close();
console.log(JSON.stringify({ tools, seen, asked }));
