"""pandas, which MLflow's start imports for two annotations and its server hardly ever uses:

loaded on first use instead.

It is a seventh of the processor time of a whole start (docs/decisions/0011). Python's own ``importlib.util.LazyLoader``
won't do: until Python 3.12 two threads that use a module first at the same moment can see half of it (CPython issue
114763), and an annotation counts as a use.
"""

from __future__ import annotations

import sys
import threading
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Package → the modules of MLflow that mention it in annotations, and in types for annotations, while they are
#: imported, and use it in calls alone. tests/upstream/test_lazy.py holds the list against the installed MLflow.
PACKAGES: Mapping[str, frozenset[str]] = {
    "pandas": frozenset({"mlflow.data.pandas_dataset", "mlflow.models.utils", "mlflow.types.utils"})
}

_lock = threading.RLock()


class _LazyModule(ModuleType):
    """A package that isn't loaded yet. Any use of it loads it; an annotation at MLflow's start gets a stand-in."""

    def __getattr__(self, name: str) -> Any:
        # Looked up in the instance: the import system asks for names before it has set any.
        loader = self.__dict__.get("__loader__")
        if isinstance(loader, _LazyLoader) and loader.put_off:
            user = sys._getframe(1).f_globals.get("__name__")
            if loader.starting and user in PACKAGES[self.__name__]:
                return type(name, (), {"__module__": self.__name__})
            loader.load(self)
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _LazyLoader(Loader):
    """Puts off what the real loader would do."""

    def __init__(self, real: Loader) -> None:
        self.real = real
        self.starting = True
        self.put_off = False
        self._loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:  # noqa: ARG002
        """Do nothing yet."""
        self.put_off = True

    def load(self, module: ModuleType) -> None:
        """Load the package; another thread that uses it meanwhile waits, the package's own modules don't."""
        with _lock:
            if self._loading or not isinstance(module, _LazyModule):
                return
            self._loading = True
            try:
                self.real.exec_module(module)
            finally:
                self._loading = False
            if module.__spec__ is not None:
                module.__spec__.loader = self.real
            module.__loader__ = self.real
            module.__class__ = ModuleType  # type: ignore[assignment] # a plain module from now on


def _loader(package: str) -> _LazyLoader | None:
    """Return what will load a package, or None if it is loaded or was never asked for."""
    loader = getattr(getattr(sys.modules.get(package), "__spec__", None), "loader", None)
    return loader if isinstance(loader, _LazyLoader) else None


class _Finder(MetaPathFinder):
    """Finds the packages of the table, and says that they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package not in PACKAGES:
            return None
        if rest:
            # A module of the package is imported: the package itself comes first.
            if loader := _loader(package):
                loader.load(sys.modules[package])
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Put off the packages of the table, from now on (those that are loaded already stay)."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def started() -> None:
    """Say that MLflow is imported: from now on every use is a real one."""
    for name in PACKAGES:
        if loader := _loader(name):
            loader.starting = False
