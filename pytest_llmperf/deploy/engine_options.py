"""The words of an engine's command line as options: names however they are spelt, and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Option = tuple[str, ...]
"""One option with its values: ``("--port=8000",)``, ``("--lora-modules", "a=/a", "b=/b")``."""
_SHORT: Mapping[str, str] = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "q": "quantization",
}


def is_option(word: str) -> bool:
    """A negative number is a value."""
    return word.startswith("-") and not word[1:2].isdigit()


def options_of(words: Sequence[str]) -> tuple[Option, ...]:
    """Words as options, each with the values that follow it."""
    options: list[list[str]] = []
    for word in words:
        if is_option(word) or not options:
            options.append([word])
        else:
            options[-1].append(word)
    return tuple(tuple(option) for option in options)


def base_name(word: str) -> str:
    """``--no-enable-prefix-caching`` -> ``enable-prefix-caching``; ``-tp`` -> ``tensor-parallel-size``; ``--max_num_seqs=8``."""
    head, dot, rest = word.partition("=")[0].lstrip("-").partition(".")
    head = head.replace("_", "-").removeprefix("no-")
    return _SHORT.get(head, head) + dot + rest


def value_of(option: Option) -> str:
    """What is given with an option: behind its equals sign, or as words of their own."""
    _, equals, value = option[0].partition("=")
    return value if equals else " ".join(option[1:])
