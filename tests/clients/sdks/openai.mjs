// The official openai package as applications use it.
import OpenAI from 'openai';

const client = ({ baseURL, apiKey = 'none', fetch, maxRetries }) => new OpenAI({ baseURL, apiKey, fetch, maxRetries });
const body = ({ model, user, usage, temperature, maxTokens }, more) => ({
  model,
  user,
  temperature,
  max_tokens: maxTokens,
  messages: [{ role: 'user', content: 'hi' }],
  ...(usage ? { stream_options: { include_usage: true } } : {}),
  ...more,
});

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

export const described = ({ constructor, status, code, type, param, error, message }) => ({
  name: constructor.name,
  status,
  code,
  type,
  param,
  message: error?.message ?? message,
});

/** Everything of a stream; `text` takes what came before an error too. */
async function read(stream, text) {
  const saw = { text, reasoning: [], finish: [], usage: null };
  for await (const { choices, usage } of stream) {
    saw.usage = usage ?? saw.usage;
    for (const { delta, finish_reason } of choices) {
      if (delta.content) text.push(delta.content);
      if (delta.reasoning) saw.reasoning.push(delta.reasoning);
      if (finish_reason) saw.finish.push(finish_reason);
    }
  }
  return { ...saw, usage: saw.usage?.total_tokens ?? null };
}

export const calls = {
  async whole(asked) {
    const { choices, usage } = await client(asked).chat.completions.create(body(asked));
    const { message, finish_reason } = choices[0];
    return { text: [message.content], reasoning: [message.reasoning], finish: [finish_reason], usage: usage.total_tokens };
  },
  async stream(asked) {
    const text = [];
    try {
      return await read(await client(asked).chat.completions.create(body(asked, { stream: true })), text);
    } catch (error) {
      return { text, thrown: described(error) };
    }
  },
  async tools(asked) {
    const runner = client(asked).chat.completions.runTools(body(asked, { tools, stream: asked.streams }));
    const text = [await runner.finalContent()];
    const called = runner.messages.flatMap((message) => message.tool_calls ?? []);
    return { text, tools: called.map(({ id, function: f }) => ({ id, name: f.name, input: JSON.parse(f.arguments) })) };
  },
  /** A response, and one more that goes on from it. */
  async responses(asked) {
    const { model, user } = asked;
    const { responses } = client(asked);
    const first = await responses.create({ model, user, input: 'hi' });
    const text = [first.output_text];
    const next = { model, user, input: 'and then?', previous_response_id: first.id, stream: true };
    try {
      for await (const { type, delta } of await responses.create(next)) {
        if (type === 'response.output_text.delta') text.push(delta);
      }
    } catch (error) {
      return { text, ids: [first.id], thrown: described(error) };
    }
    return { text, ids: [first.id] };
  },
  async abort(asked) {
    const stream = await client(asked).chat.completions.create(body(asked, { stream: true }));
    const text = [];
    for await (const { choices } of stream) {
      text.push(...choices.map(({ delta }) => delta.content).filter(Boolean));
      if (text.length) stream.controller.abort();
    }
    return { text };
  },
  async leave(asked) {
    for await (const { choices } of await client(asked).chat.completions.create(body(asked, { stream: true }))) {
      if (choices[0].delta.content) return { text: [choices[0].delta.content] };
    }
  },
};
