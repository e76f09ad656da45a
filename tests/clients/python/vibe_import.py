"""Makes the model adapters of mistral-vibe importable from its unpacked wheel, without installing it.

Python 3.12 imports them as they are. Older ones know neither `type X = …` nor `def f[T](…)`; for these a loader
rewrites such lines, which changes no behaviour: aliases are plain assignments, type parameters are dropped, and
TypedDict is that of typing_extensions. Nothing else of the sources is touched. The packages' `__init__` files pull in the whole agent (and a native
module), so empty packages stand in for them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import re
import sys
import types
import typing
from pathlib import Path

import typing_extensions

PACKAGE = "mistralai_vibe_local_harness"
OLD = sys.version_info < (3, 12)


def _for_old_python(source):
    source = re.sub(r"^type (\w+)(\[[^\]]*\])? = ", r"\1 = ", source, flags=re.M)
    return re.sub(r"^(\s*(?:async )?def \w+|class \w+)\[[^\]]*\]", r"\1", source, flags=re.M)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        source = _for_old_python(Path(path).read_text(encoding="utf-8"))
        # Annotations stay text, for they may name the type parameters that are gone.
        return compile(source, path, "exec", flags=annotations.compiler_flag, dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package's modules below `root`, as files that the loader rewrites."""

    def __init__(self, root):
        self.root = root

    def find_spec(self, name, path=None, target=None):
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            return None
        place = self.root.joinpath(*name.split("."))
        if place.is_dir():
            loader, origin, folders = _Loader(name, str(place / "__init__.py")), str(place / "__init__.py"), [str(place)]
        else:
            file = str(place) + ".py"
            if not Path(file).is_file():
                return None
            loader, origin, folders = _Loader(name, file), file, None
        spec = importlib.machinery.ModuleSpec(name, loader, origin=origin, is_package=folders is not None)
        spec.has_location = True
        spec.submodule_search_locations = folders
        return spec


def install(unpacked):
    """`unpacked` is the folder of the package's sources."""
    root = Path(unpacked)
    if not (root / PACKAGE).is_dir():
        raise FileNotFoundError(f"{root} has no {PACKAGE}")
    for name in [PACKAGE, f"{PACKAGE}.vibe", f"{PACKAGE}.vibe.adapters"]:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package
    if OLD:
        # pydantic cannot read the old one of typing.
        typing.TypedDict = typing_extensions.TypedDict
        sys.meta_path.insert(0, _Finder(root))
