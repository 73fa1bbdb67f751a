"""The parser of a verb's arguments, whose errors say which flag was meant.

A flag that this verb lacks may be misspelt, or belong to another verb; a value may not fit, or be missing. Each mistake
gives one sentence, a remedy and exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys

from tvm_mobilenet import __version__, old_words
from tvm_mobilenet.cli.verbs import command
from tvm_mobilenet.errors import nearest
from tvm_mobilenet.terminal import stdout

_KINDS = {int: "a whole number", float: "a number"}


class VerbParser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose errors tell a remedy."""

    def __init__(self, verb: str, description: str, **kwargs):
        super().__init__(prog=command(verb), description=description, allow_abbrev=False, **kwargs)
        self.verb = verb
        self.add_argument("--version", action="version", version=__version__, help="print the version, and stop")

    @property
    def flags(self) -> list[str]:
        """The long flags of this verb."""
        return [f for action in self._actions for f in action.option_strings if f.startswith("--")]

    def parse_args(self, args=None, namespace=None):
        """Parse as argparse does; an argument that is not understood ends the process with a message and exit code 2.

        The result also has ``given``, a frozenset of the flags on the command line.
        """
        args = given = self._in_flags_of_today(sys.argv[1:] if args is None else list(args))
        flags = [a.partition("=")[0] for a in given[: given.index("--") if "--" in given else None]]
        known = set(self._option_string_actions)
        for flag in flags:
            if flag.startswith("--") and flag not in known:
                self._end(f"{self.verb} has no flag {flag}", self._meant(flag))
        parsed, left = self.parse_known_args(args, namespace)
        if left:
            flag = left[0]
            self._end(f"{self.verb} does not take {flag!r}", self._meant(flag))
        parsed.given = self._given(args)
        return parsed

    def _in_flags_of_today(self, given: list[str]) -> list[str]:
        """The arguments with flags of earlier versions replaced by today's names; stderr names them."""
        made = []
        for argument in given:
            flag, equals, value = argument.partition("=")
            today = old_words.FLAGS.get(flag)
            if today in self.flags and flag not in self.flags and "--" not in made:
                print(f"note: {flag} is called {today} now", file=sys.stderr)
                argument = today + equals + value
            made.append(argument)
        return made

    def _given(self, args) -> frozenset[str]:
        """The flags on the command line. A second parse without defaults finds them, even a value that equals its
        default."""
        defaults, kept = self._defaults, [(action, action.default) for action in self._actions]
        self._defaults = {}
        try:
            for action in self._actions:
                action.default = argparse.SUPPRESS
            found = vars(self.parse_known_args(args)[0])
        finally:
            self._defaults = defaults
            for action, default in kept:
                action.default = default
        return frozenset(flag for a in self._actions if a.dest in found for flag in a.option_strings)

    def error(self, message: str):
        """Report argparse's error as a sentence."""
        message = message.removeprefix("argument ")
        for action in self._actions:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            if action.required and re.search(rf"required: (.*, )?{re.escape(name)}(,|$)", message):
                message = f"{name if name.startswith('-') else name.upper()} is missing: {action.help}"
        if found := re.fullmatch(r"(\S+): expected (one argument|at least one argument|\d+ arguments)", message):
            named = [a.metavar for a in self._actions if found[1].split("/")[0] in a.option_strings and a.metavar]
            message = f"{found[1]} needs a value" + "".join(f", {name}" for name in named)
        self._end(message, f"{self.prog} --help lists its arguments")

    def _print_message(self, message, file=None):
        # argparse itself keeps silent where help or a version cannot be written
        if file is sys.stdout:
            with stdout.arriving():
                stdout.write(message.removesuffix("\n"))
        else:
            super()._print_message(message, file)

    def _end(self, message: str, hint: str):
        self.exit(2, f"error: {message}\n  {hint}\n")

    def _meant(self, word: str) -> str:
        """A hint at what the user may have meant by a word that this verb does not know."""
        help_ = f"{self.prog} --help lists its arguments"
        if not word.startswith("-"):
            near = f"--{word}" if f"--{word}" in self.flags else ""
            if not near and "--model" in self.flags and _names_a_model(word):
                near = f"--model {word}"
            return f"did you mean {near}?" if near else help_
        near = nearest(word, self.flags, 0.75)
        others = [] if near else [verb for verb, flags in _flags_of_verbs().items() if word in flags]
        if others:
            return f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it; {help_}"
        return f"did you mean {near}?" if near else help_

    def _get_value(self, action, arg_string):
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as e:
            kind = self._registry_get("type", action.type, action.type)
            text = (kind.__doc__ or "").partition("An argparse type: ")[2].split("\n")[0].rstrip(".").replace("``", "")
            wanted = _KINDS.get(kind) or text
            if isinstance(e.__context__, argparse.ArgumentTypeError) or not wanted:
                raise
            raise argparse.ArgumentError(action, f"{arg_string!r} is not {wanted}") from None

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            near = nearest(str(value).lower(), [str(c) for c in action.choices], 0.5)
            near = near or nearest(str(value).upper(), [str(c) for c in action.choices], 0.5)
            raise argparse.ArgumentError(
                action,
                f"{value!r} is none of {', '.join(map(str, action.choices))}" + f"; did you mean {near}?" * bool(near),
            )


def _flags_of_verbs() -> dict[str, list[str]]:
    from tvm_mobilenet.cli.verbs import verbs

    found = {}
    for verb in verbs():
        parser = getattr(importlib.import_module(f"tvm_mobilenet.{verb}"), "parser", None)
        if parser is not None:
            found[verb] = parser().flags
    return found


def _names_a_model(word: str) -> bool:
    from tvm_mobilenet.models import registry
    from tvm_mobilenet.models.options import FILES

    return word.endswith(tuple(FILES)) or registry.is_known(word)
