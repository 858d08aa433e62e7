"""The proxies that are measured. To add one: a function that builds its command line, and its line in `PROXIES`.

Each runs as its operators run it, with one worker and without an access log; a proxy writes its files in `setup.folder`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.overhead.harness import BACKENDS_MODEL


@dataclass(frozen=True, slots=True)
class Setup:
    """What a proxy is given: a folder, the port to listen on, another for what else it may open, two equal upstreams' origins."""

    folder: Path
    port: int
    spare_port: int
    upstreams: tuple[str, ...]

    def write(self, name: str, text: str) -> str:
        """Write a file of the proxy's; returns its path."""
        file = self.folder / name
        file.write_text(text)
        return str(file)


Command = Callable[[Setup], list[str]]


@dataclass(frozen=True, slots=True)
class Proxy:
    """One row of the table. No `command`: the upstream itself. `lacks()` is "" or says what to install; `model` is the name in answers.

    `path` is where calls are sent.
    """

    name: str
    command: Command | None
    lacks: Callable[[], str] = lambda: ""
    model: str = BACKENDS_MODEL
    path: str = "/v1/chat/completions"


PASS_PATH = "/v1/score"  # one of `server.pass_paths` by default; the scripted upstream answers every path alike

# -- Crossfade ---------------------------------------------------------------------------------------


def _crossfade(setup: Setup) -> list[str]:
    """The flagship path: the public name differs from the backends', so that every answer and every chunk is rewritten."""
    return _serve(setup, report_model="public")


def _crossfade_pass(setup: Setup) -> list[str]:
    """The same, sent to a path whose answers are relayed as they are, and under the name that they have anyway: nothing is rewritten."""
    return _serve(setup, report_model="backend")


def _serve(setup: Setup, report_model: str) -> list[str]:
    """Everything on: two backends, callers kept on theirs by a header, a rule, fallback, retries, ejection, metrics."""
    names = ("baseline", "candidate")
    config = {
        "server": {"host": "127.0.0.1", "port": setup.port},
        "backends": {name: {"kind": "vllm", "url": url} for name, url in zip(names, setup.upstreams, strict=True)},
        "models": {
            "jane": {
                "on": dict.fromkeys(names, BACKENDS_MODEL),
                "split": dict.fromkeys(names, 0.5),
                "stick_by": ["header:x-user-id", "user", "conversation"],
                "rules": [{"when": {"header": {"x-canary": "always"}}, "use": "candidate"}],
                "fallback": list(names),
                "report_model": report_model,
            }
        },
    }
    return [str(_script("crossfade")), "serve", "-c", setup.write("crossfade.yaml", json.dumps(config))]  # JSON is YAML


def _lacks_crossfade() -> str:
    return "" if _script("crossfade").exists() else "crossfade is not installed in this environment: make install"


# -- others ------------------------------------------------------------------------------------------

NGINX_CONF = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log /dev/null crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 10000000; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream backends {{ {servers} keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""


def _nginx(setup: Setup) -> list[str]:
    servers = " ".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in setup.upstreams)
    conf = setup.write("nginx.conf", NGINX_CONF.format(folder=setup.folder, port=setup.port, servers=servers))
    return [_nginx_program() or "nginx", "-c", conf, "-e", "/dev/null"]


def _nginx_program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")  # Debian's place, not on every user's PATH


def _lacks_nginx() -> str:
    return "" if _nginx_program() else "nginx is not installed: apt-get install nginx-light"


def _passthrough(setup: Setup) -> list[str]:
    app = ["bench.overhead.passthrough:app", "--app-dir", str(Path(__file__).parents[2])]
    server = ["--host", "127.0.0.1", "--port", str(setup.port), "--loop", "uvloop", "--http", "httptools"]
    program = ["/usr/bin/env", f"UPSTREAM={setup.upstreams[0]}", sys.executable, "-m", "uvicorn"]
    return [*program, *app, *server, "--no-access-log", "--log-level", "error"]


def _lacks_aiohttp() -> str:
    is_there = importlib.util.find_spec("aiohttp") is not None
    return "" if is_there else "aiohttp is not installed in this environment: pip install -e '.[bench]'"


def _vllm_router(setup: Setup) -> list[str]:
    program = shutil.which("vllm-router") or "vllm-router"
    own = ["--host", "127.0.0.1", "--port", str(setup.port), "--policy", "round_robin", "--log-level", "error"]
    metrics = [
        "--prometheus-host",
        "127.0.0.1",
        "--prometheus-port",
        str(setup.spare_port),
        "--worker-startup-check-interval",
        "1",
    ]
    return [program, *own, *metrics, "--worker-urls", *setup.upstreams]


def _lacks_vllm_router() -> str:
    remedy = "pip install vllm-router, in an environment of its own, and put its vllm-router on PATH"
    return "" if shutil.which("vllm-router") else f"vllm-router is not on PATH: {remedy}"


def _script(name: str) -> Path:
    """A command of the environment that runs this."""
    return Path(sys.executable).with_name(name)


PROXIES = {
    proxy.name: proxy
    for proxy in (
        Proxy("direct", None),
        Proxy("nginx", _nginx, _lacks_nginx),
        Proxy("vllm-router", _vllm_router, _lacks_vllm_router),
        Proxy("raw-asgi-aiohttp", _passthrough, _lacks_aiohttp),
        Proxy("crossfade-pass", _crossfade_pass, _lacks_crossfade, path=PASS_PATH),
        Proxy("crossfade", _crossfade, _lacks_crossfade, model="jane"),
    )
}
