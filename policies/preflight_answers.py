"""Judgements of answers, question by question: parameters, tools, JSON, streams, usage, errors. Each takes what was heard on both sides."""

from __future__ import annotations

from policies.preflight_cells import Cell, Colour, Judge, amber, green, grey, of_answers, red, remedy, says, told
from policies.preflight_facts import Check, Heard, Side, Streamed, Terms, Usage

FEW = 4  # keys that are named where forms differ
OVERFLOW_CODE = "context_length_exceeded"


def honoured(is_so: bool, was_so: bool | None, done: str, ignored: str, what: str) -> Cell:
    """A cell for something that a backend does or silently leaves. `was_so`: whether the baseline does it, None on the baseline itself."""
    if is_so:
        return green(done)
    if was_so is None:
        return amber(ignored, f"{what} has no effect here.")
    return (
        red(ignored, f"{what} has no effect here, and it has on the baseline.")
        if was_so
        else green(f"{ignored}, as the baseline")
    )


# -- answers -------------------------------------------------------------------------------------------


def same_text(heard: Heard, base: Heard | None) -> Cell:
    if base is None:
        return green("reasons, then answers" if heard.has_reasoning else "answers")
    if heard.has_reasoning != base.has_reasoning:
        has, lacks = ("this", "the baseline") if heard.has_reasoning else ("the baseline", "this")
        return amber("reasoning differs", f"Answers of {has} backend carry `reasoning`, those of {lacks} one don't.")
    if heard.text == base.text:
        return green("the same text")
    why = "The same call at temperature 0 is answered in other words: other weights, another quantisation or chat template. "
    return amber("another text", why + "Compare answers to your own prompts before moving callers.")


def same_form(heard: Heard, base: Heard | None) -> Cell:
    if base is None or heard.form == base.form:
        return green(f"{len(heard.form)} keys" if base is None else "the same keys")
    lacking = [_key(line) for line in base.form if _key(line) not in map(_key, heard.form)]
    if lacking:
        return red("lacks keys", f"The answer lacks {_some(lacking)}.")
    differing = [line for line in heard.form if line not in base.form]
    if differing:
        return amber("other keys", f"The answer has {_some(differing)}, which the baseline's has not so.")
    return amber("another order", "The keys are the same, in another order.")


def _key(line: str) -> str:
    return line.partition(":")[0]


def _some(lines: list[str]) -> str:
    named = ", ".join(f"`{line}`" for line in lines[:FEW])
    return named if len(lines) <= FEW else f"{named} and {len(lines) - FEW} more"


# -- parameters ----------------------------------------------------------------------------------------


def n(heard: Heard, base: Heard | None) -> Cell:
    was = len(base.finish) == 2 if base is not None else None
    return honoured(len(heard.finish) == 2, was, "two choices", "one choice", "`n: 2`")


def logprobs(heard: Heard, base: Heard | None) -> Cell:
    return honoured(heard.has_logprobs, base.has_logprobs if base else None, "given", "null", "`logprobs`")


def stop(side: Side, against: Side | None, terms: Terms) -> Cell:
    """Only the two sides know at which word they had to stop."""

    def judge(heard: Heard, base: Heard | None) -> Cell:
        was = against.stop_word not in base.text if against is not None and base is not None else None
        return honoured(side.stop_word not in heard.text, was, "stops", "goes on", "`stop`")

    if side.is_reachable and not side.stop_word:
        return grey("no text to stop")
    return of_answers(Check.STOP, judge)(side, against, terms)


def seed(side: Side, against: Side | None, terms: Terms) -> Cell:
    """Two calls with one seed: whether their answers are one."""

    def again(one: Side) -> bool | None:
        first, second = one.heard.get(Check.SEED), one.heard.get(Check.SEED_AGAIN)
        if first is None or second is None or not (first.is_answer and second.is_answer):
            return None
        return first.text == second.text

    def judge(_: Heard, base: Heard | None) -> Cell:
        if again(side):
            return green("repeats")
        if base is not None and against is not None and again(against) is False:
            return green("varies, as the baseline")
        return amber("varies", "Two calls with the same `seed` got different answers; expect no repeatable ones here.")

    return of_answers(Check.SEED, judge)(side, against, terms)


def max_tokens(heard: Heard, base: Heard | None) -> Cell:
    found = (_tokens(heard), heard.finish)
    said = _ends(heard) if found[0] is None else f"{found[0]} tokens, {_ends(heard)}"
    if base is not None and found != (_tokens(base), base.finish):
        return amber(said, f"`max_tokens: 5` gives {_tokens(base)} tokens, {_ends(base)} on the baseline.")
    return green(said)


def _tokens(heard: Heard) -> int | None:
    return heard.usage.completion if heard.usage is not None else None


def taken(_: Heard, __: Heard | None) -> Cell:
    """An answer is all that is asked for."""
    return green("taken")


# -- tools and JSON ------------------------------------------------------------------------------------


def forced(heard: Heard, base: Heard | None) -> Cell:
    if not _one_call(heard):
        why = "A call of the tool was required, and what came is none that fits the tool's schema."
        return _lacking(_calls(heard), why, base is not None and _one_call(base), base)
    if base is not None and _one_call(base) and heard.finish != base.finish:
        return amber(_calls(heard), f"It ends with {_ends(heard)}, on the baseline with {_ends(base)}.")
    if any(not tool.has_our_id for tool in heard.tools):
        return amber(_calls(heard), "The id of the call is not of the form `call_…`.")
    return green(_calls(heard))


def _lacking(found: str, why: str, has_base: bool, base: Heard | None) -> Cell:
    """What should be there and is not: red only where the baseline has it."""
    if base is None:
        return amber(found, why)
    return red(found, why) if has_base else green(f"{found} (nor on the baseline)")


def _ends(heard: Heard) -> str:
    return ", ".join(heard.finish) or "no finish_reason"


def _one_call(heard: Heard) -> bool:
    return len(heard.tools) == 1 and heard.tools[0].fits


def auto(heard: Heard, base: Heard | None) -> Cell:
    """Whether a model calls a tool that it may call is its own choice; that arguments fit is not."""
    if heard.tools and not all(tool.fits for tool in heard.tools):
        return amber(
            "arguments do not fit",
            "A tool call's arguments do not fit its schema; `accept: {tool_calls: valid}` moves such calls.",
        )
    if base is not None and len(heard.tools) != len(base.tools):
        why = f"Left to itself the model makes {_calls(heard)} here, and {_calls(base)} on the baseline; compare more conversations."
        return amber(_calls(heard), why)
    return green(_calls(heard))


def _calls(heard: Heard) -> str:
    count = len(heard.tools)
    if count == 0:
        return "no call"
    fit = "" if all(tool.fits for tool in heard.tools) else ", does not fit"
    return f"{count} call{'s' if count > 1 else ''}{fit}"


def json(heard: Heard, base: Heard | None) -> Cell:
    if heard.json_fits:
        return green("fits")
    why = "The answer is not the JSON that was asked for; `accept: {json: valid}` moves such calls."
    return _lacking("does not fit", why, bool(base and base.json_fits), base)


# -- streams -------------------------------------------------------------------------------------------


def stream(heard: Heard, base: Heard | None) -> Cell:
    came = heard.stream or Streamed()
    if not heard.finish or not came.is_done:
        return red("no end", "The stream ends without a finish_reason and [DONE].")
    if came.roles > 1:
        return amber(f"role {came.roles} times", "The role is said more than once.")
    said = f"{came.pieces} piece{'s' if came.pieces != 1 else ''}, {heard.finish[0]}"
    if came.pieces <= 1 and len(heard.text.split()) > FEW:
        return amber(
            said, "The whole text comes in one piece: the backend does not stream, and users wait for its end."
        )
    if base is not None and heard.finish != base.finish:
        return amber(said, f"It ends with {heard.finish[0]}, on the baseline with {_ends(base)}.")
    return green(said)


def stream_usage(heard: Heard, base: Heard | None) -> Cell:
    found, was = _usages(heard), _usages(base) if base is not None else 1
    if found == 1 and was == 1:
        return green("once, at the end")
    why = "`stream_options: {include_usage: true}` must bring one event with the usage."
    return _lacking(f"{found} times", why, was == 1, base)


def stream_quiet(heard: Heard, _: Heard | None) -> Cell:
    if not _usages(heard):
        return green("none unless asked")
    return amber(
        "unasked", "Streams carry usage though nobody asked; clients that read choices[0] of every event stumble."
    )


def _usages(heard: Heard) -> int:
    return heard.stream.usages if heard.stream is not None else 0


# -- usage ---------------------------------------------------------------------------------------------


def usage(heard: Heard, base: Heard | None) -> Cell:
    found = heard.usage
    if found is None:
        why = "The answer has no usage; whatever counts tokens gets nothing."
        return _lacking("none", why, base is not None and base.usage is not None, base)
    if (
        found.prompt is None
        or found.completion is None
        or found.total != found.prompt + found.completion
        or not found.completion
    ):
        return amber(_sum(found), "The usage does not add up.")
    if not found.has_details and (base is None or (base.usage is not None and base.usage.has_details)):
        return amber("no details", "The usage lacks the details of what is cached, and what is reasoning.")
    return green(_sum(found))


def _sum(found: Usage) -> str:
    return f"{found.prompt} + {found.completion} = {found.total}"


# -- errors --------------------------------------------------------------------------------------------


def error(check: Check, what: str) -> Judge:
    """A call that is at fault itself: whether it is told so alike."""

    def judged(side: Side, against: Side | None, _: Terms) -> Cell:
        heard = side.heard.get(check)
        base = against.heard.get(check) if against is not None else None
        if heard is None:
            return grey()
        said = "answers" if heard.is_answer else says(heard)
        if not heard.is_answer and not 400 <= heard.status < 500:
            return red(said, told(side, heard), remedy(side, heard))
        if base is None or (heard.is_answer, heard.status, heard.code) == (base.is_answer, base.status, base.code):
            return green(said)
        was = "is answered" if base.is_answer else f"is a {says(base)}"
        return amber(said, f"{what} {was} on the baseline: {heard.words or 'here it is answered.'}")

    return judged


def unknown_field(side: Side, against: Side | None, terms: Terms) -> Cell:
    """Clients send more than a server knows; where it is refused, calls break that work on the baseline."""
    cell = error(Check.UNKNOWN_FIELD, "A field that nobody knows")(side, against, terms)
    base = against.heard.get(Check.UNKNOWN_FIELD) if against is not None else None
    heard = side.heard.get(Check.UNKNOWN_FIELD)
    is_broken = (
        cell.colour is Colour.AMBER
        and heard is not None
        and not heard.is_answer
        and base is not None
        and base.is_answer
    )
    return red(cell.says, cell.why) if is_broken else cell


def overflow(side: Side, _: Side | None, __: Terms) -> Cell:
    """Clients key on one code; a prompt that is cut silently is answered for something that nobody asked."""
    heard = side.heard.get(Check.OVERFLOW)
    if heard is None:
        return grey("context not known" if side.context_tokens is None else "too long to try")
    if heard.is_answer:
        return red(
            "answers",
            f"A prompt that is longer than the context ({side.context_tokens} tokens) is cut silently, and answered.",
        )
    if (heard.status, heard.code) == (400, OVERFLOW_CODE):
        return green(says(heard))
    if not 400 <= heard.status < 500:
        return red(says(heard), told(side, heard), remedy(side, heard))
    return red(
        says(heard), f"A prompt that is too long must be a 400 with the code {OVERFLOW_CODE}; it is: {heard.words}"
    )
