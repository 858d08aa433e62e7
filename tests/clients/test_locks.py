"""What the npm packages of the clients may say: exact versions, and no host that they would have to come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent
PACKAGES = pytest.mark.parametrize("package", ["nestjs", "sdks"])


def read(package: str, file: str) -> dict[str, Any]:
    """A JSON file of a package."""
    found: dict[str, Any] = json.loads((_HERE / package / file).read_text())
    return found


@PACKAGES
def test_every_version_is_exact(package: str) -> None:
    asked = read(package, "package.json")
    versions = {**asked["dependencies"], **asked.get("devDependencies", {})}
    assert [name for name, version in versions.items() if not version[0].isdigit()] == []


@PACKAGES
def test_a_lock_holds_a_digest_for_each_package_and_no_address_to_fetch_it_from(package: str) -> None:
    entries = {name: entry for name, entry in read(package, "package-lock.json")["packages"].items() if name}
    assert entries
    assert [name for name, entry in entries.items() if "integrity" not in entry or "resolved" in entry] == []
