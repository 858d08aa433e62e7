// The Vercel AI SDK with its provider for servers that are compatible with OpenAI's.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, isStepCount, streamText, tool } from 'ai';
import { z } from 'zod';

const options = ({ baseURL, apiKey, fetch, usage, model, user, maxRetries, temperature, maxTokens }) => ({
  model: createOpenAICompatible({ name: 'crossfade', baseURL, apiKey, fetch, includeUsage: usage })(model),
  prompt: 'hi',
  providerOptions: { crossfade: { user } },
  maxRetries,
  temperature,
  maxOutputTokens: maxTokens,
});

const look = (key, value) =>
  tool({ description: key, inputSchema: z.object({ [key]: z.string() }), execute: async (args) => `${value} ${args[key]}` });
const tools = { get_weather: look('city', 'sunny in'), get_time: look('tz', '12:00') };

export const described = (error) => {
  const { name, statusCode: status, data, code, type, param, message } = error.lastError ?? error;
  const said = data?.error ?? { code, type, param };
  return { name, status, code: said.code, type: said.type, param: said.param, message };
};

/** Without it the SDK goes on where a stream broke in a tool call: it tells the model that the call was invalid. */
const hasFailed = ({ steps }) => steps.at(-1).finishReason === 'error';
const total = (usage) => usage.totalTokens ?? null;

export const calls = {
  async whole(asked) {
    const { text, reasoningText, finishReason, usage } = await generateText(options(asked));
    return { text: [text], reasoning: [reasoningText], finish: [finishReason], usage: total(usage) };
  },
  async stream(asked) {
    const saw = { text: [], reasoning: [], finish: [], usage: null, thrown: null };
    for await (const part of streamText({ ...options(asked), onError: () => {} }).stream) {
      if (part.type === 'text-delta') saw.text.push(part.text);
      if (part.type === 'reasoning-delta') saw.reasoning.push(part.text);
      if (part.type === 'error') saw.thrown = described(part.error);
      if (part.type === 'finish') Object.assign(saw, { finish: [part.finishReason], usage: total(part.totalUsage) });
    }
    return saw;
  },
  /** As many applications read a stream: its text alone, which says nothing of an error. */
  async text(asked) {
    const errors = [];
    const { textStream, finishReason } = streamText({ ...options(asked), onError: ({ error }) => errors.push(error) });
    const text = [];
    for await (const piece of textStream) text.push(piece);
    return { text, errors: errors.map(described), finish: [await finishReason.catch((error) => `thrown: ${error.name}`)] };
  },
  async tools(asked) {
    let thrown;
    const stopWhen = [isStepCount(2), ...(asked.goesOn ? [] : [hasFailed])];
    const all = { ...options(asked), tools, stopWhen };
    const result = asked.streams
      ? streamText({ ...all, onError: ({ error }) => (thrown ??= described(error)) })
      : await generateText(all);
    const steps = await result.steps;
    if (thrown) return { thrown };
    const called = steps.flatMap(({ toolCalls }) => toolCalls);
    return { text: [await result.text], tools: called.map(({ toolCallId: id, toolName: name, input }) => ({ id, name, input })) };
  },
  async abort(asked) {
    const left = new AbortController();
    const text = [];
    for await (const part of streamText({ ...options(asked), abortSignal: left.signal }).stream) {
      if (part.type === 'text-delta') text.push(part.text);
      if (text.length) left.abort();
    }
    return { text };
  },
  async leave(asked) {
    for await (const piece of streamText(options(asked)).textStream) return { text: [piece] };
  },
};
