"""Real engines for a whole session, brought by the product's own installer: two llama.cpp servers, and one vLLM where it is asked for."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backends.process import Command
from router.demo import roles
from router.demo.cache import cache_root
from router.demo.install import Installer, gguf_in
from router.demo.machine import free_ports
from router.demo.progress import Progress, Steps
from router.demo.roles import Role
from tests.engines.engine import Engine

LLAMA = roles.lmstudio(0).model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engines write their logs."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def installer(folder: Path) -> Installer:
    return Installer(cache_root(os.environ), Steps("tests", Progress(print, threading.Event()), folder), os.environ)


@pytest.fixture(scope="session")
def llama_python(installer: Installer) -> Path:
    return installer.llama()


@pytest.fixture(scope="session")
def left_server(llama_python: Path, folder: Path) -> Iterator[Engine]:
    yield from _llama("left", llama_python, folder)


@pytest.fixture(scope="session")
def right_server(llama_python: Path, folder: Path) -> Iterator[Engine]:
    yield from _llama("right", llama_python, folder)


@pytest.fixture(scope="session")
def vllm_server(installer: Installer, llama_python: Path, folder: Path) -> Iterator[Engine]:
    python = installer.vllm()
    model = installer.model(python, gguf_in(llama_python))
    role = roles.vllm(free_ports(1)[0])
    command = roles.vllm_command(role, python, model, folder)
    stores = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}  # in its memory; without it no response can be gone on from
    with _kept(role, replace(command, env={**command.env, **stores})) as engine:
        yield engine


@pytest.fixture(scope="session")
def gpt_oss_server(installer: Installer, folder: Path) -> Iterator[Engine]:
    """A toy of gpt-oss's architecture on vLLM: the real one's format and tokens, and noise for an answer."""
    python = installer.vllm()
    model = folder / "tiny-gpt-oss"
    subprocess.run([str(python), str(Path(__file__).with_name("tiny_gpt_oss.py")), str(model)], check=True)
    role = Role("gpt-oss", "vllm", "tiny-gpt-oss", "a toy of gpt-oss's architecture on vLLM", free_ports(1)[0])
    command = roles.vllm_command(role, python, model, folder)
    options = ("--load-format", "dummy", "--reasoning-parser", "openai_gptoss", "--tool-call-parser", "openai")
    with _kept(role, replace(command, argv=(*command.argv, *options))) as engine:
        yield engine


# Each test gets its engines well, whatever the one before did to them.


@pytest.fixture
def left(left_server: Engine) -> Engine:
    left_server.ensure()
    return left_server


@pytest.fixture
def right(right_server: Engine) -> Engine:
    right_server.ensure()
    return right_server


@pytest.fixture
def vllm(vllm_server: Engine) -> Engine:
    vllm_server.ensure()
    return vllm_server


@pytest.fixture
def gpt_oss(gpt_oss_server: Engine) -> Engine:
    gpt_oss_server.ensure()
    return gpt_oss_server


def _llama(name: str, python: Path, folder: Path) -> Iterator[Engine]:
    role = Role(name, "llama-server", LLAMA, f"llama.cpp's server {name}", free_ports(1)[0])
    with _kept(role, roles.llama_command(role, python, folder)) as engine:
        yield engine


@contextmanager
def _kept(role: Role, command: Command) -> Iterator[Engine]:
    engine = Engine(role, command)
    try:
        yield engine
    finally:
        engine.stop()
