"""The matrix of preflight: facts of a model on its backends, the baseline first, to a cell for each row and backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies import preflight_answers as answers
from policies.preflight_cells import Cell, Colour, Judge, amber, green, grey, of_answers, on, red
from policies.preflight_facts import Check, Listed, Side, Terms

# A difference in prompt tokens: up to so many, or such a share of the larger count, may be a start token, a date or a line break; above
# that a part of the prompt is missing on one side (a default system prompt of 20 tokens, a tool's 60; both seen on real templates).
FEW_TOKENS = 8
FEW_SHARE = 0.1
FEW_NAMES = 6  # of models that a server lists; LM Studio may list all that it has downloaded

# What engines sample with where the call says nothing, for the fields that all take. Sources: llama.cpp's server README, which LM Studio
# follows unless a preset says otherwise; vLLM goes by the model's generation_config.json, and by OpenAI's values without one.
DEFAULTS = {
    "llama-server": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "lmstudio": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "vllm": {"temperature": 1.0, "top_p": 1.0},
    "openai": {"temperature": 1.0, "top_p": 1.0},
}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the matrix, before it is judged."""

    group: str
    name: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the matrix: a cell for each backend, in their order."""

    group: str
    name: str
    cells: tuple[Cell, ...]


def judge(sides: Sequence[Side], terms: Terms) -> tuple[Line, ...]:
    """All rows; the first of `sides` is the baseline, with which the others are compared as far as it could be asked."""
    baseline = sides[0]
    against = baseline if baseline.is_reachable else None
    lines = []
    for row in ROWS:
        cells = [_cell(row, baseline, None, terms), *(_cell(row, side, against, terms) for side in sides[1:])]
        lines.append(Line(row.group, row.name, tuple(cells)))
    return tuple(lines)


def worst(lines: Sequence[Line]) -> Colour:
    """The colour of the whole: red, amber or green."""
    found = {cell.colour for line in lines for cell in line.cells}
    return next((colour for colour in (Colour.RED, Colour.AMBER) if colour in found), Colour.GREEN)


def _cell(row: Row, side: Side, against: Side | None, terms: Terms) -> Cell:
    if row.judge is not _well and not side.is_reachable:
        return grey()
    return row.judge(side, against, terms)


# -- the server and its model --------------------------------------------------------------------------


def _well(side: Side, _: Side | None, __: Terms) -> Cell:
    count, ails = len(side.ails), [ail for ail in side.ails if ail]
    if not ails:
        return green("well" if count == 1 else f"{count} replicas, well")
    lines = f"# what listens there, and where\nbackends:\n  {side.backend}: {{kind: {side.kind}, url: …}}"
    if len(ails) < count:
        return amber(f"{len(ails)} of {count} not well", f"Not every replica of {side.backend} is well: {ails[0]}")
    return red("not well", f"{side.backend} takes no calls: {ails[0]}", lines)


def _listed(side: Side, _: Side | None, terms: Terms) -> Cell:
    names = side.listed_names
    others = (
        f"# also listed: {', '.join(names[1:FEW_NAMES])}{' …' if len(names) > FEW_NAMES else ''}\n" if names[1:] else ""
    )
    lines = f"{others}{on(terms, side)} {names[0]}" if names else "# load a model there"
    if side.listed is Listed.MISSING:
        return red("not listed", f"{side.backend} does not list the model {side.name!r}.", lines)
    if side.listed is Listed.NOT_LOADED:
        return amber(
            "not loaded", f"{side.backend} loads {side.name!r} with the next call, which waits for it; load it before."
        )
    return green("listed" if side.listed is Listed.THERE else "keeps no list")


def _named(side: Side, _: Side | None, terms: Terms) -> Cell:
    named = side.said_name
    if named is None:
        return grey("no answer")
    if named == side.name:
        return green("as asked")
    lines = f"{on(terms, side)} {named}"
    if side.is_other:
        return red(named, f"{side.backend} answers a call of {side.name!r} with the model {named!r}.", lines)
    why = f"{side.backend} is asked for {side.name!r} and names {named!r} in its answers; clients see {terms.model!r} all the same."
    return amber(named, why, lines)


# -- prompts -------------------------------------------------------------------------------------------


def _prompt_tokens(check: Check) -> Judge:
    def judged(side: Side, against: Side | None, _: Terms) -> Cell:
        heard = side.heard.get(check)
        tokens = _counted(side, check)
        if tokens is None:
            return grey("not told" if heard is None or heard.is_answer else "refused")
        before = _counted(against, check) if against is not None else None
        exact = side.exact_tokens
        is_other_count = check is Check.GREEDY and exact not in (None, tokens)
        said = f"{tokens}, by its tokenizer {exact}" if is_other_count else str(tokens)
        if before is None or tokens == before:
            return green(said)
        few = max(FEW_TOKENS, FEW_SHARE * max(tokens, before))
        colour = Colour.AMBER if abs(tokens - before) <= few else Colour.RED
        baseline = against.backend if against is not None else ""
        why = f"{side.backend} makes {tokens} tokens of messages of which {baseline} makes {before}: their chat templates differ."
        fix = _template_fix(side, f"the same template as on {baseline}")
        return Cell(colour, f"{said} ({tokens - before:+d})", why, fix)

    return judged


def _with_tool(side: Side, against: Side | None, terms: Terms) -> Cell:
    """The same message, so a tool that adds nothing is not in the prompt: the model never hears of it."""
    cell = _prompt_tokens(Check.TOOL_AUTO)(side, against, terms)
    is_alone = cell.colour is Colour.GREEN and against is None
    if is_alone and _counted(side, Check.TOOL_AUTO) == _counted(side, Check.GREEDY):
        why = f"{side.backend} leaves tools out of the prompt: its chat template knows none."
        return amber(cell.says, why, _template_fix(side, "a template that knows tools"))
    return cell


def _counted(side: Side | None, check: Check) -> int | None:
    heard = side.heard.get(check) if side is not None else None
    usage = heard.usage if heard is not None and heard.is_answer else None
    if usage is not None and usage.prompt:
        return usage.prompt
    return side.exact_tokens if side is not None and check is Check.GREEDY else None


def _template_fix(side: Side, which: str) -> str:
    switch = {
        "vllm": f"# {which}\nvllm serve … --chat-template FILE",
        "llama-server": f"# {which}\nllama-server … --jinja --chat-template-file FILE",
    }
    return switch.get(side.kind, "")


def _context(side: Side, against: Side | None, terms: Terms) -> Cell:
    tokens = side.context_tokens
    if tokens is None:
        lines = f"{on(terms, side)} {{name: {side.name}, context_tokens: …}}"
        return amber(
            "not told",
            f"{side.backend} does not say how long a prompt may be, so calls are not kept from it for that.",
            lines,
        )
    before = against.context_tokens if against is not None else None
    if before is None or tokens >= before:
        return green(f"{tokens} tokens")
    switch = {
        "vllm": f"vllm serve … --max-model-len {before}",
        "lmstudio": f"lms load {side.name} --context-length {before}",
        "llama-server": f"# for each slot\nllama-server … --ctx-size {before}",
    }
    why = f"A prompt of {tokens} to {before} tokens fits the baseline only; such calls go there as long as it is in `fallback`."
    return amber(f"{tokens} tokens", why, switch.get(side.kind, ""))


# -- sampling ------------------------------------------------------------------------------------------


def _sampling(side: Side, against: Side | None, terms: Terms) -> Cell:
    varies = _varies(side)
    said = "not told" if varies is None else "varies" if varies else "as at temperature 0"
    if terms.is_greedy:
        return green("set: temperature 0")
    lacking = {name: value for name, value in _defaults(against or side).items() if name not in terms.sampling}
    if not lacking:
        return green("set")
    if against is None:
        return green(said)
    lines = f"# {_source(against)}\nmodels:\n  {terms.model}:\n    sampling: {{{_values(lacking)}}}"
    why = "A call without sampling parameters is sampled with each backend's own defaults: "
    return amber(said, f"{why}{_told(against)}; {_told(side)}.", lines)


def _defaults(side: Side) -> dict[str, float]:
    return dict(side.defaults) or DEFAULTS.get(side.kind, {})


def _told(side: Side) -> str:
    usually = "" if side.defaults else "usually "
    return f"{side.backend} {usually}{_values(_defaults(side))}"


def _source(side: Side) -> str:
    if side.defaults:
        return f"as {side.backend} says of itself"
    return f"the usual ones of {side.kind}; take those of your own settings there"


def _values(defaults: dict[str, float]) -> str:
    return ", ".join(f"{name}: {value:g}" for name, value in defaults.items()) or "(not told)"


def _varies(side: Side) -> bool | None:
    greedy, sampled = side.heard.get(Check.GREEDY), side.heard.get(Check.DEFAULTS)
    if greedy is None or sampled is None or not (greedy.is_answer and sampled.is_answer):
        return None
    return greedy.text != sampled.text


ROWS = (
    Row("server", "reachable, well", _well),
    Row("model", "listed", _listed),
    Row("model", "name in answers", _named),
    Row("prompt tokens", "one message", _prompt_tokens(Check.GREEDY)),
    Row("prompt tokens", "system and turns", _prompt_tokens(Check.TURNS)),
    Row("prompt tokens", "with a tool", _with_tool),
    Row("context", "prompt and answer", _context),
    Row("answers", "text at temperature 0", of_answers(Check.GREEDY, answers.same_text)),
    Row("answers", "keys", of_answers(Check.GREEDY, answers.same_form)),
    Row("parameters", "sampling defaults", _sampling),
    Row("parameters", "n", of_answers(Check.N, answers.n)),
    Row("parameters", "logprobs", of_answers(Check.LOGPROBS, answers.logprobs)),
    Row("parameters", "stop", answers.stop),
    Row("parameters", "seed", answers.seed),
    Row("parameters", "max_tokens", of_answers(Check.MAX_TOKENS, answers.max_tokens)),
    Row("parameters", "reasoning_effort", of_answers(Check.EFFORT, answers.taken)),
    Row("tools", "forced call", of_answers(Check.TOOL_FORCED, answers.forced)),
    Row("tools", "auto", of_answers(Check.TOOL_AUTO, answers.auto)),
    Row("tools", "second turn, foreign id", of_answers(Check.TOOL_SECOND_TURN, answers.taken)),
    Row("tools", "two at once", of_answers(Check.TOOL_PARALLEL, answers.auto)),
    Row("JSON", "json_object", of_answers(Check.JSON_OBJECT, answers.json)),
    Row("JSON", "json_schema", of_answers(Check.JSON_SCHEMA, answers.json)),
    Row("stream", "pieces and end", of_answers(Check.STREAM, answers.stream)),
    Row("stream", "keys", of_answers(Check.STREAM, answers.same_form)),
    Row("stream", "forced call", of_answers(Check.STREAM_TOOL, answers.forced)),
    Row("stream", "usage on request", of_answers(Check.STREAM_USAGE, answers.stream_usage)),
    Row("stream", "usage unasked", of_answers(Check.STREAM, answers.stream_quiet)),
    Row("usage", "sums and details", of_answers(Check.GREEDY, answers.usage)),
    Row("errors", "unknown field", answers.unknown_field),
    Row("errors", "min_p: 3", answers.error(Check.BAD_VALUE, "A `min_p` of 3")),
    Row("errors", "seed: hot", answers.error(Check.BAD_TYPE, "A `seed` that is no number")),
    Row("errors", "prompt too long", answers.overflow),
)
