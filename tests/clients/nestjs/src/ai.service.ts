// JANE's conversation with the language model behind LLM_API_URL: plain fetch, no SDK, no retries of its own.
import { Injectable } from '@nestjs/common';
import { LlmError, type Chunk, type Completion, type Message, type ToolCall } from './llm.types.js';
import { eventsOf } from './sse.js';
import { ToolsService } from './tools.service.js';

const INSTRUCTIONS: Message = { role: 'system', content: 'You are JANE. Answer briefly, and look things up with tools.' };
const MAX_TURNS = 4;

export interface Question {
  user: string;
  text: string;
  tools?: boolean;
}

export interface Answer {
  text: string;
  reasoning: string;
  model: string;
  turns: number;
  usedTools: string[];
}

export type Piece = { text: string } | { reasoning: string } | { tool: string };

@Injectable()
export class AiService {
  private readonly url = process.env.LLM_API_URL;
  private readonly model = process.env.LLM_MODEL ?? 'jane';

  constructor(private readonly tools: ToolsService) {}

  /** Answer a question, with as many turns of tools as the model asks for. Throws LlmError. */
  async ask(question: Question): Promise<Answer> {
    const messages = this.begin(question);
    const usedTools: string[] = [];
    for (let turns = 1; turns <= MAX_TURNS; turns++) {
      const completion = (await (await this.call(question, messages, false)).json()) as Completion;
      const message = completion.choices[0]?.message;
      if (!message) throw new LlmError(502, null, 'an answer without a message');
      if (!message.tool_calls?.length) {
        const { content, reasoning } = message;
        return { text: content ?? '', reasoning: reasoning ?? '', model: completion.model, turns, usedTools };
      }
      usedTools.push(...message.tool_calls.map((call) => call.function.name));
      messages.push(...(await this.results(message.content, message.tool_calls)));
    }
    throw new LlmError(502, null, `no answer within ${MAX_TURNS} turns`);
  }

  /** The same, piece by piece as the model writes. Throws LlmError, also in the middle. */
  async *stream(question: Question, signal: AbortSignal): AsyncGenerator<Piece> {
    const messages = this.begin(question);
    for (let turns = 1; turns <= MAX_TURNS; turns++) {
      const response = await this.call(question, messages, true, signal);
      const calls: ToolCall[] = [];
      const text = yield* this.turn(response, calls);
      if (!calls.length) return;
      for (const call of calls) yield { tool: call.function.name };
      messages.push(...(await this.results(text || null, calls)));
    }
    throw new LlmError(502, null, `no answer within ${MAX_TURNS} turns`);
  }

  /** One turn's pieces; puts the tool calls together into `calls` and returns the text. */
  private async *turn(response: Response, calls: ToolCall[]): AsyncGenerator<Piece, string> {
    let text = '';
    let isFinished = false;
    for await (const data of eventsOf(response.body!)) {
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new LlmError(502, chunk.error.code ?? null, chunk.error.message);
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const { content, reasoning, tool_calls } = choice.delta;
      if (reasoning) yield { reasoning };
      if (content) yield { text: content };
      text += content ?? '';
      for (const { index, id, function: part } of tool_calls ?? []) {
        const call = (calls[index] ??= { id: id ?? '', type: 'function', function: { name: '', arguments: '' } });
        call.function.name += part?.name ?? '';
        call.function.arguments += part?.arguments ?? '';
      }
      isFinished ||= choice.finish_reason !== null;
    }
    if (!isFinished) throw new LlmError(502, null, 'the stream ended in the middle of an answer');
    return text;
  }

  private begin(question: Question): Message[] {
    return [INSTRUCTIONS, { role: 'user', content: question.text }];
  }

  private async results(content: string | null, calls: ToolCall[]): Promise<Message[]> {
    return [{ role: 'assistant', content, tool_calls: calls }, ...(await this.tools.runAll(calls))];
  }

  private async call(question: Question, messages: Message[], stream: boolean, signal?: AbortSignal): Promise<Response> {
    const tools = question.tools ? { tools: this.tools.definitions } : {};
    const response = await fetch(`${this.url}/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: this.model, user: question.user, messages, stream, ...tools }),
      signal: signal ?? null,
    });
    if (response.ok) return response;
    const { error } = (await response.json()) as Required<Chunk>;
    throw new LlmError(response.status, error.code ?? null, error.message, response.headers.get('retry-after'));
  }
}
