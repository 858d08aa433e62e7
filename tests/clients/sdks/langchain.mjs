// LangChain.js with its class for OpenAI's API.
import { HumanMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { z } from 'zod';

const chat = ({ baseURL, apiKey = 'none', fetch, usage, model, user, maxRetries, temperature, maxTokens, raw, useResponsesApi }) =>
  new ChatOpenAI({
    model,
    user,
    apiKey,
    configuration: { baseURL, fetch },
    ...(usage ? {} : { streamUsage: false }), // it asks by itself
    maxRetries,
    temperature,
    maxTokens,
    __includeRawResponse: raw,
    useResponsesApi,
  });

const look = (name, key, value) =>
  tool(async (args) => `${value} ${args[key]}`, { name, description: name, schema: z.object({ [key]: z.string() }) });
const tools = [look('get_weather', 'city', 'sunny in'), look('get_time', 'tz', '12:00')];

export const described = ({ name, constructor, status, code, type, param, error, cause, message }) => ({
  name: name === 'Error' ? constructor.name : name,
  status: status ?? cause?.status,
  code: code ?? cause?.code,
  type: type ?? cause?.type,
  param: param ?? cause?.param,
  message: error?.message ?? cause?.error?.message ?? message,
});

const reasoningOf = ({ additional_kwargs: { reasoning_content, __raw_response } }) =>
  reasoning_content ?? __raw_response?.choices[0]?.delta?.reasoning ?? __raw_response?.choices[0]?.message?.reasoning;

export const calls = {
  async whole(asked) {
    const message = await chat(asked).invoke('hi');
    const { content, response_metadata: { finish_reason }, usage_metadata } = message;
    const reasoning = [reasoningOf(message) ?? ''];
    return { text: [content], reasoning, finish: [finish_reason], usage: usage_metadata.total_tokens };
  },
  async stream(asked) {
    const saw = { text: [], reasoning: [], finish: [], usage: null };
    try {
      for await (const chunk of await chat(asked).stream('hi')) {
        if (chunk.content) saw.text.push(chunk.content);
        if (reasoningOf(chunk)) saw.reasoning.push(reasoningOf(chunk));
        if (chunk.response_metadata.finish_reason) saw.finish.push(chunk.response_metadata.finish_reason);
        saw.usage = chunk.usage_metadata?.total_tokens ?? saw.usage;
      }
      return saw;
    } catch (error) {
      return { text: saw.text, thrown: described(error) };
    }
  },
  async tools(asked) {
    const bound = chat(asked).bindTools(tools);
    const messages = [new HumanMessage('hi')];
    const first = await turn(bound, messages, asked.streams);
    const byName = Object.fromEntries(tools.map((tool) => [tool.name, tool]));
    const results = await Promise.all(first.tool_calls.map((call) => byName[call.name].invoke(call)));
    const second = await turn(bound, [...messages, first, ...results], asked.streams);
    return { text: [second.content], tools: first.tool_calls.map(({ id, name, args }) => ({ id, name, input: args })) };
  },
  /** A response, and one more that goes on from it. */
  async responses(asked) {
    const model = chat({ ...asked, useResponsesApi: true });
    const first = await model.invoke('hi');
    const id = first.response_metadata.id;
    const text = [first.text];
    try {
      const stream = await model.stream('and then?', { previous_response_id: id });
      for await (const chunk of stream) if (chunk.text) text.push(chunk.text);
    } catch (error) {
      return { text, ids: [id], thrown: described(error) };
    }
    return { text, ids: [id] };
  },
  async abort(asked) {
    const left = new AbortController();
    const text = [];
    for await (const chunk of await chat(asked).stream('hi', { signal: left.signal })) {
      if (chunk.content) text.push(chunk.content);
      if (text.length) left.abort();
    }
    return { text };
  },
  async leave(asked) {
    for await (const { content } of await chat(asked).stream('hi')) if (content) return { text: [content] };
  },
};

async function turn(model, messages, streams) {
  if (!streams) return model.invoke(messages);
  let whole;
  for await (const chunk of await model.stream(messages)) whole = whole ? whole.concat(chunk) : chunk;
  return whole;
}
