"""The demo's cast: who plays which part, on which port, by which command; and the configuration that names them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from backends.process import Command
from router.demo.install import RECIPES, gguf_in

MODEL = "smollm2"  # the public name


@dataclass(frozen=True, slots=True)
class Role:
    """A backend of the demo: its name and kind in the configuration, its own name for the model, and what it is in words."""

    name: str
    kind: str
    model: str
    title: str
    port: int

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"


def lmstudio(port: int) -> Role:
    """The baseline."""
    return Role(
        "lmstudio", "llama-server", "smollm2-135m-instruct", "llama.cpp's server, in the part of LM Studio", port
    )


def vllm(port: int) -> Role:
    """The candidate."""
    return Role("vllm", "vllm", "SmolLM2-135M-Instruct", "vLLM 0.32.0 on CPU, the candidate", port)


def standin(port: int) -> Role:
    """Who plays the candidate where vLLM cannot."""
    title = "a second llama.cpp server, standing in for vLLM"
    return Role("standin", "llama-server", "smollm2-135m-instruct", title, port)


def llama_command(role: Role, python: Path, folder: Path) -> Command:
    """llama.cpp's server: four calls at once with 2048 tokens each."""
    options = {"--model": gguf_in(python), "--alias": role.model, "--port": role.port, "--threads": _threads()}
    flat = (str(word) for option in options.items() for word in option)
    argv = (str(python), str(RECIPES / "llama_server.py"), *flat)
    # It finishes running streams silently after SIGTERM, for up to half a minute: nobody waits for that here.
    return Command(role.title, argv, folder / f"{role.name}.log", grace_s=2)


def vllm_command(role: Role, python: Path, model: Path, folder: Path) -> Command:
    """vLLM's server with the same context; eager, because compiling takes a minute and serves only longer lives."""
    options = {"--model": model, "--served-model-name": role.model, "--port": role.port, "--max-model-len": 2048}
    flat = (str(word) for option in options.items() for word in option)
    argv = (str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--enforce-eager", *flat)
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB: 46,592 tokens
    return Command(role.title, argv, folder / f"{role.name}.log", env)


def router_command(folder: Path) -> Command:
    """Crossfade itself, as anybody would start it on the file in `folder`."""
    argv = (sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(folder / "demo.yaml"))
    return Command("crossfade", argv, folder / "crossfade.log", cwd=folder)


def config_text(port: int, baseline: Role, candidate: Role) -> str:
    """The configuration as a person would write it."""
    return f"""\
# Two engines serve the same model; Crossfade gives each half of the callers, and lets each step in for the other.
# Written anew by every `crossfade demo`. To play with it: copy it, change it, `crossfade serve -c COPY`.

server:
  host: 127.0.0.1
  port: {port}
  drain_s: 3

backends:
  {baseline.name}:                  # {baseline.title}
    kind: {baseline.kind}
    url: {baseline.url}
  {candidate.name}:                  # {candidate.title}
    kind: {candidate.kind}
    url: {candidate.url}

models:
  {MODEL}:                   # the name that clients ask for
    on:                      # its name on each backend
      {baseline.name}: {baseline.model}
      {candidate.name}: {candidate.model}
    split: {{{baseline.name}: 0.5, {candidate.name}: 0.5}}
    stick_by: [header:x-user-id, user, conversation]   # the same user stays on the same backend
    fallback: [{baseline.name}, {candidate.name}]      # the backend that was chosen first is tried first; then this order
"""


def _threads() -> int:
    """One on two cores: llama.cpp's threads wait for each other by spinning, and there are others at work."""
    return 1 if (os.cpu_count() or 1) <= 2 else 2
