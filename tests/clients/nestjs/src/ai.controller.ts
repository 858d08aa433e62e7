// JANE's own HTTP interface: whole answers, and a stream of server-sent events.
import { Body, Controller, HttpCode, Post, Res } from '@nestjs/common';
import type { Response } from 'express';
import { AiService, type Question } from './ai.service.js';
import { LlmError } from './llm.types.js';

@Controller('ask')
export class AiController {
  constructor(private readonly ai: AiService) {}

  @Post()
  @HttpCode(200)
  async ask(@Body() question: Question, @Res() response: Response): Promise<void> {
    try {
      response.json(await this.ai.ask(question));
    } catch (error) {
      refuse(response, error);
    }
  }

  @Post('stream')
  async stream(@Body() question: Question, @Res() response: Response): Promise<void> {
    const left = new AbortController();
    response.on('close', () => left.abort());
    const say = (event: object): void => {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(event)}\n\n`);
    };
    try {
      for await (const piece of this.ai.stream(question, left.signal)) say(piece);
      say({ done: true });
      response.end();
    } catch (error) {
      if (left.signal.aborted) return;
      if (!response.headersSent) return refuse(response, error);
      say({ error: error instanceof LlmError ? { code: error.code, message: error.message } : { message: String(error) } });
      response.end();
    }
  }
}

function refuse(response: Response, error: unknown): void {
  if (!(error instanceof LlmError)) throw error;
  if (error.retryAfter) response.setHeader('retry-after', error.retryAfter);
  response.status(error.status).json({ code: error.code, message: error.message });
}
