"""Tests of backends run on the event loop that the router runs on: sockets behave differently on another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    """uvloop for what speaks HTTP; child processes are supervised from asyncio's own loop too, where the demo runs."""
    return (
        {"asyncio": asyncio.new_event_loop} if item.path.stem == "test_process" else {"uvloop": uvloop.new_event_loop}
    )
