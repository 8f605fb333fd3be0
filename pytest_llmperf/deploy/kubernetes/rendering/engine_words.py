"""A manifest's command line of ``vllm serve`` and what a cell makes of it: the cell's options win, the others stay."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.deploy.engine_command import DECIDED, PARALLEL, engine_arguments
from pytest_llmperf.deploy.engine_options import Option, base_name, is_option, options_of, value_of
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import masked_words

_SHELLS = {"sh", "bash", "dash", "ash", "zsh"}
_SHELLS_SCRIPT = re.compile(r"-\w*c")
_QUOTED = re.compile(r"""'[^']*'|"[^"$`\\]*\"""")
_MEANS_SOMETHING = re.compile(r"""[;&|<>$`(){}*?~#\n"'\\\[]""")
"""What a shell does more with than hand it on, outside of quotes."""
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_AS_WORDS = 'Write the engine\'s words as a list: command: [vllm, serve], args: [MODEL, "--max-model-len=16384"].'


@dataclass(frozen=True)
class EngineWords:
    """A command line taken apart. ``command`` is what stands before the model; empty where the image begins the engine itself."""

    command: tuple[str, ...]
    model: str | None
    """As a word of its own; None where ``--model`` names it, or nothing does."""
    options: tuple[Option, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the command."""
        model = () if self.model is None else (self.model,)
        return (*model, *(word for option in self.options for word in option))

    @property
    def names_model_by_option(self) -> bool:
        """Whether the model belongs behind ``--model``: ``vllm serve`` wants it as its first word, older servers do not."""
        return self.command[-1:] != ("serve",) and (self.command[-1:] == (_SERVER_MODULE,) or self.value("model") is not None)

    def value(self, name: str) -> str | None:
        """An option's value; None where it is not given."""
        return next((value_of(option) for option in self.options if base_name(option[0]) == name), None)


def taken_apart(command: Sequence[str], args: Sequence[str], where: Where) -> EngineWords:
    """A container's command line of an engine. Raises ``ConfigError`` where the engine's words cannot be told from others."""
    written = [*command, *args]
    words = _without_shell(written, where)
    # A program of another kind is all that stands in the command; a shell's was all before the first option.
    before = len(command) if words == written else next((at for at, word in enumerate(words) if is_option(word)), len(words))
    start = next((at + 1 for at, word in enumerate(words) if word in ("serve", _SERVER_MODULE)), before)
    rest = words[start:]
    model = rest.pop(0) if rest and not is_option(rest[0]) else None
    found = EngineWords(tuple(words[:start]), model, options_of(rest))
    if model is not None or found.value("model") is not None:
        return found
    if command and words[start - 1] not in ("serve", _SERVER_MODULE):
        problem = f"the engine's command ({' '.join(masked_words(command))}) does not say its model"
        raise ConfigError(problem, where=where, hint=_AS_WORDS)
    if any(len(option) > 1 for option in found.options):
        # vLLM knows which of its options have no value; here its model would be left behind one of them, and be one too many.
        raise ConfigError("the engine's model stands neither before its options nor behind --model", where=where, hint=_AS_WORDS)
    return found


def for_cell(words: EngineWords, cell: Cell, port: int) -> EngineWords:
    """The command line that serves the cell at ``port`` of all addresses. Raises ``ConfigError``."""
    wanted = engine_arguments(cell)
    # How the model is spread follows from the hardware, also where that needs no option.
    replaced = {*DECIDED, *PARALLEL, *map(base_name, wanted)}
    kept = [option for option in words.options if base_name(option[0]) not in replaced]
    ours = [(f"--served-model-name={cell.model.name}",), ("--host=0.0.0.0",), (f"--port={port}",)]
    repository: str | None = cell.model.repository
    if words.names_model_by_option:
        ours.insert(0, (f"--model={repository}",))
        repository = None
    return EngineWords(words.command, repository, (*ours, *kept, *((word,) for word in wanted)))


def _without_shell(words: list[str], where: Where) -> list[str]:
    """The words of a command that a shell would only hand on: ``sh -c "vllm serve …"``. Raises ``ConfigError`` for a script."""
    if not words or words[0].rpartition("/")[2] not in _SHELLS:
        return words
    script = words[2].replace("\\\n", " ").strip() if len(words) == 3 and _SHELLS_SCRIPT.fullmatch(words[1]) else ""
    plain = not _MEANS_SOMETHING.search(_QUOTED.sub("", script))
    found = shlex.split(script) if plain else []
    # NAME=VALUE before a command is a shell's as well.
    if not found or "=" in found[0]:
        problem = f"the engine's command is a script for {words[0]}: what a cell asks for cannot be put into it"
        raise ConfigError(problem, where=where, hint=_AS_WORDS)
    return found[1:] if found[0] == "exec" else found
