"""What tests share is made without anybody's patches: else a file is broken by whichever test ran first."""

import contextlib
import inspect
import os
import sys
import weakref
from collections.abc import Iterator

from pytest import MonkeyPatch

NOTSET = inspect.signature(MonkeyPatch.delattr).parameters["name"].default  # pytest's word for an absent value

_made: list[weakref.ref] = []  # all objects that patch, in the order in which they were made


def record() -> None:
    """Remember all objects that patch from now on: pytest's own, which it makes before it collects tests, are none."""
    real = MonkeyPatch.__init__

    def init(self) -> None:
        real(self)
        _made.append(weakref.ref(self))

    MonkeyPatch.__init__ = init


@contextlib.contextmanager
def without() -> Iterator[None]:
    """While the block runs, all that tests and fixtures patched with `MonkeyPatch` is as before. Also a decorator."""
    again = []
    for patch in (ref() for ref in reversed(_made)):
        if patch is not None:
            again += _undone(patch)
    try:
        yield
    finally:
        for do in reversed(again):
            do()


def _undone(patch: MonkeyPatch) -> Iterator:
    """Take back one object's patches; what makes each of them again."""
    for target, name, old in reversed(patch._setattr):
        now = vars(target).get(name, NOTSET) if inspect.isclass(target) else getattr(target, name, NOTSET)
        _set_attribute(target, name, old)
        yield lambda target=target, name=name, now=now: _set_attribute(target, name, now)
    for target, name, old in reversed(patch._setitem):
        now = target.get(name, NOTSET)
        _set_item(target, name, old)
        yield lambda target=target, name=name, now=now: _set_item(target, name, now)
    if patch._savesyspath is not None:
        path = sys.path[:]
        sys.path[:] = patch._savesyspath
        yield lambda: sys.path.__setitem__(slice(None), path)
    if patch._cwd:
        here = os.getcwd()
        os.chdir(patch._cwd)
        yield lambda: os.chdir(here)


def _set_attribute(target: object, name: str, value: object) -> None:
    if value is NOTSET:
        with contextlib.suppress(AttributeError):
            delattr(target, name)
    else:
        setattr(target, name, value)


def _set_item(target, name, value: object) -> None:
    if value is NOTSET:
        target.pop(name, None)
    else:
        target[name] = value
