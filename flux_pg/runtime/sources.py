"""A project's own modules are compiled from their text each time they are imported.

Python takes a compiled file of `__pycache__` for current if the source has the same size and was
written in the same second. A fix that is saved twice, or a commit that bisect checks out after
another, can keep both: the code that ran would not be the code that is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.importlib import PathEntryFinderProtocol

_hooked: set[str] = set()


class FromSource(SourceFileLoader):
    """Loads a module from its text, whatever was compiled before; writes nothing."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def import_from_source(project_dir: Path) -> None:
    """Let imports that are found in a project be compiled anew; what is installed in it is not."""
    if str(project_dir) in _hooked:
        return
    _hooked.add(str(project_dir))
    sys.path_hooks.insert(0, _finder_for(project_dir))
    for path in [path for path in sys.path_importer_cache if _is_own(Path(path), project_dir)]:
        del sys.path_importer_cache[path]


def _finder_for(project_dir: Path) -> Callable[[str], PathEntryFinderProtocol]:
    make = FileFinder.path_hook(
        (FromSource, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
    )

    def find(path: str) -> PathEntryFinderProtocol:
        if not _is_own(Path(path), project_dir):
            raise ImportError("not in the project", path=path)
        return make(path)

    return find


def _is_own(path: Path, project_dir: Path) -> bool:
    """Whether a folder holds the project's own modules."""
    if not path.is_relative_to(project_dir) or path.is_relative_to(sys.prefix):
        return False
    return "site-packages" not in path.parts
