"""Backends that refuse what the real ones were seen to refuse, and answer everything else: what reaches them must suit them."""

from __future__ import annotations

from typing import Any

from tests.clients.captured import packets
from tests.upstream import Connection, Received, Script, answer, chat_answer, event, says, stream

GPT_OSS = "vllm-0.33-gpt-oss"


def vllm_refuses(asked: dict[str, Any]) -> str | None:
    """The capture of vLLM's refusal, None where it takes the call."""
    limit = asked.get("max_tokens", asked.get("max_completion_tokens", 1))
    refusals = {
        "effort_none": asked.get("reasoning_effort", "low") not in ("low", "medium", "high"),
        "err_stream_options": "stream_options" in asked and not asked.get("stream"),
        "err_tools_empty": asked.get("tools") == [],
        "err_stop5": len(asked.get("stop") or ()) > 4,
        "err_maxtok0": limit == 0,
        "err_maxtokneg": limit < 0,
    }
    return next((name for name, is_so in refusals.items() if is_so), None)


def lmstudio_refuses(asked: dict[str, Any]) -> str | None:
    """LM Studio's words, as its users report them."""
    if (asked.get("response_format") or {}).get("type") == "json_object":
        return "'response_format.type' must be 'json_schema' or 'text'"
    if isinstance(asked.get("tool_choice"), dict):
        return "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"
    for message in asked["messages"]:
        thinks = any(message.get(name) for name in ("reasoning", "reasoning_content", "thinking"))
        if message["role"] == "assistant" and message.get("tool_calls") and thinks and message.get("content"):
            return "Error rendering prompt with jinja template: Cannot pass both content and thinking in an assistant message"
    return None


async def _answer(request: Received, connection: Connection) -> None:
    asked = request.json
    choice = asked.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        await connection.write(*tool_answer(asked, bool(asked.get("stream"))))
    else:
        await says("Hello")(request, connection)


def tool_answer(asked: dict[str, Any], is_streamed: bool) -> list[bytes]:
    """A call of the first tool that was sent, as LM Studio makes one."""
    function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"city":"Paris"}'}
    call = {"type": "function", "id": "814890118", "function": function}
    if is_streamed:
        head, role, *_, done, end = stream(model=asked["model"])
        events = [event({"role": "assistant", "tool_calls": [{"index": 0, **call}]}), event({}, "tool_calls")]
        return [head, role, *(b"%x\r\n%b\r\n" % (len(one), one) for one in events), done, end]
    whole = chat_answer("", asked["model"])
    whole["choices"][0] |= {
        "message": {"role": "assistant", "content": "", "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    return [answer(whole)]


async def strict_vllm(request: Received, connection: Connection) -> None:
    """vLLM with a gpt-oss. It ends a call of a tool that was named with `stop`, as captured."""
    asked = request.json
    if refusal := vllm_refuses(asked):
        await connection.write(*packets(f"{GPT_OSS}/{refusal}"))
    elif isinstance(asked.get("tool_choice"), dict) and not asked.get("stream"):
        await connection.write(*packets(f"{GPT_OSS}/tool_named"))
    else:
        await _answer(request, connection)


async def strict_lmstudio(request: Received, connection: Connection) -> None:
    """LM Studio 0.4 with a gpt-oss."""
    if refusal := lmstudio_refuses(request.json):
        await connection.write(answer({"error": refusal}, "400 Bad Request"))
    else:
        await _answer(request, connection)


STRICT: dict[str, Script] = {"vllm": strict_vllm, "lmstudio": strict_lmstudio, "llama_server": _answer}
