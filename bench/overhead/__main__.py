"""`python -m bench.overhead`: measures the proxies of `proxies.py` in turn, prints a table, writes bench/results/overhead-*.json."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.overhead.goals import verdicts
from bench.overhead.harness import CannotRun
from bench.overhead.measure import Measured, Summary, measure, summarize
from bench.overhead.plan import FULL, QUICK, Plan
from bench.overhead.proxies import PROXIES, Proxy
from bench.overhead.table import remarks, table

RESULTS = Path(__file__).parents[1] / "results"


class Report(msgspec.Struct, frozen=True):
    """What is written: enough to make the table again, and to see the rounds one by one."""

    at: str
    machine: str
    plan: Plan
    summary: Summary
    rounds: list[dict[str, Measured]]


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; 1 where it cannot run."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    plan = QUICK if options.quick else FULL
    plan = msgspec.structs.replace(plan, rounds=options.rounds or plan.rounds)
    try:
        rounds = measure(plan, _chosen(options.only), say=lambda text: print(text, file=sys.stderr, flush=True))
    except CannotRun as exc:
        print(f"bench.overhead: {exc}", file=sys.stderr)
        return 1
    now = datetime.now(UTC)
    report = Report(now.isoformat(timespec="seconds"), machine(), plan, summarize(rounds), rounds)
    print(f"\n{report.at}, {report.machine}; medians of {plan.rounds} rounds (lowest-highest)\n")
    print("\n".join([table(report.summary), "", *remarks(report.summary), *verdicts(report.summary)]))
    print(f"\nwritten: {_written(report, f'overhead-{now:%Y%m%d-%H%M%S}.json')}")
    return 0


def machine() -> str:
    """The machine in words."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    name = models[0] if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _chosen(only: str) -> list[Proxy]:
    """The proxies that were asked for, or all that are installed; what is left out is said. Raises CannotRun."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list(PROXIES)
    if unknown := [name for name in names if name not in PROXIES]:
        raise CannotRun(f"no proxy is called {unknown[0]!r}; there are {', '.join(PROXIES)}")
    chosen = []
    for name in names:
        if lacking := PROXIES[name].lacks():
            if only:
                raise CannotRun(lacking)
            print(f"left out: {lacking}", file=sys.stderr)
        else:
            chosen.append(PROXIES[name])
    return chosen


def _written(report: Report, name: str) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / name
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"how often each proxy takes its turn (default: {FULL.rounds})")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that all works, not to compare")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of: {','.join(PROXIES)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
