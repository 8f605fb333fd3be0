"""The matrix: lists that multiply, and what is added to and taken from their product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.records import STRICT, Cell

if TYPE_CHECKING:
    from pytest_llmperf.experiment.catalog import Catalog

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One name or a list of names."""

AXES = {"platform": "platforms", "hardware": "hardware", "method": "methods", "model": "models", "variant": "variants"}
"""A pattern's key for each axis of a cell, and the matrix's list of the same axis; in the order of a cell's id."""


@dataclass(frozen=True)
class CellPattern:
    """Names for some axes of a cell; an axis that is not given means any."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    platform: Names = ()
    hardware: Names = ()
    method: Names = ()
    model: Names = ()
    variant: Names = ()

    def names(self, axis: str) -> tuple[str, ...]:
        """The names given for an axis; empty for any."""
        return tuple(getattr(self, axis))

    def matches(self, cell: Cell) -> bool:
        """Whether every axis that is given holds the cell's name there."""
        of_cell = (cell.platform.name, cell.hardware.id, cell.method.name, cell.model.name, cell.variant.name)
        return all(not self.names(axis) or name in self.names(axis) for axis, name in zip(AXES, of_cell, strict=True))


@dataclass(frozen=True)
class Matrix:
    """Which cells an experiment has: the product of the lists, less ``exclude``, and then ``include``.

    An entry of ``exclude`` takes away every cell it matches. An entry of ``include`` adds cells, also ones that were
    excluded; the axes it does not give are the matrix's lists.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    platforms: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("standalone",)
    models: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("default",)
    include: tuple[CellPattern, ...] = ()
    exclude: tuple[CellPattern, ...] = ()

    def __post_init__(self) -> None:
        for name, entries in (("include", self.include), ("exclude", self.exclude)):
            if any(not any(entry.names(axis) for axis in AXES) for entry in entries):
                raise ValueError(f"an entry of '{name}' is empty")

    def names(self, axis: str) -> tuple[str, ...]:
        """The list of an axis, by a pattern's key for it."""
        return tuple(getattr(self, AXES[axis]))


def expand(matrix: Matrix, catalog: Catalog) -> tuple[Cell, ...]:
    """The matrix's cells in the order of its lists, each once; cells that cannot fit are among them (see ``fit``).

    Raises ``ConfigError`` for a name the catalog does not have, an ``exclude`` that takes nothing away, an ``include`` that
    leaves an axis open which has no list, and a matrix that yields no cell.
    """
    check_names(matrix, catalog)
    everything = CellPattern()
    cells = {cell.id: cell for cell in _cells(matrix, everything, catalog)}
    of_lists = len(cells)
    for index, pattern in enumerate(matrix.exclude):
        matching = [key for key, cell in cells.items() if pattern.matches(cell)]
        # Compared with the whole product: an entry may well repeat what an earlier one took.
        if not matching and not any(pattern.matches(cell) for cell in _cells(matrix, everything, catalog)):
            raise ConfigError(
                "takes nothing away: the lists' product has no such cell",
                where=_where(matrix, catalog, "exclude", index),
                hint="A name matches as a whole: 'h100' does not stand for 'h100x4'.",
            )
        for key in matching:
            del cells[key]
    for index, pattern in enumerate(matrix.include):
        _check_closed(matrix, pattern, _where(matrix, catalog, "include", index))
        cells.update((cell.id, cell) for cell in _cells(matrix, pattern, catalog))
    if not cells:
        raise ConfigError(_why_empty(matrix, of_lists), where=_where(matrix, catalog))
    return tuple(cells.values())


def check_names(matrix: Matrix, catalog: Catalog) -> None:
    """Whether the catalog has every name the matrix speaks of. Raises ``ConfigError`` for the first that it has not."""
    for axis, plural in AXES.items():
        for index, name in enumerate(matrix.names(axis)):
            _resolve(catalog, axis, name, _where(matrix, catalog, plural, index))
    for part, patterns in (("include", matrix.include), ("exclude", matrix.exclude)):
        for index, pattern in enumerate(patterns):
            for axis in AXES:
                for name in pattern.names(axis):
                    _resolve(catalog, axis, name, _where(matrix, catalog, part, index, axis))


def _resolve(catalog: Catalog, axis: str, name: str, where: Where | None) -> object:
    match axis:
        case "platform":
            return catalog.platform_named(name, where)
        case "hardware":
            return catalog.hardware_named(name, where)
        case "method":
            return catalog.method_named(name, where)
        case "model":
            return catalog.model_named(name, where)
        case _:
            return catalog.variant_named(name, where)


def _cells(matrix: Matrix, pattern: CellPattern, catalog: Catalog) -> Iterator[Cell]:
    """The product of what the pattern gives and, where it gives nothing, of the matrix's lists."""
    for platform, hardware, method, model, variant in product(*(pattern.names(axis) or matrix.names(axis) for axis in AXES)):
        yield Cell(
            catalog.platform_named(platform),
            catalog.hardware_named(hardware),
            catalog.method_named(method),
            catalog.model_named(model),
            catalog.variant_named(variant),
        )


def _check_closed(matrix: Matrix, pattern: CellPattern, where: Where | None) -> None:
    open_axes = [axis for axis in AXES if not pattern.names(axis) and not matrix.names(axis)]
    if open_axes:
        raise ConfigError(
            f"names no {open_axes[0]}, and the matrix has no list of {AXES[open_axes[0]]} to take it from", where=where
        )


def _why_empty(matrix: Matrix, of_lists: int) -> str:
    if of_lists:
        return f"matrix {matrix.name!r} yields no cell: its 'exclude' takes all {of_lists} away"
    empty = [plural for axis, plural in AXES.items() if not matrix.names(axis)]
    return f"matrix {matrix.name!r} yields no cell: {', '.join(repr(name) for name in empty)} is empty and 'include' adds none"


def _where(matrix: Matrix, catalog: Catalog, *path: str | int) -> Where | None:
    return catalog.where("matrix", matrix.name, *path)
