"""Which of kzoo's files a module is made of: itself and all that it imports, wherever in the file it does so."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import kzoo

_PACKAGE = "kzoo"
_ROOT = Path(kzoo.__file__).parent.parent
#: What fetches from the Hub decides no result: a recipe names the sha256 of whatever comes.
_FETCHING = "kzoo.hub.models"


def import_closure(module: str) -> list[Path]:
    """The files of the package that ``module`` needs, sorted.

    What is imported for types only does not count, nor what fetches from the Hub.
    """
    found: dict[Path, None] = {}
    waiting = [module]
    while waiting:
        path = _file_of(name) if (name := waiting.pop()) != _FETCHING else None
        if path is not None and path not in found:
            found[path] = None
            waiting += _imports(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found)


def code_digest(module: str) -> str:
    """SHA-256 of the files of `import_closure`."""
    digest = hashlib.sha256()
    for path in import_closure(module):
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _file_of(name: str) -> Path | None:
    """The file of a module of the package; None for anything else, such as a function in one."""
    if name.partition(".")[0] != _PACKAGE:
        return None
    place = _ROOT.joinpath(*name.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imports(child)
