"""Rules: calls that go to one backend before the split is asked. All conditions of a rule must hold; the first rule that does wins."""

from __future__ import annotations

from dataclasses import dataclass

from policies.facts import CallFacts


@dataclass(frozen=True, slots=True)
class Condition:
    """What a call must be; None (or an empty tuple) asks for nothing.

    `header` holds (lower-case name, exact value) pairs. `prompt_bytes_over` and `prompt_bytes_under` are exclusive.
    """

    header: tuple[tuple[str, str], ...] = ()
    model: str | None = None
    tools: bool | None = None
    stream: bool | None = None
    kind: str | None = None
    prompt_bytes_over: int | None = None
    prompt_bytes_under: int | None = None

    def holds(self, facts: CallFacts) -> bool:
        """Whether everything that is asked for is so."""
        for name, value in self.header:  # most often what a rule asks for, and what a call has not
            if facts.headers.get(name) != value:
                return False
        return (
            (self.model is None or self.model == facts.model)
            and (self.kind is None or self.kind == facts.kind)
            and (self.tools is None or self.tools == facts.tools)
            and (self.stream is None or self.stream == facts.stream)
            and (self.prompt_bytes_over is None or facts.prompt_bytes > self.prompt_bytes_over)
            and (self.prompt_bytes_under is None or facts.prompt_bytes < self.prompt_bytes_under)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls for which `when` holds go to the backend `use`. `text` is the rule as a person reads it in an explanation."""

    when: Condition
    use: str
    text: str


def first_match(rules: tuple[Rule, ...], facts: CallFacts) -> Rule | None:
    """The first of `rules` that applies, None where none does."""
    for rule in rules:
        if rule.when.holds(facts):
            return rule
    return None
