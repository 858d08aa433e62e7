"""llama.cpp's own HTTP server, as the wheel xllamacpp carries it. Runs by path in the engine's environment; no compiler needed."""

from __future__ import annotations

import argparse
import signal
import threading

import xllamacpp  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _options()
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.context  # divided over the slots
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = 64  # each open stream holds one; the default of cores - 1 would starve /health
    params.use_jinja = True
    params.endpoint_metrics = params.endpoint_slots = True
    stopped = threading.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: stopped.set())
    server = xllamacpp.Server(params)  # listens in threads of its own, for as long as the object lives
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201
    stopped.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="llama.cpp's HTTP server on one GGUF file.")
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--alias", required=True, help="the name that clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=4, help="calls that are answered at once; more are queued")
    parser.add_argument("--context", type=int, default=8192, help="tokens of all parallel calls together")
    return parser.parse_args()


if __name__ == "__main__":
    main()
