// What JANE is made of.
import { Module } from '@nestjs/common';
import { AiController } from './ai.controller.js';
import { AiService } from './ai.service.js';
import { ToolsService } from './tools.service.js';

@Module({ controllers: [AiController], providers: [AiService, ToolsService] })
export class AppModule {}
