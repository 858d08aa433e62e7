"""`python -m bench.overload`: ten times what a backend can do, for 30 s, and what becomes of it: goodput, waits, refusals, recovery.

A scripted backend with SLOTS slots of SERVICE_S each stands behind `crossfade serve`; each is a process of its own. Clients come at an even
pace whatever becomes of those before them (an open loop: clients that wait for their answers would not overload anything):

    normal    half the capacity
    overload  ten times the capacity, one call in forty of a person, the rest batch
    after     half the capacity again

Two runs: with the configuration's own queue (1024 places, 10 s), and with as many places in the queue as there are slots, for whoever
wants short waits under overload.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

SLOTS, SERVICE_S = 4, 0.05
CAPACITY_PER_S = SLOTS / SERVICE_S
LOAD = 10.0
PERSON_EVERY = 40  # a quarter of the capacity at tenfold load
WINDOW_S = 0.5  # in which "normal again" is looked for
START_S = 30.0
SERVE = "from router.cli import main; main()"  # this checkout's, wherever the script `crossfade` leads
BODY = b'{"model":"jane","messages":[{"role":"user","content":"hi"}]}'
ANSWER = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}'
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One call: when it came, how long it took to be answered, with what."""

    phase: str
    at_s: float
    took_s: float
    status: int
    is_person: bool


# -- The backend ---------------------------------------------------------------------------------------


async def backend() -> None:
    """Serve until the process is ended; a call that finds no slot waits for one, as an engine would let it."""
    slots = asyncio.Semaphore(SLOTS)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                if head.startswith(b"POST"):
                    async with slots:
                        await asyncio.sleep(SERVICE_S)
                body = ANSWER if head.startswith(b"POST") else b'{"object":"list","data":[{"id":"m"}]}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- The clients ---------------------------------------------------------------------------------------


class Clients:
    """Connections that are kept, and as many calls on their way as come."""

    def __init__(self, port: int):
        self.seen: list[Seen] = []
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def come(self, phase: str, per_s: float, for_s: float) -> float:
        """Calls at an even pace, until all are answered. Returns when the last one came."""
        began_s, count = time.monotonic(), 0
        calls = set()
        while (passed_s := time.monotonic() - began_s) < for_s:
            while count < passed_s * per_s:
                call = asyncio.create_task(self._call(phase, count % PERSON_EVERY == 0))
                calls.add(call)
                call.add_done_callback(calls.discard)
                count += 1
            await asyncio.sleep(0.001)
        ended_s = time.monotonic()
        self._left = calls
        return ended_s

    async def answered(self) -> None:
        """Wait for those of the last phase that are still on their way."""
        await asyncio.gather(*self._left)

    async def _call(self, phase: str, is_person: bool) -> None:
        at_s = time.monotonic()
        try:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            priority = b"interactive" if is_person else b"batch"
            writer.write(
                b"%bx-crossfade-priority: %b\r\ncontent-length: %d\r\n\r\n%b" % (head, priority, len(BODY), BODY)
            )
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            await reader.readexactly(int(length[1]) if length else 0)
            self._idle.append((reader, writer))
            status = int(answer[9:12])
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        self.seen.append(Seen(phase, at_s, time.monotonic() - at_s, status, is_person))

    def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()


# -- One run -------------------------------------------------------------------------------------------


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that is ended with the block."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def get(port: int, path: str) -> str:
    """The body of a GET on a connection of its own. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


async def free_port() -> int:
    """A port that nobody listens on now."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    return port


async def run(server: dict[str, object], phases_s: tuple[float, float, float], folder: Path) -> dict[str, object]:
    """The three phases against a router with these `server` keys."""
    async with process(sys.executable, "-m", "bench.overload", "--backend") as upstream:
        assert upstream.stdout is not None
        url = f"http://127.0.0.1:{int(await upstream.stdout.readline())}"
        port = await free_port()
        config = {
            "server": {"port": port, **server},
            "backends": {"a": {"kind": "openai", "url": url, "max_in_flight": SLOTS}},
            "models": {"jane": {"on": {"a": "m"}, "split": {"a": 1.0}}},
        }
        (folder / "overload.yaml").write_text(json.dumps(config))  # JSON is YAML
        async with process(sys.executable, "-c", SERVE, "serve", "-c", str(folder / "overload.yaml")):
            await started(port)
            clients = Clients(port)
            await clients.come("normal", CAPACITY_PER_S / 2, phases_s[0])
            began_s = time.monotonic()
            ended_s = await clients.come("overload", LOAD * CAPACITY_PER_S, phases_s[1])
            late = clients._left
            await clients.come("after", CAPACITY_PER_S / 2, phases_s[2])
            await asyncio.gather(clients.answered(), *late)
            metrics = await get(port, "/metrics")
            clients.close()
    return figures(clients.seen, (began_s, ended_s), metrics)


async def started(port: int) -> None:
    """Wait until the router answers."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                if " 200 " in (await get(port, "/health/ready"))[:20]:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)


# -- The figures ---------------------------------------------------------------------------------------


def figures(seen: list[Seen], overload_s: tuple[float, float], metrics: str) -> dict[str, object]:
    """What is reported; times in milliseconds."""
    began_s, ended_s = overload_s
    over = [each for each in seen if each.phase == "overload"]
    served = [each for each in over if each.status == 200]
    people = [each for each in over if each.is_person]
    done = sum(began_s <= each.at_s + each.took_s < ended_s and each.status == 200 for each in seen)
    refusals = {
        reason: int(float(count)) for reason, count in re.findall(r'reason="(\w+)"} ([\d.]+)', _refused(metrics))
    }
    return {
        "calls": len(over),
        "goodput of the capacity": round(done / ((ended_s - began_s) * CAPACITY_PER_S), 3),
        "normal, ms (p50, p99)": _ms([each for each in seen if each.phase == "normal"]),
        "served, ms (p50, p99)": _ms(served),
        "people served, of all": round(sum(each.status == 200 for each in people) / len(people), 4),
        "people served, ms (p50, p99)": _ms([each for each in people if each.status == 200]),
        "refused, ms (p50, p99)": _ms([each for each in over if each.status in (429, 503)]),
        "other answers": sum(each.status not in (200, 429, 503) for each in seen),
        "refused or expired at the backend's queue": refusals,
        "normal again after, s": _recovered_s([each for each in seen if each.phase == "after"], ended_s),
    }


def _refused(metrics: str) -> str:
    return "\n".join(line for line in metrics.splitlines() if line.startswith("crossfade_queue_refused_total"))


def _ms(calls: list[Seen]) -> list[float]:
    took = sorted(each.took_s for each in calls)
    return [round(1000 * took[int(share * (len(took) - 1))], 1) for share in (0.5, 0.99)] if took else []


def _recovered_s(after: list[Seen], ended_s: float) -> float:
    """When the last window ends in which a call was refused, or took more than twice the service."""
    bad = [each.at_s - ended_s for each in after if each.status != 200 or each.took_s > 2 * SERVICE_S]
    return WINDOW_S * (int(max(bad) / WINDOW_S) + 1) if bad else 0.0


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="Ten times a backend's capacity.")
    parser.add_argument("--backend", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the overload lasts (default: 30)")
    options = parser.parse_args()
    if options.backend:
        asyncio.run(backend())
        return 0
    runs = {"queue_size 1024, queue_wait_s 10": {}, f"queue_size {SLOTS}, queue_wait_s 10": {"queue_size": SLOTS}}
    with tempfile.TemporaryDirectory() as folder:
        for name, server in runs.items():
            found = asyncio.run(run(dict(server), (5.0, options.seconds, 15.0), Path(folder)))
            print(name, *(f"  {key}: {value}" for key, value in found.items()), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
