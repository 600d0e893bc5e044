// The official Node client, one call a run: `node client.mjs NAME` prints what came of it as one line of JSON.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.env.OPENAI_INSTALLED_AT}/`)("openai");
const client = new OpenAI({
  baseURL: process.env.ROUTER_URL,
  apiKey: process.env.ROUTER_KEY,
  defaultHeaders: { "X-Tenant-ID": "acme" },
});
const messages = [{ role: "user", content: "one two three" }];

async function text(stream) {
  let content = "";
  for await (const chunk of stream) content += chunk.choices[0]?.delta?.content ?? "";
  return content;
}

const calls = {
  chat: async () => {
    const { data, response } = await client.chat.completions.create({ model: "reasoning", messages }).withResponse();
    return {
      content: data.choices[0].message.content,
      usage: [data.usage.prompt_tokens, data.usage.completion_tokens],
      provider: response.headers.get("x-router-provider"),
    };
  },
  stream: async () => ({
    content: await text(await client.chat.completions.create({ model: "reasoning", messages, stream: true })),
  }),
  completion: async () => ({
    content: (await client.completions.create({ model: "reasoning", prompt: "one two three" })).choices[0].text,
  }),
  embedding: async () => ({
    vector: (await client.embeddings.create({ model: "embedding", input: "one two three" })).data[0].embedding,
  }),
  models: async () => ({ ids: (await client.models.list()).data.map((model) => model.id) }),
  task: (model) => client.chat.completions.create({ model, messages }),
  file: () =>
    client.chat.completions.create({
      model: "reasoning",
      messages: [{ role: "user", content: [{ type: "file", file: { file_id: "contract.pdf" } }] }],
    }),
  tenant: () => client.chat.completions.create({ model: "reasoning", messages }, { headers: { "X-Tenant-ID": "x" } }),
  key: () => client.chat.completions.create({ model: "reasoning", messages }, { headers: { Authorization: "Bearer x" } }),
  cut: async () => text(await client.chat.completions.create({ model: "cut", messages, stream: true })),
};

try {
  const [name, argument] = process.argv.slice(2);
  console.log(JSON.stringify(await calls[name](argument)));
} catch (error) {
  const { status, code, type, param } = error;
  console.log(JSON.stringify({ class: error.constructor.name, status, code, type, param }));
}
