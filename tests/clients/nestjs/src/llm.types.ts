// The part of OpenAI's chat API that JANE uses.
export interface ToolCall {
  id: string;
  type: 'function';
  function: { name: string; arguments: string };
}

export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool';
  content: string | null;
  tool_calls?: ToolCall[];
  tool_call_id?: string;
}

export interface Completion {
  model: string;
  choices: { message: Message & { reasoning?: string | null }; finish_reason: string }[];
  usage?: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

export interface Delta {
  content?: string | null;
  reasoning?: string | null;
  tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[];
}

export interface Chunk {
  model?: string;
  choices?: { delta: Delta; finish_reason: string | null }[];
  error?: { message: string; code?: string | null };
}

/** The language model did not answer; `status` is its HTTP status, 502 where a stream broke. */
export class LlmError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    message: string,
    readonly retryAfter: string | null = null,
  ) {
    super(message);
  }
}
