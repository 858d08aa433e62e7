"""Half an hour of mixed load through `crossfade serve` while its backends fail at random: what clients saw, and what the process kept.

    python -m bench.soak [--minutes 30] [--workers 24] [--share 0.01]

Two scripted backends behind one model; one in a hundred calls meets a fault at its first attempt, of any kind and at any moment, and is
answered well at the next: so no call may fail before its first content, and none may look whole that is not. A stream that breaks after
its first content may end with an error event. Exits with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load import KINDS, Caller
from tests.faults.scripts import ends_after, error_event, resets_after, says_error, silent_after
from tests.serving import RunningRouter
from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chat_answer,
    chunked,
    event,
    stream,
)

MOST_GROWTH_MB_PER_MIN = 1.0  # facts B5, 64
MOST_MORE_DESCRIPTORS = 10  # connections that are just being closed
SAMPLE_S = 2.0
WARM_SHARE = 0.4  # memory is taken in steps at first; the slope is that of what follows
JUDGED_MIN = 5.0  # a slope over less is noise
REMEMBERED = 50_000
LONG = "word " * 400
BROKEN_LOG = re.compile(r"Traceback|never retrieved|failed inside the router|stumbled")

BEFORE: list[Script] = [
    resets_after(),
    resets_after(STREAM_HEAD),
    ends_after(b"HTTP/1.1 200 OK\r\n"),
    ends_after(b"\x00\x01 no http\r\n\r\n"),
    says_error("500 Oh"),
    says_error("503 Busy"),
    says_error("429 Busy", "busy", "retry-after: 0"),
    says_error("200 OK", code=500),
    silent_after(),
]
BEFORE_STREAM = [
    *BEFORE,
    error_event(500),
    ends_after(STREAM_HEAD, chunked(event({"role": "assistant", "content": ""}))),
]
AFTER = [resets_after, ends_after]


@dataclass
class Faulty:
    """A backend that answers everything well, but fails `share` of all calls at their first attempt."""

    rng: random.Random
    share: float
    met: dict[str, None]  # calls that have met their fault, shared by both backends; the oldest are forgotten
    faults: int = 0

    async def __call__(self, request: Received, connection: Connection) -> None:
        """One attempt."""
        asked = request.json
        name = request.headers["x-request-id"]
        if name not in self.met and self.rng.random() < self.share:
            self.met[name] = None
            if len(self.met) > REMEMBERED:
                del self.met[next(iter(self.met))]
            self.faults += 1
            await self._fault(asked)(request, connection)
        else:
            await connection.write(*_well(request.path, asked))

    def _fault(self, asked: dict[str, Any]) -> Script:
        if not asked.get("stream"):
            return self.rng.choice(BEFORE)
        if self.rng.random() < 0.3:
            return self.rng.choice(AFTER)(*_well("", asked)[: self.rng.randrange(3, 8)])
        return self.rng.choice(BEFORE_STREAM)


def _well(path: str, asked: dict[str, Any]) -> list[bytes]:
    if path == "/v1/embeddings":
        return [answer({"object": "list", "model": asked["model"], "data": [{"index": 0, "embedding": [0.5] * 64}]})]
    if not asked.get("stream"):
        return [answer(chat_answer(LONG, asked["model"]))]
    if asked.get("tools"):
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        events = [event({"role": "assistant", "content": None}), event({"tool_calls": [call]}), event({}, "tool_calls")]
        return [STREAM_HEAD, *map(chunked, (*events, b"data: [DONE]\n\n")), END]
    return stream(*LONG.split(" ")[:120], model=asked["model"])


@dataclass(frozen=True, slots=True)
class Sample:
    """What the router's process held at one moment."""

    at_s: float
    rss_bytes: int
    descriptors: int


@dataclass
class Report:
    """What was seen."""

    minutes: float
    calls: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    faults: int = 0
    in_flight: float = -1
    log_faults: list[str] = field(default_factory=list)
    status: int = -1

    @property
    def slope_mb_per_min(self) -> float:
        """Growth of resident memory once it is warm, by least squares."""
        kept = self.samples[int(len(self.samples) * WARM_SHARE) :]
        mean_s = sum(sample.at_s for sample in kept) / len(kept)
        spread = sum((sample.at_s - mean_s) ** 2 for sample in kept)
        return sum((sample.at_s - mean_s) * sample.rss_bytes for sample in kept) / spread * 60 / 1e6

    def broken(self) -> list[str]:
        """The bounds that were broken, one sentence each."""
        warm = self.samples[int(len(self.samples) * WARM_SHARE)]
        failed = {name: count for name, count in self.results.items() if name.startswith(("failed", "truncated"))}
        found = [f"{count} calls: {name}" for name, count in failed.items()]
        if self.minutes >= JUDGED_MIN and self.slope_mb_per_min >= MOST_GROWTH_MB_PER_MIN:
            found.append(f"memory grows by {self.slope_mb_per_min:.2f} MB a minute")
        if self.samples[-1].descriptors > warm.descriptors + MOST_MORE_DESCRIPTORS:
            found.append(f"descriptors went from {warm.descriptors} to {self.samples[-1].descriptors}")
        if self.in_flight != 0:
            found.append(f"{self.in_flight:g} attempts are still in flight")
        found += [f"the log says: {line}" for line in self.log_faults[:5]]
        if self.status != 0:
            found.append(f"the process ended with status {self.status}")
        return found

    def lines(self) -> list[str]:
        """All of it, for people."""
        rss = [sample.rss_bytes / 1e6 for sample in self.samples]
        minutes = (self.samples[-1].at_s - self.samples[0].at_s) / 60
        return [
            f"{sum(self.calls.values())} calls in {minutes:.1f} min, {self.faults} of them with a fault: "
            + ", ".join(f"{count} {name}" for name, count in sorted(self.calls.items())),
            "seen by clients: " + ", ".join(f"{count} {name}" for name, count in sorted(self.results.items())),
            f"memory: {rss[0]:.1f} MB at first, {max(rss):.1f} at most, {rss[-1]:.1f} at last, "
            f"{self.slope_mb_per_min:+.3f} MB a minute when warm",
            f"descriptors: {self.samples[0].descriptors} at first, {max(s.descriptors for s in self.samples)} at most, "
            f"{self.samples[-1].descriptors} at last",
            f"in flight at the end: {self.in_flight:g}; exceptions in the log: {len(self.log_faults)}; status {self.status}",
        ]


def _sample(pid: int, began_s: float) -> Sample:
    rss_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(time.monotonic() - began_s, rss_pages * 4096, descriptors)


async def _watch(pid: int, report: Report, ends_s: float) -> None:
    began_s = time.monotonic()
    while time.monotonic() < ends_s:
        report.samples.append(_sample(pid, began_s))
        await asyncio.sleep(min(SAMPLE_S, max(0.0, ends_s - time.monotonic())))


async def _work(caller: Caller, rng: random.Random, report: Report, ends_s: float) -> None:
    kinds: list[tuple[str, Callable[[Caller], Awaitable[str]]]] = list(KINDS.items())
    while time.monotonic() < ends_s:
        name, ask = rng.choice(kinds)
        report.calls[name] += 1
        report.results[await ask(caller)] += 1
        await asyncio.sleep(rng.uniform(0, 0.05))


def _config(a: Upstream, b: Upstream) -> dict[str, Any]:
    times = {"first_token_s": 2, "first_token_per_kib_s": 0, "between_tokens_s": 2, "answer_s": 2}
    model = {"on": {"a": "m", "b": "m"}, "split": {"a": 0.5, "b": 0.5}, "stick_by": [], "timeouts": times}
    backends = {"a": {"kind": "vllm", "url": a.url}, "b": {"kind": "vllm", "url": b.url}}
    return {"backends": backends, "models": {"jane": model}}


async def soak(minutes: float, workers: int, share: float, seed: int) -> Report:
    """Run it."""
    report, met = Report(minutes), dict[str, None]()
    scripts = [Faulty(random.Random(seed + n), share, met) for n in range(2)]
    async with Upstream(scripts[0]) as a, Upstream(scripts[1]) as b:
        router = RunningRouter(_config(a, b))
        await asyncio.to_thread(router.__enter__)
        try:
            ends_s = time.monotonic() + minutes * 60
            port = int(router.url.rpartition(":")[2])
            callers = [
                _work(Caller(port, random.Random(seed * n)), random.Random(seed + n), report, ends_s)
                for n in range(workers)
            ]
            forget = asyncio.create_task(_forget(a, b))
            await asyncio.gather(_watch(router.pid, report, ends_s), *callers)
            forget.cancel()
            report.in_flight = await Caller(port, random.Random()).in_flight()
            report.samples.append(_sample(router.pid, ends_s - minutes * 60))
            report.faults = sum(script.faults for script in scripts)
            report.status = await asyncio.to_thread(router.stop, signal.SIGTERM)
            report.log_faults = [line for line in router.log().splitlines() if BROKEN_LOG.search(line)]
        finally:
            with suppress(AssertionError):
                await asyncio.to_thread(router.__exit__, None, None, None)
    return report


async def _forget(*upstreams: Upstream) -> None:
    """What the scripted backends keep of each call is not needed."""
    while True:
        await asyncio.sleep(1)
        for upstream in upstreams:
            upstream.received.clear()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Mixed load with random faults.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--share", type=float, default=0.01, help="of the calls that meet a fault")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    report = asyncio.run(soak(args.minutes, args.workers, args.share, args.seed))
    broken = report.broken()
    print("\n".join([*report.lines(), *(f"BROKEN: {line}" for line in broken)]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
