"""Takes one guard away at a time, in a copy of the tree, and runs the tests that must notice: `python -m tests.faults.guards [WORD...]`.

Each guard is a piece of text that stands once in its file and what it becomes. A guard that nobody misses is printed, and the exit
status is 1. With words, only the guards whose name has one of them. The list itself is checked by `test_guards.py` at every run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.router.journal.guards import GUARDS_OF_THE_STORE

ROOT = Path(__file__).parents[2]
RUN_S = 180.0
TABLE = "tests/faults/test_table.py"
HELD = "tests/router/test_held.py"
TYPED = "tests/router/test_typed_streams.py"
WHOLE = "tests/backends/test_apis.py"
STORE = "tests/router/cli/test_on_the_store.py"
DOOR = "tests/router/admin/test_admin_door.py"
CHANGES = "tests/router/admin/test_admin_changes.py"
LOOKS = "tests/router/admin/test_admin_looks.py"
KEYS = "tests/router/admin/test_admin_keys.py"
LISTENER = "tests/router/admin/test_admin_listener.py"
FIT = "tests/router/test_fitness.py"
EDITING = "tests/router/config/test_config_editing.py"
CAPABLE = "tests/policies/test_choose_capabilities.py"


@dataclass(frozen=True, slots=True)
class Guard:
    """`name` says what it keeps from happening; `old` becomes `new` in `file`; one of `tests` must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def guard(name: str, file: str, change: tuple[str, str], *tests: str) -> Guard:
    return Guard(name, file, *change, tests)


_RAISES_IT = "if isinstance(error, RouteMissing):\n            return error\n        if False:"

GUARDS = [
    # One deadline, one budget
    guard("a repeated attempt is paid for", "policies/budget.py",
          ("if self._from_calls + self._floor < _TRY:", "if False:"), "tests/policies/test_budget.py"),
    guard("a backend is tried no more often than it may be", "policies/retry.py",
          ("if standing.attempts_here >= rules.attempts_per_backend:", "if False:"), "tests/policies/test_retry.py"),
    guard("nothing is begun with too little time", "policies/retry.py",
          ("if standing.remaining_s - again.wait_s < MIN_USEFUL_S:", "if False:"), "tests/policies/test_retry.py"),
    guard("nothing waits for its place until it is too late", "router/attempt.py",
          ("MIN_USEFUL_S if is_further else 0.0", "0.0"), "tests/faults/test_schedules.py"),
    guard("a retry-after is waited out once, and no long one", "policies/retry.py",
          ("if standing.waited_retry_after or wait_s > rules.retry_after_wait_s:", "if False:"), TABLE),
    guard("an attempt ends with the call's deadline", "router/attempt.py",
          ("until_s = min(started_s + wait_s, call.deadline_s)", "until_s = started_s + wait_s"), "tests/faults/test_schedules.py"),
    guard("no client is told to wait longer than SDKs obey", "router/faults.py",
          ("min(MAX_RETRY_AFTER_S, ", "max(MAX_RETRY_AFTER_S, "), "tests/router/test_faults.py"),
    # What is an answer
    guard("an error inside a 200 is an error", "backends/answers.py", ("if _is_there(whole.error):", "if False:"), TABLE),
    guard("an error event is an error", "backends/answers.py", ("if _is_there(chunk.error):", "if False:"), TABLE),
    guard("an aborted answer is none", "backends/answers.py",
          ("if any(choice.finish_reason == ABORT for choice in whole.choices):", "if False:"), TABLE),
    guard("a stream without finish_reason is not whole", "router/relay.py",
          ('raise StreamBroken("the stream ended without a finish_reason")', "pass"), TABLE),
    guard("[DONE] without finish_reason ends nothing", "router/relay.py",
          ('raise ProtocolBroken("the stream said [DONE] without a finish_reason")', "pass"), TABLE),
    guard("a redirect is not followed and no answer", "backends/faults.py", ("if 300 <= status < 400:", "if False:"), TABLE),
    guard("a prompt too long for one backend moves", "policies/outcome.py",
          ("OutcomeKind.OVERFLOW: (True, False)", "OutcomeKind.OVERFLOW: (False, False)"), TABLE),
    guard("an event is bounded", "backends/sse.py",
          ("if self._kept_bytes > MAX_EVENT_BYTES:", "if False:"), "tests/backends/test_sse.py"),
    guard("events without content are bounded", "router/relay.py",
          ("if self._held_bytes > MAX_HELD_BYTES and not", "if False and not"), "tests/router/test_slow_clients.py"),
    # What a backend sends
    guard("a backend's headers are counted", "backends/http1.py", ("if len(lines) > MAX_HEADERS:", "if False:"), TABLE),
    guard("a backend's head is measured", "backends/http1.py",
          ("if self._overhead_bytes > MAX_HEAD_BYTES and self._receiver is not None:", "if False:"), "tests/backends/test_http1.py"),
    guard("interim answers are counted", "backends/http1.py", ("if self._interim > MAX_INTERIM:", "if False:"), TABLE),
    guard("no coding is read that was not asked for", "backends/http1.py",
          ('if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":', "if False:"),
          "tests/backends/test_http1.py"),
    guard("two values of one header are no value", "backends/http1.py",
          ('headers[key] = b", ".join([value for name, value in lines if name == key])', "pass"), TABLE),
    guard("the router's own standstill is nobody's silence", "backends/alarm.py",
          ("if late and now_s - self._due_s > STOOD_STILL_S:", "if False:"), "tests/backends/test_exchange.py"),
    guard("no key is quoted", "router/attempt.py", ("replica.server.hide_key(raised)", "pass"), TABLE),
    # Leaving
    guard("a client that leaves ends its call", "router/client.py", ("self._task.cancel()", "pass"), "tests/faults/test_cancellation.py"),
    guard("a client that leaves counts against nobody", "policies/outcome.py",
          ("OutcomeKind.CLIENT_GONE: (False, False)", "OutcomeKind.CLIENT_GONE: (False, True)"), "tests/policies/test_outcome.py",
          "tests/router/test_health.py"),
    guard("a slow client holds its backend back", "router/client.py",
          ("    def client_is_slow(self) -> None:\n        if self._reader is not None:",
           "    def client_is_slow(self) -> None:\n        if False:"), "tests/router/test_slow_clients.py"),
    # Health
    guard("the last one is never ejected", "policies/ejection.py",
          ("if in_rotation <= 1 or at_most_share <= 0:", "if at_most_share <= 0:"), "tests/policies/test_ejection.py"),
    guard("failures in a row eject", "policies/ejection.py",
          ("if self._in_a_row >= rules.consecutive_failures:", "if False:"), "tests/policies/test_ejection.py"),
    guard("one voter alone ejects nobody", "policies/ejection.py",
          ("if have_room(voters, (self._row_votes,), self._most_votes):", "if True:"), "tests/policies/test_votes.py"),
    # Carried on, overtaken, passed over
    guard("what diverges is not glued on", "backends/merging.py",
          ('raise Diverged(f"asked again, it says something else after {at} characters of {channel}")', "pass"),
          "tests/router/test_resume.py"),
    guard("a hedge is paid for", "policies/hedge.py", ("if not budget.withdraw(now_s):", "if False:"), "tests/policies/test_hedge.py"),
    guard("who takes no longer a prompt is passed over", "router/dispatch.py",
          (" if may_take_more(tokens[index], tokens[place])]", "]"), "tests/router/test_context.py"),
    guard("an alert is said once a minute", "router/alerts.py",
          ("if last_s is None or now_s - last_s >= AGAIN_S:", "if True:"), "tests/router/test_alerts.py"),
    # Several workers
    guard("who waits elsewhere is not passed", "router/shared_limits.py",
          ("or self._counter.anybody_waits() or", "or"), "tests/router/test_shared_limits.py"),
    guard("queues of all workers have one order", "router/shared_limits.py",
          ("return (_key(*first), self._counter.shared.me) < elsewhere", "return True"), "tests/router/test_shared_limits.py"),
    guard("whose turn it is hears of it", "router/shared_limits.py",
          ("            self._bells.ring(first[1])", "            pass"), "tests/router/test_shared_limits.py"),
    guard("replicas are weighed by what all workers run there", "router/shared_limits.py",
          ("                replica.elsewhere = part.elsewhere()", "                pass"), "tests/router/test_shared_limits.py"),
    guard("a minute's bucket is one for all workers", "router/shared_limits.py",
          ("            if state[1]:", "            if False:"), "tests/router/test_shared_limits.py"),
    guard("a queue that nobody tends holds up nobody", "router/shared.py",
          ("and self.shared.is_beating(worker, within_s)", ""), "tests/router/test_shared.py"),
    guard("a lock that is kept is not waited for", "router/shared.py",
          ("if time.monotonic() > until_s:", "if False:"), "tests/router/test_shared.py"),
    guard("what a dead worker had is free", "router/workers.py",
          ("        self._shared.clear(worker.number)", "        pass"), "tests/router/test_workers.py"),
    guard("no sum falls where a worker is killed", "router/team.py",
          ("summed([own(), self._before])", "list(own())"), "tests/router/test_workers.py"),
    guard("no sum falls where a worker stands still", "router/team.py",
          ("self._last_words(worker) if families is None else families", "families or []"), "tests/router/test_workers.py"),
    guard("workers do not outlive their supervisor", "router/team.py",
          ("        loop.add_reader(self._lifeline, self._orphaned)", "        pass"), "tests/router/test_workers_ends.py"),
    guard("a worker that cannot start is not started all the time", "router/workers.py",
          ("        worker.due_s = now_s + wait_s", "        pass"), "tests/router/test_workers_ends.py"),
    guard("half a configuration is none", "router/accepted.py",
          ("if found[:DIGEST_BYTES] != _digest(data):", "if False:"), "tests/router/test_accepted.py"),
    # The door
    guard("calls of a minute are counted", "policies/quota.py", ("            self.amount -= _CALL", "            pass"),
          "tests/policies/test_quota.py"),
    guard("who would wait in vain is refused", "router/gate.py", ("            raise GateFull(refusal)", "            pass"),
          "tests/router/test_gate.py"),
    guard("a stranger's Host is refused", "router/doors.py",
          ('return Fault(421, message, "invalid_request_error", "unknown_host")', "return None"), "tests/router/test_doors.py"),
    guard("a second signal is quick", "router/serve.py",
          ("self.force_exit = self.should_exit", "self.force_exit = False"), "tests/faults/test_edge_stop.py"),
    guard("a body's nesting is bounded", "router/reading.py", ("        if depth > MAX_DEPTH:", "        if False:"),
          "tests/router/test_bad_input.py"),
    guard("a body's length is bounded", "router/admission.py",
          ("if length.isdigit() and int(length) > self._max_body_bytes:", "if False:"), "tests/router/test_bad_input.py",
          "tests/router/test_edge.py"),
    guard("what was refused is answered once", "router/edge.py",
          ("running.response_started = running.response_complete = True", "running.response_complete = True"), "tests/fuzz/test_fuzz.py"),
    # Who can answer
    guard("capable: a backend that lacks what is needed is never asked", "policies/choose.py",
          ("if view.lacks and (lacking := _lacking(facts, view.lacks)):", "if lacking := ():"), CAPABLE),
    guard("capable: a call that needs something is never plain", "policies/choose.py",
          ("(not facts.needs or facts.needs.isdisjoint(self.lacked))", "True"), CAPABLE),
    guard("capable: a context that is too small is seen by the short way too", "policies/choose.py",
          ("facts.prompt_bytes <= self.safe_bytes", "True"), CAPABLE),
    guard("capable: who may have it and is down is no reason to say never", "router/dispatch.py",
          ("if facts.pin or is_offered_by_none(choice):", "if True:"), "tests/router/test_capable_choice.py"),
    guard("capable: a missing API costs no health", "policies/outcome.py",
          ("OutcomeKind.ROUTE_MISSING: (True, False)", "OutcomeKind.ROUTE_MISSING: (True, True)"), "tests/policies/test_outcome.py"),
    guard("capable: tools that are refused cost no health", "policies/outcome.py",
          ("OutcomeKind.NEED_MISSING: (True, False)", "OutcomeKind.NEED_MISSING: (True, True)"), "tests/policies/test_outcome.py"),
    guard("capable: nobody can write it into an answer that tools are lacking", "backends/faults.py",
          ("_NO_TOOLS.fullmatch(text.message)", "_NO_TOOLS.search(text.message)"), "tests/router/test_tools_need.py"),
    guard("capable: a tool that is no function is nobody's own failure", "router/needs.py",
          ('if body.has_tools and kind == "chat" and has_custom(body.fields["tools"]):', "if False:"),
          "tests/router/test_capable_choice.py"),
    guard("capable: what a call does not need nobody lacks", "router/outcomes.py",
          ("error.need not in facts.needs", "False"), "tests/router/test_tools_need.py"),
    guard("capable: only the owner of a response can go on from it", "router/dispatch.py",
          ("if isinstance(error, NeedMissing) and self._call.held is not None:", "if False:"), "tests/router/test_tools_need.py"),
    guard("capable: a server without chat is the wrong server", "router/outcomes.py",
          ('if type(error) is errors.RouteMissing and kind == "chat":', "if False:"), "tests/router/test_capable_choice.py"),
    guard("capable: a list that does not come takes nothing back", "router/monitor.py",
          ("        if b\"\" in lists:\n", "        if False:\n"), "tests/router/test_monitor.py"),
    guard("capable: the holder of a response is asked for nothing that it lacks", "router/owners.py",
          ("if lacking := tuple(sorted(needs & lacks)):", "if lacking := ():"), "tests/router/test_held.py"),
    # Other APIs
    guard("a response that failed is no answer", "backends/apis.py", ("if status not in _ALIVE:", "if False:"), WHOLE),
    guard("an aborted message is none", "backends/apis.py", ('if not is_there(fields.get("stop_reason")):', "if False:"), WHOLE),
    guard("an error event with a name is an error", "backends/events.py",
          ('if event.type == b"error":', "if False:"), "tests/backends/test_events.py", TYPED),
    guard("a response that its engine gave up is not whole", "backends/events.py",
          ("if has_failed and not self._is_held:", "if False:"), "tests/backends/test_events.py"),
    guard("an event's name stands in one line", "backends/events.py",
          ("if not _NAME.fullmatch(name):", "if not name:"), "tests/backends/test_events.py"),
    guard("a stream without its API's last event is not whole", "router/typed.py",
          ('raise StreamBroken("the stream ended without its last event")', "pass"), TYPED),
    guard("what never has content is left", "router/typed.py",
          ("if not self._stream.is_whole and (self._is_held or not self.has_content):", "if False:"), TYPED),
    guard("only the owner is asked about a response", "router/dispatch.py",
          ("if held is None:", "if True:"), HELD),
    guard("only the replica that holds a response is asked", "router/attempt.py",
          ("among = None if self.call.held is None else [self.call.held.replica]", "among = None"), HELD),
    guard("a response that its owner forgot is nobody's failure", "router/owners.py",
          ("if not (is_asked_for or says_so):", "if True:"), HELD),
    guard("what an owner lacks is not learned of the whole API", "router/owners.py",
          ("if is_asked_for and isinstance(error, RouteMissing):", _RAISES_IT), HELD),
    guard("a stream that cannot be is told from one that broke", "router/owners.py",
          ("if made.id != self.id or made.background:", "if False:"), "tests/router/test_held_streams.py"),
    guard("a stream that cannot be costs its owner no health", "router/attempt.py",
          ("if isinstance(error, ProtocolBroken) and is_asked_for and self.call.facts.stream:", "if False:"),
          "tests/router/test_held_streams.py"),
    guard("an id that was altered leads to no owner", "router/owners.py",
          ("self._owners.get(int(mark, 16) ^ self._mask(own_id))", "next(iter(self._owners.values()))"), HELD),
    guard("a pin and an owner do not contradict each other", "router/endpoints.py",
          (" or pin not in (None, held.backend)", ""), HELD),
    guard("a key of Anthropic's SDKs opens their paths alone", "router/endpoints.py",
          ('if b"x-api-key" in headers and self.kind in ANTHROPIC:', 'if b"x-api-key" in headers:'), "tests/router/test_apis.py"),

    # Answers held to their contract
    guard("an answer that is none moves the call", "router/attempt.py",
          ("if found.is_violation and not is_sent:", "if False:"), "tests/router/test_contracts.py"),
    guard("what is held back is let go when there is too much of it", "router/relay.py",
          ("is_too_much = self._held_bytes > MAX_HELD_ANSWER_BYTES", "is_too_much = False"), "tests/router/test_contracts.py"),
    guard("a held answer's limit counts on", "router/relay.py",
          ("self._reply.set_limit(self._next_limit_s(), self._late_while_held)", "pass"), "tests/router/test_contracts.py"),
    guard("messages of errors cost work", "policies/schema.py",
          ("work.spend(1 + len(error.message) // 128)", "pass"), "tests/policies/test_schema.py"),
    guard("expressions cost work", "policies/schema.py",
          ("self._work.spend(found.steps(len(instance)) // 64)", "pass"), "tests/policies/test_schema.py"),

    # Commands on a router, its store, its file
    guard("a command whose answer was lost is made once", "router/cli/offline.py",
          ("change.key, change.digest)", "None, None)"), "tests/router/cli/test_remote.py"),
    guard("a command without a router is later than the file", "router/cli/offline.py",
          ('await journal.file_changed(desired(config), "the file, read by the command line")', "await journal.file_changed("
           "desired(config), '') if (await journal.catch_up()) or not journal.last else journal.last"), STORE),
    guard("looking makes no store", "router/cli/offline.py",
          ('return url.get_backend_name() != "sqlite" or', "return True or"), STORE),
    guard("a backend is probed before a store gives it callers", "router/cli/shift.py",
          ("if not wish.is_forced:", "if False:"), STORE),
    guard("a file that cannot be edited stops a shift beforehand", "router/cli/shift.py",
          ("check_editable(file, wish.model, wish.shares)", "pass"), "tests/router/cli/test_shift_usage.py"),
    guard("a split that others share is not edited", "router/config/editing.py",
          ('if node.kind == "alias" or node.anchor in aliased:', "if False:"), EDITING),
    guard("an edit that was not understood is not written", "router/config/editing.py", ("if not is_right:", "if False:"), EDITING),

    # The admin API
    guard("a viewer changes nothing", "router/admin/door.py",
          ('if scope["method"] not in _READS and role is not Role.OPERATOR:', "if False:"), DOOR),
    guard("pages of other sites have no say", "router/admin/door.py",
          ('if origin != b"" and (origin is None or not', 'if False and (origin is None or not'), DOOR),
    guard("a browser that says that a page is foreign is believed", "router/admin/door.py",
          ('if headers.get(b"sec-fetch-site", b"none") not in', "if b'' in"), DOOR),
    guard("a page of another port of this machine is foreign", "router/admin/door.py",
          ("parts.netloc.lower() == asked", "not self._doors.hosts.is_foreign(origin)"), DOOR),
    guard("a key of clients opens no admin API", "router/admin/door.py", ("if self._is_clients(asked):", "if False:"), DOOR),
    guard("of two keys none counts", "router/admin/door.py",
          ("headers[name] = None if name in headers else value", "headers[name] = value"), DOOR),
    guard("wrong keys are told to wait", "router/admin/door.py", ("if wait_s:", "if False:"), DOOR),
    guard("a form is no change", "router/admin/door.py", ('if media_type != b"application/json" or', "if"), DOOR),
    guard("a compressed body is no change", "router/admin/door.py",
          ('or headers.get(b"content-encoding", b"identity") != b"identity":', ":"), DOOR),
    guard("a body that says that it is too long is not read", "router/admin/door.py",
          ("if length.isdigit() and int(length) > MOST_BYTES:", "if False:"), DOOR),
    guard("a body that is too long is not kept", "router/admin/door.py",
          ("if len(body) > MOST_BYTES:", "if False:"), DOOR),
    guard("a field that is named twice is refused", "router/admin/door.py", ("if len(fields) != len(pairs):", "if False:"), DOOR),
    guard("what no JSON has is refused", "router/admin/door.py", (", parse_constant=_no_constant", ""), DOOR),
    guard("a change takes nothing in its query", "router/admin/door.py", ('if scope.get("query_string"):', "if False:"), DOOR),
    guard("unknown fields are refused", "router/admin/bodies.py", ('extra="forbid", strict=True', "strict=True"), CHANGES),
    guard("nothing is turned into another type", "router/admin/bodies.py", ('extra="forbid", strict=True', 'extra="forbid"'), CHANGES),
    guard("a reason says something", "router/admin/bodies.py", ("if not text.strip():", "if False:"), CHANGES),
    guard("a reason steers no terminal", "router/admin/bodies.py", ("if not text.isprintable():", "if False:"), CHANGES),
    guard("a shift to who is not well is refused", "router/admin/changes.py",
          ("if not body.force and not await self._is_repeat(asking):", "if False:"), LOOKS),
    guard("a repeat is answered whatever has become of its backend", "router/admin/changes.py",
          ("if not body.force and not await self._is_repeat(asking):", "if not body.force:"), LOOKS),
    guard("a key of one request is not another's", "router/admin/changes.py",
          ("self.digest if self.key is not None else None", "None"), CHANGES),
    guard("if-match is heeded", "router/admin/changes.py", ("self.expected = _revision_of(if_match)", "self.expected = None"), CHANGES),
    guard("a look after a change elsewhere is true", "router/admin/app.py",
          ("await parts.journal.catch_up()", "pass"), LOOKS),
    guard("a kept key is read by its owner alone", "router/admin/keys.py", ("os.O_CLOEXEC, 0o600)", "os.O_CLOEXEC, 0o644)"), KEYS),
    guard("a key that others could read is mended", "router/admin/keys.py", ("os.fchmod(handle, 0o600)", "pass"), KEYS),
    guard("a key of another user's file is none", "router/admin/keys.py",
          ("or kept.st_uid not in (os.geteuid(), 0):", ":"), KEYS),
    guard("a key behind a link is none", "router/admin/keys.py",
          ("os.O_RDONLY | os.O_NOFOLLOW |", "os.O_RDONLY |"), KEYS),
    guard("an empty file is no key", "router/admin/keys.py", ("if len(key) < KEY_BYTES:", "if False:"), KEYS),
    guard("no key is no key's digest", "router/admin/keys.py",
          ("hmac.compare_digest(asked, self._operator) and self._operator != _NO_KEY",
           "hmac.compare_digest(asked, self._operator)"), KEYS),
    guard("a webhook's path is not told", "router/admin/plain_config.py", ("[_webhook(url) for url in", "[url for url in"), LOOKS),
    guard("an engine's key is not told", "router/admin/plain_config.py", ("HIDDEN if _SECRET_NAME", "each if _SECRET_NAME"), LOOKS),
    guard("a store's password is not told", "router/admin/status.py",
          ("set(query={}).render_as_string(hide_password=True)", "render_as_string(hide_password=False)"), LOOKS),
    guard("the clients' port has no admin API where it has its own", "router/app.py",
          ("self.admin if own_listener(parts.config.server) is None else elsewhere", "self.admin"), LISTENER),
    guard("who is ejected is not fit", "router/fitness.py", ("if health.state is State.EJECTED and not", "if False and not"), FIT),
    guard("who is draining is not fit", "router/fitness.py", ("if binding.backend.is_draining:", "if False:"), FIT),
    guard("who was never asked is asked", "router/fitness.py", ("and replica.probed_at_s is not None and", "and"), FIT),
    guard("who does not list the model is not fit", "router/fitness.py", ("if presence is Presence.MISSING else", "if False else"), FIT),
    *(Guard(name, file, old, new, (tests,)) for name, file, old, new, tests in GUARDS_OF_THE_STORE),
]  # fmt: skip


def is_missed(one: Guard, tree: Path) -> bool:
    """Whether a test fails without it. The tree is left as it was."""
    file = tree / one.file
    text = file.read_text()
    file.write_text(text.replace(one.old, one.new))
    env = {**os.environ, "PYTHONPATH": str(tree)}  # for what the tests start, too
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", "30", *one.tests]
    try:
        run = subprocess.run(command, check=False, cwd=tree, env=env, capture_output=True, text=True, timeout=RUN_S)
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_text(text)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.returncode == 1


def main(words: list[str]) -> int:
    """The command."""
    chosen = [one for one in GUARDS if not words or any(word in one.name for word in words)]
    unmissed = 0
    with tempfile.TemporaryDirectory(prefix="crossfade-guards-") as folder:
        tree = Path(folder) / "tree"
        skip = shutil.ignore_patterns(".git", ".venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=skip)
        for one in chosen:
            missed = is_missed(one, tree)
            unmissed += not missed
            print(f"{'missed' if missed else 'NOBODY MISSES IT'}: {one.name} ({one.file})", flush=True)
    print(f"{len(chosen) - unmissed} of {len(chosen)} guards are missed where they are gone")
    return 1 if unmissed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
