"""The demo itself: sets up, starts, shows, watches over everything, and takes it all down again.

The first engine and Crossfade are there in seconds. The candidate is set up in a thread beside them; meanwhile its half of the
callers is answered by the first engine, and Crossfade takes it into rotation by itself. All processes are kept: kill one to see.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.process import Command, ProcessError, SupervisedProcess
from policies.ejection import State
from router.demo import roles
from router.demo.asking import CALLER, NoAnswer, ask, is_well, states
from router.demo.faults import DemoFailed, Stopped, Unavailable
from router.demo.install import Installer, gguf_in
from router.demo.keep import Kept
from router.demo.machine import free_ports, is_taken
from router.demo.progress import Progress, Steps, last_line
from router.demo.roles import Role
from router.demo.summary import Row, Summary

TICK_S = 0.25
LOOK_S = 1.0  # at who is in rotation
START_S = 600.0  # vLLM took 30 to 100 s on two cores, alone or beside other work; small machines take longer
ROTATION_S = 60.0  # the router asks after health every 2 s; the rest is for a machine that is busy
CALLERS = 24  # all on one side of a fair split once in 8 million times
NEWS = {
    State.EJECTED: "out of rotation; the other answers for it",
    State.PROBING: "it is well; its next caller tries it",
    State.IN_ROTATION: "back in rotation",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for."""

    port: int
    with_vllm: bool
    home: Path  # the cache

    @property
    def origin(self) -> str:
        """Where Crossfade will answer."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        """The configuration and the logs of this demo."""
        return self.home / "demo" / str(self.port)


class Demo:
    """One demo, from `run()` until `progress.stopping` is set."""

    def __init__(self, wish: Wish, progress: Progress, announce: Callable[[Summary], None]):
        self._wish = wish
        self._progress = progress
        self._announce = announce
        baseline_port, candidate_port = free_ports(2)
        self._baseline = roles.lmstudio(baseline_port)
        self._candidate = roles.vllm(candidate_port) if wish.with_vllm else roles.standin(candidate_port)
        self._kept: dict[str, Kept] = {}
        self._candidate_fault: BaseException | None = None
        self._seen: dict[str, State] = {}  # empty until both have been shown
        self._look_at_s = 0.0

    def run(self) -> None:
        """Returns when asked to stop, with everything stopped. Raises DemoFailed."""
        if is_taken("127.0.0.1", self._wish.port):
            raise DemoFailed(f"port {self._wish.port} is taken by another program; stop it, or choose one with --port")
        side = threading.Thread(target=self._bring_candidate, name="candidate")
        try:
            self._bring_first()
            side.start()
            self._watch()
        except Stopped:
            pass
        except (Unavailable, ProcessError, OSError) as exc:
            raise DemoFailed(str(exc)) from exc
        finally:
            self._progress.stopping.set()
            self._stop_all(side)

    # The first engine and Crossfade

    def _bring_first(self) -> None:
        wish = self._wish
        wish.folder.mkdir(parents=True, exist_ok=True)
        for old in (
            *wish.folder.glob("*.log"),
            *wish.folder.glob("crossfade.db*"),
        ):  # each demo begins with its own shares
            old.unlink()
        self._bring_llama(self._baseline)
        self._start_router()
        self._announce(self._summary())
        self._show_answers({self._baseline.name})

    def _bring_llama(self, role: Role) -> None:
        steps = self._steps(role)
        python = self._installer(steps).llama()
        self._start_engine(role, roles.llama_command(role, python, self._wish.folder), steps)

    def _start_router(self) -> None:
        wish = self._wish
        (wish.folder / "demo.yaml").write_text(roles.config_text(wish.port, self._baseline, self._candidate))
        steps = Steps("crossfade", self._progress, wish.folder)
        self._start(roles.router_command(wish.folder), f"{wish.origin}/health/ready", steps)
        steps.say("ready", f"{wish.origin}/v1")

    # The candidate, beside them

    def _bring_candidate(self) -> None:
        try:
            if self._wish.with_vllm:
                self._bring_vllm_or_standin()
            else:
                self._bring_llama(self._candidate)
            self._show_both()
        except Stopped:
            pass
        except BaseException as exc:  # the main thread raises it
            self._candidate_fault = exc

    def _bring_vllm_or_standin(self) -> None:
        try:
            self._bring_vllm()
        except (Unavailable, ProcessError) as exc:
            self._progress.say("vllm", "given up", f"vLLM cannot run here: {exc}")
            self._replace_candidate()

    def _bring_vllm(self) -> None:
        role = self._candidate
        steps = self._steps(role)
        installer = self._installer(steps)
        python = installer.vllm()
        model = installer.model(python, gguf_in(installer.llama()))
        self._start_engine(role, roles.vllm_command(role, python, model, self._wish.folder), steps)

    def _replace_candidate(self) -> None:
        if failed := self._kept.pop(self._candidate.name, None):
            failed.stop()
        self._candidate = roles.standin(self._candidate.port)
        self._bring_llama(self._candidate)
        self._progress.say("crossfade", "restart", f"with the backend {self._candidate.name} instead of vllm")
        self._kept["crossfade"].stop()
        self._start_router()

    # Both

    def _start_engine(self, role: Role, command: Command, steps: Steps) -> None:
        self._start(command, f"{role.url}/health", steps)
        steps.say("warm-up", "one answer without an audience")
        try:
            ask(role.url, "warm-up", role.model)
        except NoAnswer as exc:  # killed meanwhile, say: it is kept, and the router finds out by itself
            if self._progress.stopping.is_set():
                raise Stopped from exc
            steps.say("warm-up", f"no answer: {exc}")
        steps.say("ready", f"{role.title}, on {role.url}")

    def _start(self, command: Command, health: str, steps: Steps) -> None:
        """Returns when `health` answers; from then on it is kept. Raises Unavailable, ProcessError, Stopped."""
        steps.say("load", f"its log is {command.log}")
        process = SupervisedProcess(command)
        try:
            is_over = lambda: process.status is not None or is_well(health)  # noqa: E731
            steps.wait("load", is_over, lambda: last_line(process), START_S)
            process.wait_until(lambda: is_well(health), 0)
        except BaseException:
            process.stop()
            raise
        self._kept[steps.who] = Kept(steps.who, process, self._progress)

    def _show_both(self) -> None:
        name = self._candidate.name
        steps = self._steps(self._candidate)
        is_seen = lambda: states(self._wish.origin).get(name) in (State.PROBING, State.IN_ROTATION)  # noqa: E731
        steps.wait("rotation", is_seen, lambda: "Crossfade has not seen it yet", ROTATION_S)
        self._show_answers({self._baseline.name, name})  # a call that succeeds takes the candidate into rotation
        steps.say("rotation", "Crossfade gives it its half of the callers")
        self._announce(self._summary())
        self._seen = states(self._wish.origin)

    def _show_answers(self, wanted: set[str]) -> None:
        """Ask as one caller after the other, until each wanted backend has answered."""
        wanted = set(wanted)
        for number in range(CALLERS):
            if not wanted or self._progress.stopping.is_set():
                return
            try:
                answer = ask(self._wish.origin, f"user-{number}")
            except NoAnswer as exc:
                self._progress.say("crossfade", "no answer", str(exc))
                continue
            if answer.backend in wanted:
                wanted.remove(answer.backend)
                self._progress.say(answer.backend, "answers", f"user-{number}: {answer.text}")

    def _watch(self) -> None:
        while not self._progress.stopping.wait(TICK_S):
            if self._candidate_fault is not None:
                raise DemoFailed(f"{self._candidate.name}: {self._candidate_fault}") from self._candidate_fault
            for kept in list(self._kept.values()):
                kept.tick()
            self._say_changes()

    def _say_changes(self) -> None:
        """Who has left the rotation and who is back since the last look."""
        if not self._seen or time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + LOOK_S
        for name, state in states(self._wish.origin).items():
            if self._seen.get(name) is not state:
                self._seen[name] = state
                self._progress.say(name, "rotation", NEWS[state])

    def _stop_all(self, side: threading.Thread) -> None:
        """Twice: the first ends what `side` may still be waiting for, the second what it has started since."""
        self._progress.say("demo", "stop", f"stopping {', '.join(list(self._kept)) or 'what has been begun'}")
        _at_once([kept.stop for kept in list(self._kept.values())])
        if side.ident is not None:
            side.join()
        _at_once([kept.stop for kept in self._kept.values()])
        self._progress.say("demo", "stopped", "nothing is left running")

    def _summary(self) -> Summary:
        wish = self._wish
        now = states(wish.origin)
        rows = tuple(
            Row(role.name, role.title, role.url, self._pid(role), now.get(role.name) is State.IN_ROTATION)
            for role in (self._baseline, self._candidate)
        )
        return Summary(wish.origin, wish.folder, rows, self._home())

    def _home(self) -> str:
        try:
            return ask(self._wish.origin, CALLER).backend
        except NoAnswer:
            return ""

    def _pid(self, role: Role) -> int | None:
        kept = self._kept.get(role.name)
        return kept.pid if kept else None

    def _steps(self, role: Role) -> Steps:
        return Steps(role.name, self._progress, self._wish.folder)

    def _installer(self, steps: Steps) -> Installer:
        return Installer(self._wish.home, steps, os.environ)


def _at_once(tasks: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
