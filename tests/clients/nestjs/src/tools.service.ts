// What JANE can look up for the model.
import { Injectable } from '@nestjs/common';
import type { Message, ToolCall } from './llm.types.js';

const text = { type: 'string' };

@Injectable()
export class ToolsService {
  readonly definitions = [
    {
      type: 'function',
      function: {
        name: 'get_weather',
        description: 'The weather in a city',
        parameters: { type: 'object', properties: { city: text }, required: ['city'] },
      },
    },
    {
      type: 'function',
      function: {
        name: 'get_time',
        description: 'The time of day in a time zone',
        parameters: { type: 'object', properties: { tz: text }, required: ['tz'] },
      },
    },
  ];

  private readonly functions: Record<string, (args: Record<string, string>) => string> = {
    get_weather: ({ city }) => `18 C and sunny in ${city}`,
    get_time: ({ tz }) => `12:00 ${tz}`,
  };

  /** Run all calls of one turn side by side; their results in the calls' order, ready to be sent back together. */
  async runAll(calls: ToolCall[]): Promise<Message[]> {
    return Promise.all(
      calls.map(async (call) => ({ role: 'tool' as const, tool_call_id: call.id, content: await this.run(call) })),
    );
  }

  private async run({ function: asked }: ToolCall): Promise<string> {
    const found = this.functions[asked.name];
    return found ? found(JSON.parse(asked.arguments)) : `There is no tool ${asked.name}.`;
  }
}
