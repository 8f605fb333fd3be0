"""What an engine must be told to serve a cell: vLLM's arguments, and the command line of one on this machine."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.experiment.records import Cell

HOST = "127.0.0.1"
OPTION = "--llmperf-engine-command"
DEFAULT_COMMAND = "vllm serve {model} --served-model-name={served_model} --host={host} --port={port} {args}"
PLACEHOLDERS = ("model", "served_model", "host", "port", "args")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
"""A name in braces, so that JSON (``{"method": "ngram"}``) in a command is left as it is."""
DECIDED = ("model", "served-model-name", "host", "port")
"""Engine arguments that the target itself decides: they follow from the model and from where the engine runs."""
_SIM_VARIABLES = "LLMPERF_SIM_"
PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
"""Engine arguments that say how a model is spread over accelerators."""
_OPTION_OF_PRECISION: Mapping[str, str] = {
    "bf16": "--dtype=bfloat16",
    "fp16": "--dtype=float16",
    "fp8": "--quantization=fp8",
}


@dataclass(frozen=True)
class EngineCommand:
    """A command whose words may hold placeholders: ``{model}``, ``{served_model}``, ``{host}``, ``{port}``, ``{args}``."""

    words: tuple[str, ...]

    @property
    def takes_arguments(self) -> bool:
        """Whether the cell's engine arguments have a place in it."""
        return any("{args}" in word for word in self.words)

    def filled(self, cell: Cell, port: int) -> tuple[str, ...]:
        """The command of a cell. Raises ``ConfigError`` where the cell asks for what the command has no place for."""
        arguments = engine_arguments(cell)
        if arguments and not self.takes_arguments:
            raise ConfigError(
                f"the command has no place for what {cell.id} asks of its engine: {shlex.join(arguments)}",
                where=Where(option=OPTION),
                hint="Add {args} where the engine takes its arguments.",
            )
        values = {"model": cell.model.repository, "served_model": cell.model.name, "host": HOST, "port": str(port)}
        return tuple(_filled(self.words, values, arguments))


def parse_command(text: str | None) -> EngineCommand:
    """The command that was given, or vLLM's. Raises ``ConfigError`` for one that cannot serve any cell."""
    where = Where(option=OPTION)
    try:
        words = tuple(shlex.split(text if text is not None else DEFAULT_COMMAND))
    except ValueError as error:
        raise ConfigError(f"cannot be split into words: {error}", where=where, hint="Check its quotes.") from None
    if not words:
        raise ConfigError("the command is empty", where=where, hint=f"By default it is: {DEFAULT_COMMAND}")
    names = [name for word in words for name in _PLACEHOLDER.findall(word)]
    for name in names:
        if name not in PLACEHOLDERS:
            raise unknown("placeholder", name, PLACEHOLDERS, where)
    if "port" not in names:
        raise ConfigError(
            "the command has no {port}", where=where, hint="Each cell's engine gets a free port: add --port={port} or its like."
        )
    return EngineCommand(words)


def find_program(name: str) -> tuple[str, str | None]:
    """Where a program lies, and the folder to put on its ``PATH`` where it was found beside Python only.

    A virtual environment need not be activated for its programs to be found. Raises ``ConfigError``.
    """
    if (found := shutil.which(name)) is not None:
        return found, None
    beside = str(Path(sys.executable).parent)
    if (found := shutil.which(name, path=beside)) is not None:
        return found, beside
    # No suggestion: among all programs of a machine, the nearest name is hardly ever the one that was meant.
    install = "Install vLLM beside pytest (pip install vllm)" if name == "vllm" else "Install it"
    raise ConfigError(
        f"the program {name!r} is not on this machine's PATH",
        where=Where(option=OPTION),
        hint=f"{install}, or give {OPTION} a command that begins with the path of an engine's program.",
    )


def engine_arguments(cell: Cell) -> tuple[str, ...]:
    """What vLLM must be told to serve the cell besides its model, name and address. Raises ``ConfigError``."""
    _check_environment(cell)
    given = dict(_given(cell))
    parallel = _tensor_parallel(cell, given)
    return (*parallel, *_precision(cell, given), *given.values())


def _filled(words: tuple[str, ...], values: Mapping[str, str], arguments: tuple[str, ...]) -> Iterator[str]:
    known = {**values, "args": shlex.join(arguments)}
    for word in words:
        if word == "{args}":
            yield from arguments
        else:
            yield _PLACEHOLDER.sub(lambda match: known[match[1]], word)


def _given(cell: Cell) -> Iterator[tuple[str, str]]:
    """The variant's arguments, each under its name without ``no-``, as an option. Raises ``ConfigError``."""
    seen: set[str] = set()
    for key, value in cell.variant.engine_args.items():
        # Behind a dot stands a key of a JSON argument (compilation-config.cache_dir), which keeps its underscores.
        head, dot, rest = key.partition(".")
        name = head.replace("_", "-") + dot + rest
        base = name.removeprefix("no-") if isinstance(value, bool) else name
        if base in DECIDED:
            raise _refused(cell, key, "is decided by the target")
        if base in seen:
            raise _refused(cell, key, "is set twice")
        seen.add(base)
        yield base, _option(name, base, value)


def _option(name: str, base: str, value: str | int | float | bool) -> str:
    """vLLM's switches come in pairs, ``--x`` and ``--no-x``; all else is ``--name=value``."""
    if not isinstance(value, bool):
        return f"--{name}={value}"
    is_on = value == (name == base)
    return f"--{base}" if is_on else f"--no-{base}"


def _tensor_parallel(cell: Cell, given: Mapping[str, str]) -> tuple[str, ...]:
    """The option that spreads the model over the cell's accelerators, where the variant does not set it itself."""
    sizes = []
    for name in PARALLEL:
        value = cell.variant.engine_arg(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise _refused(cell, name, f"is not a number of accelerators: {value!r}")
        sizes.append(value)
    tensor, count = sizes[0], cell.hardware.count
    others = (sizes[1] or 1) * (sizes[2] or 1)
    if tensor is None and count % others == 0:
        return () if count == others else (f"--{PARALLEL[0]}={count // others}",)
    if tensor is not None and tensor * others == count:
        return ()
    named = ", ".join(option for name, option in given.items() if name in PARALLEL)
    raise ConfigError(
        f"{named} does not use the {count} accelerators of {cell.hardware.id}",
        where=_where(cell),
        hint="Leave --tensor-parallel-size out: it follows the hardware.",
    )


def _precision(cell: Cell, given: Mapping[str, str]) -> tuple[str, ...]:
    """The option for a number format that the checkpoint does not have already."""
    precision = cell.precision
    if precision == cell.model.precision or "quantization" in given:
        return ()
    if precision in ("bf16", "fp16") and "dtype" in given:
        return ()
    if precision == "int4":
        raise ConfigError(
            f"{cell.model.repository} is a checkpoint in {cell.model.precision}: an engine does not make int4 of it",
            where=_where(cell),
            hint="Name a checkpoint in int4 in the model's 'repository', with 'precision: int4'.",
        )
    return (_OPTION_OF_PRECISION[precision],)


def _check_environment(cell: Cell) -> None:
    for name in cell.variant.env:
        if name.startswith(_SIM_VARIABLES):
            raise ConfigError(
                "changes the simulator only; an engine would not know it",
                where=Where(key=f"variant {cell.variant.name}.env.{name}"),
                hint="Leave the variant out (-k), or run it with --llmperf-target=sim.",
            )


def _where(cell: Cell) -> Where:
    return Where(key=f"variant {cell.variant.name}")


def _refused(cell: Cell, argument: str, problem: str) -> ConfigError:
    return ConfigError(f"the engine argument {argument!r} {problem}", where=_where(cell))
