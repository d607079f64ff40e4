"""Putting replacements into modules and types, and taking them out again.

A replacement function is a bound method of a `ShimModule`: like the built-in it replaces it does
not turn into a method when user code stores it on a class (`clock = time.time`), and it pickles as
the genuine function of that module.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any, TypeVar

from .originals import SHIM_MARK

F = TypeVar("F", bound=Callable[..., Any])

_MISSING = object()


class ShimModule:
    """The `self` of a module's replacement functions; pickles as the module itself."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return importlib.import_module, (self._module,)

    def __repr__(self) -> str:
        return f"<module {self._module!r}, recorded by flux>"


def disguise(shim: F, original: Callable[..., Any]) -> F:
    """Give `shim` the name and documentation of what it replaces, and a way back to it."""
    shim.__name__ = original.__name__
    shim.__qualname__ = getattr(original, "__qualname__", original.__name__)
    shim.__doc__ = original.__doc__
    setattr(shim, SHIM_MARK, original)
    return shim


def bind(shim: Any, original: Callable[..., Any], owner: ShimModule) -> Callable[..., Any]:
    """`shim` (a function whose first argument is ignored) as a replacement for `original`."""
    return MethodType(disguise(shim, original), owner)


class Patches:
    """Replacements made so far, undone in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: ModuleType | type | object, name: str, value: Any) -> None:
        """Set an attribute of a module, a Python class or an instance."""
        namespace = vars(owner)
        before = namespace.get(name, _MISSING)
        setattr(owner, name, value)
        if before is _MISSING:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))

    def set_builtin(self, owner: type, name: str, value: Any) -> None:
        """Set an attribute of a type written in C, which refuses `setattr`.

        Replacing the type by a subclass was rejected: `type(x) is datetime`, dispatch tables
        keyed by type, and annotations read by msgspec all tell the two apart. Its own dictionary
        is reached through the collector; PyType_Modified then drops every cached look-up.

        Raises:
            RuntimeError: This interpreter does not show the dictionary, or ignores the change.
        """
        namespaces = [d for d in gc.get_referents(vars(owner)) if type(d) is dict]
        if len(namespaces) != 1 or "__new__" not in namespaces[0] | vars(owner):
            raise RuntimeError(f"cannot reach the attributes of {owner!r}")
        namespace = namespaces[0]
        before = namespace.get(name, _MISSING)

        def put(item: Any) -> None:
            if item is _MISSING:
                namespace.pop(name, None)
            else:
                namespace[name] = item
            ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))

        put(value)
        self._undo.append(lambda: put(before))
        if vars(owner).get(name) is not value:
            raise RuntimeError(f"{owner!r} ignores a change of {name}")

    def set_class(self, instance: object, cls: type) -> None:
        """Change what an instance is, keeping its identity and state."""
        before = type(instance)
        instance.__class__ = cls
        self._undo.append(lambda: setattr(instance, "__class__", before))

    def undo(self) -> None:
        """Put everything back as it was."""
        while self._undo:
            self._undo.pop()()
