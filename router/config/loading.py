"""From a file to a configuration, or to all of its problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from router.config import pending, references, wording
from router.config.document import MAX_BYTES, Document, Unreadable, read
from router.config.parts import Section
from router.config.problems import ConfigInvalid, Finding, KeyPath, Problem, dotted
from router.config.root import Config
from router.config.server import Server, Store

SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, and what its operator should know about it."""

    config: Config
    notices: tuple[Problem, ...]


class _Whereabouts(Section):
    """The sections that a router's address, keys and state follow from."""

    server: Server = Field(default_factory=Server)
    store: Store = Field(default_factory=Store)


def load(path: Path, env: Mapping[str, str]) -> Loaded:
    """Reads a configuration file. Raises ConfigInvalid with every problem that it has."""
    return load_content(content_of(path), path, env)


def content_of(path: Path) -> bytes:
    """What stands in the file, as far as it can be a configuration. Raises ConfigInvalid where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = getattr(exc, "strerror", None) or str(exc)
        raise _unusable(str(path), 0, f"The file cannot be read: {reason}.", "Name a file with -c FILE.") from exc


def load_whereabouts(path: Path, env: Mapping[str, str]) -> tuple[Server, Store]:
    """Where a router listens and what it keeps, by a file that may be wrong elsewhere, or whose variables are not all set here.

    Raises ConfigInvalid where just that cannot be told.
    """
    content = content_of(path)
    try:
        document = read(content.decode("utf-8-sig", "replace"), env)
        tree = document.tree if isinstance(document.tree, dict) else {}
        found = _Whereabouts.model_validate({name: tree[name] for name in _Whereabouts.model_fields if name in tree})
        return found.server, _beside(found.store, path)
    except Unreadable as exc:
        raise _unusable(str(path), exc.line, exc.message, exc.remedy) from exc
    except ValidationError as exc:
        raise ConfigInvalid(_problems(str(path), document, wording.findings(exc.errors(include_url=False)))) from exc


def load_content(content: bytes, path: Path, env: Mapping[str, str]) -> Loaded:
    """The configuration that `content`, read from `path`, is. Raises ConfigInvalid with every problem that it has."""
    try:
        text = content.decode("utf-8-sig", "replace" if len(content) > MAX_BYTES else "strict")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise _unusable(str(path), line, "The file is not UTF-8 text here.", "Save it as UTF-8.") from exc
    loaded = loads(text, env, str(path))
    store = _beside(loaded.config.store, path)
    return Loaded(loaded.config.model_copy(update={"store": store}), loaded.notices)


def _beside(store: Store, path: Path) -> Store:
    """A store without a folder of its own lies beside the file, wherever who reads it was started.

    By the name that the file was given: a mounted ConfigMap is a link, to another folder after each change.
    """
    name = store.url.removeprefix(SQLITE)
    if name == store.url or name.startswith("/"):
        return store
    return store.model_copy(update={"url": f"{SQLITE}{path.absolute().parent / name}"})


def loads(text: str, env: Mapping[str, str], file_name: str = "<text>") -> Loaded:
    """Reads a configuration from text; `file_name` stands in the problems. Raises ConfigInvalid."""
    try:
        document = read(text, env)
    except Unreadable as exc:
        raise _unusable(file_name, exc.line, exc.message, exc.remedy) from exc
    config: Config | None = None
    found = list(document.findings)
    try:
        config = Config.model_validate(document.tree)
    except ValidationError as exc:
        found += wording.findings(exc.errors(include_url=False))
    found += references.findings(document.tree, env)
    if config is None or found:
        raise ConfigInvalid(_problems(file_name, document, found))
    notices = [*references.warnings(document.tree, env), *pending.notices(document.tree)]
    return Loaded(config, _problems(file_name, document, notices))


def _unusable(file_name: str, line: int, message: str, remedy: str) -> ConfigInvalid:
    return ConfigInvalid((Problem(file_name, line, "", message, remedy),))


def _problems(file_name: str, document: Document, found: Iterable[Finding]) -> tuple[Problem, ...]:
    """The findings with their places, in the order of the file; of several at one key only the first one."""
    first: dict[KeyPath, Finding] = {}
    for finding in found:
        first.setdefault(finding.path, finding)
    problems = [_problem(file_name, document.line(path), finding) for path, finding in first.items()]
    return tuple(sorted(problems, key=lambda problem: problem.line))


def _problem(file_name: str, line: int, finding: Finding) -> Problem:
    key = dotted(finding.path)
    subject = key or "The configuration"
    return Problem(file_name, line, key, f"{subject} {finding.message}", finding.remedy)
