"""The command line: ``atradiff COMMAND ...``, each command a typed function whose signature becomes its flags."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from atradiff.errors import RunFailed


@dataclass(frozen=True)
class Command:
    """``target`` is ``module:function``, imported when called; ``positional`` names its arguments without a flag, where
    a list takes one word or more.

    A function marked ``parses_itself`` takes the list of words: its flags are those of a configuration file.
    """

    target: str
    positional: tuple[str, ...] = ()
    parses_itself: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the function; this is where a command pays for its imports."""
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


COMMANDS: dict[tuple[str, ...], tuple[Command, str]] = {
    ("data", "import"): (
        Command("atradiff.data.commands:import_", ("src",)),
        "bring a D4RL, Minari or NumPy data set into a trajectory store",
    ),
    ("data", "collect"): (Command("cluster.commands:collect"), "roll a policy out and store its trajectories"),
    ("data", "info"): (Command("atradiff.data.commands:info", ("dir",)), "say what a trajectory store holds"),
    ("data", "join"): (
        Command("atradiff.data.commands:join", ("stores",)),
        "make one trajectory store of several tasks' stores",
    ),
    ("data", "export"): (Command("atradiff.data.commands:export", ("dir",)), "write a store as D4RL HDF5 or Minari"),
    ("fit",): (Command("atradiff.commands:fit_command"), "fit a diffuser to a trajectory store"),
    ("fidelity",): (Command("atradiff.report.commands:fidelity_command"), "measure how true a diffuser is"),
    ("train",): (Command("cluster.commands:train", parses_itself=True), "train an agent as a config file says"),
    ("compare",): (
        Command("cluster.commands:compare", parses_itself=True),
        "train with and without imagined trajectories",
    ),
    ("submit",): (Command("cluster.submit:submit", parses_itself=True), "train as a job of a Ray cluster"),
    ("tune",): (Command("cluster.tune:tune", parses_itself=True), "search settings with Ray Tune"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; errors that a person can mend end with status 1 and one message, without a traceback."""
    words = [_flag_name(word) for word in (sys.argv[1:] if argv is None else argv)]
    name = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS), None)
    if name is None:
        _print_overview(words)
        return
    try:
        run_command(name, words[len(name) :])
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ImportError, FloatingPointError, RunFailed) as error:
        if os.environ.get("ATRADIFF_DEBUG"):
            raise
        print(f"atradiff {' '.join(name)}: {error}", file=sys.stderr)
        sys.exit(1)


def run_command(name: tuple[str, ...], arguments: list[str]) -> Any:
    """Parse ``arguments`` by the signature of the command's function and call it."""
    command, _ = COMMANDS[name]
    function = command.load()
    if command.parses_itself:
        return function(arguments)
    parser = build_parser(name, command, function)
    parsed = parser.instantiate(parser.parse_args(arguments))
    return function(**{key: parsed[key] for key in inspect.signature(function).parameters})


def build_parser(name: tuple[str, ...], command: Command, function: Callable[..., Any]) -> ArgumentParser:
    """A parser with the function's positional arguments first and a flag for each other parameter."""
    parser = ArgumentParser(prog=f"atradiff {' '.join(name)}", description=summary_of(function))
    hints = get_type_hints(function)
    for argument in command.positional:
        several = get_origin(hints[argument]) is list
        words = {"type": get_args(hints[argument])[0], "nargs": "+"} if several else {"type": hints[argument]}
        parser.add_argument(argument, **words)
    parser.add_function_arguments(function, skip=set(command.positional), as_group=False, as_positional=False)
    return parser


def summary_of(function: Callable[..., Any]) -> str:
    """The docstring up to its ``Args:``, which become the help of each flag."""
    return (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]


def _flag_name(word: str) -> str:
    """``--cpu-minutes=1`` as ``--cpu_minutes=1``: flags are parameter names, and people type either dash."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _print_overview(words: list[str]) -> None:
    """The list of commands: asked for, or after a word that is none of them (then status 2)."""
    groups = {name[0] for name in COMMANDS if len(name) > 1}
    known = not words or words[0] in ("-h", "--help") or (words[0] in groups and words[1:] in ([], ["-h"], ["--help"]))
    out = sys.stdout if known else sys.stderr
    if not known:
        print(f"atradiff: there is no command '{' '.join(words[:2])}'.", file=out)
    print("usage: atradiff COMMAND ... (atradiff COMMAND --help says more)\n", file=out)
    for name, (_, summary) in COMMANDS.items():
        print(f"  {' '.join(name):<14} {summary}", file=out)
    if not known:
        sys.exit(2)


if __name__ == "__main__":
    main()
