"""tvm_mobilenet makes a MobileNet run as fast as the silicon allows on a Raspberry Pi.

    import tvm_mobilenet as tm

    net = tm.compile(module, "rpi4", torch.zeros(1, 3, 224, 224))
    net.verify().require()
    print(net.latency())

Importing this package imports neither torch nor tvm: both cost seconds, and a board has no torch.
``docs/reference/api.md`` lists the parts of the API that stay stable.
"""

import importlib
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_mobilenet.api import compile, load, sweep, tune
    from tvm_mobilenet.cli.requests import ModelKeywords
    from tvm_mobilenet.compiled import Compiled
    from tvm_mobilenet.errors import (
        BoardError,
        MissingDependencyError,
        RegressionError,
        TvmMobilenetError,
        VerificationError,
    )
    from tvm_mobilenet.measuring.latency import Latency
    from tvm_mobilenet.models.options import ModelOptions

__all__ = [
    "BoardError",
    "Compiled",
    "Latency",
    "MissingDependencyError",
    "ModelKeywords",
    "ModelOptions",
    "RegressionError",
    "TvmMobilenetError",
    "VerificationError",
    "__version__",
    "compile",
    "load",
    "sweep",
    "tune",
]
__version__ = "0.1.0"

# Without this, ONNX Runtime keeps a device id in the user's cache and looks up its maker's host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a plain checkout `schedules`, `targets` and `tune_logs` lie beside this package; installed, they lie in it.
# Extending the path makes `tvm_mobilenet.schedules` the one name under which they are ever imported.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "schedules" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_HOMES = {  # modules of public names other than errors; all names not listed are functions of api.py
    "Compiled": "compiled",
    "Latency": "measuring.latency",
    "ModelKeywords": "cli.requests",
    "ModelOptions": "models.options",
}
_CALLED = ("sweep", "tune")  # modules of verbs that can also be called as functions
_METHODS = {  # the calls that stand for the other verbs in a program
    "build": "compile(model, target)",
    **{verb: f"load(folder).{verb}()" for verb in ("accuracy", "bench", "profile", "ship", "verify")},
}


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one of type Any

    def __getattr__(name: str) -> Any:
        if name in _CALLED:
            return importlib.import_module(f"{__name__}.{name}")
        if name in __all__:
            home = _HOMES.get(name, "errors" if name.endswith("Error") else "api")
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
        instead = f"; programs call {__name__}.{_METHODS[name]}" if name in _METHODS else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{instead}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Text(str):
    """An annotation that is kept as text; it is shown without quotes."""

    __repr__ = str.__str__


class _Called(types.ModuleType):
    # A verb's module: ``tvm_mobilenet.tune(...)`` is a call though ``tvm_mobilenet.tune`` is a module.
    # ``help`` and notebooks show its ``__doc__`` and ``__signature__``, so it has those of the function.

    def __call__(self, *args: Any, **how: Any) -> Any:
        return self._function(*args, **how)

    @property
    def _function(self) -> Any:
        return getattr(importlib.import_module(f"{__package__}.api"), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        import inspect

        lines, named = [], False
        for one in self.__signature__.parameters.values():
            lines += ["*"] if one.kind is one.KEYWORD_ONLY and not named else []
            named = named or one.kind is one.KEYWORD_ONLY
            lines.append(str(one.replace(annotation=_Text(one.annotation))))
        head = "".join(f"    {line},\n" for line in lines)
        result = _Text(self.__signature__.return_annotation)
        return f"{self._function.__name__}(\n{head}) -> {result}\n\n{inspect.getdoc(self._function)}"


class _Package(types.ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLED and isinstance(value, types.ModuleType):
            value.__class__ = _Called
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if sys.argv[:1] == ["-m"]:
    from tvm_mobilenet import packages

    packages.started_as_a_verb()
