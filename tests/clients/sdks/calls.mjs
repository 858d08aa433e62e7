// One call of the official openai package: `node calls.mjs NAME BASE_URL USER` prints what the application saw, as JSON.
import OpenAI from 'openai';

const [name, baseURL, user] = process.argv.slice(2);
let requests = 0;
const counted = (...args) => {
  requests += 1;
  return fetch(...args);
};
const client = new OpenAI({ baseURL, apiKey: 'none', fetch: counted }); // retries as they come: two
const asked = { model: 'jane', user, messages: [{ role: 'user', content: 'hi' }] };

const look = (name, key, value) => ({
  type: 'function',
  function: {
    name,
    description: name,
    parameters: { type: 'object', properties: { [key]: { type: 'string' } }, required: [key] },
    parse: JSON.parse,
    function: (args) => `${value} ${args[key]}`,
  },
});
const tools = [look('get_weather', 'city', 'sunny in'), look('get_time', 'tz', '12:00')];

async function seen(call) {
  try {
    return await call();
  } catch (error) {
    const { status, code, type, param, message } = error;
    return { thrown: error.constructor.name, status, code, type, param, message };
  }
}

async function pieces(stream) {
  const text = [];
  const reasoning = [];
  const models = new Set();
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    models.add(chunk.model);
    usage = chunk.usage ?? usage;
    const choice = chunk.choices[0];
    if (choice?.delta.content) text.push(choice.delta.content);
    if (choice?.delta.reasoning) reasoning.push(choice.delta.reasoning);
    finish = choice?.finish_reason ?? finish;
  }
  return { text, reasoning: reasoning.join(''), models: [...models], finish, usage };
}

async function nextCall() {
  const { choices } = await client.chat.completions.create(asked, { timeout: 2000, maxRetries: 0 });
  return { text: choices[0].message.content };
}

const calls = {
  async chat() {
    const { data, response } = await client.chat.completions.create(asked).withResponse();
    const { content } = data.choices[0].message;
    return { text: content, model: data.model, usage: data.usage, backend: response.headers.get('x-crossfade-backend') };
  },
  stream: async () => pieces(await client.chat.completions.create({ ...asked, stream: true })),
  'stream with usage': async () =>
    pieces(await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })),
  async tools() {
    const runner = client.chat.completions.runTools({ ...asked, tools });
    return { text: await runner.finalContent(), roles: runner.messages.map((message) => message.role) };
  },
  async 'tools streamed'() {
    const runner = client.chat.completions.runTools({ ...asked, tools, stream: true });
    return { text: await runner.finalContent(), roles: runner.messages.map((message) => message.role) };
  },
  // What is left must be closed while this process lives on; the next call's answer is held back until it is.
  async abort() {
    const stream = await client.chat.completions.create({ ...asked, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) stream.controller.abort();
    }
    return nextCall();
  },
  async break() {
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
      if (chunk.choices[0].delta.content) break;
    }
    return nextCall();
  },
  async timeout() {
    const error = await client.chat.completions.create(asked, { timeout: 300, maxRetries: 0 }).catch((error) => error);
    if (!(error instanceof OpenAI.APIConnectionTimeoutError)) throw new Error(`no timeout but ${error}`);
    return nextCall();
  },
  'unknown model': () => client.chat.completions.create({ ...asked, model: 'nobody' }),
  'too hot': () => client.chat.completions.create({ ...asked, temperature: 2 }),
  models: async () => (await client.models.list()).data.map((model) => model.id),
  async embedding() {
    const { data, model } = await client.embeddings.create({ model: 'jane', input: 'x', user });
    return { vector: data[0].embedding, model };
  },
};

const saw = await seen(calls[name]);
console.log(JSON.stringify({ requests, saw }));
