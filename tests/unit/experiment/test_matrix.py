"""The matrix: lists multiply, ``exclude`` takes away, ``include`` adds, and a matrix without cells is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import CellPattern, Matrix, expand

CATALOG = load_catalog([builtin_directory()])


def ids(matrix: Matrix) -> list[str]:
    return [cell.id for cell in expand(matrix, CATALOG)]


def test_lists_multiply_in_their_order() -> None:
    matrix = Matrix("m", platforms=("gke", "eks"), hardware=("l4", "h100x2"), models=("llama-3.1-8b",))
    assert ids(matrix) == [
        "gke_l4_standalone_llama-3.1-8b",
        "gke_h100x2_standalone_llama-3.1-8b",
        "eks_l4_standalone_llama-3.1-8b",
        "eks_h100x2_standalone_llama-3.1-8b",
    ]


def test_include_takes_what_it_does_not_give_from_the_lists() -> None:
    matrix = Matrix(
        "m",
        platforms=("gke", "eks"),
        hardware=("l4",),
        models=("llama-3.1-8b",),
        include=(CellPattern(hardware=("h100",), variant=("fp8",)),),
    )
    assert ids(matrix)[2:] == ["gke_h100_standalone_llama-3.1-8b_fp8", "eks_h100_standalone_llama-3.1-8b_fp8"]


def test_include_adds_back_what_exclude_took() -> None:
    matrix = Matrix(
        "m",
        platforms=("gke",),
        hardware=("l4", "h100"),
        models=("llama-3.1-8b",),
        exclude=(CellPattern(platform=("gke",)),),
        include=(CellPattern(hardware=("h100",)),),
    )
    assert ids(matrix) == ["gke_h100_standalone_llama-3.1-8b"]


def test_include_alone_is_enough() -> None:
    pattern = CellPattern(platform=("ocp",), hardware=("t4",), model=("llama-3.2-3b",))
    assert ids(Matrix("m", include=(pattern,))) == ["ocp_t4_standalone_llama-3.2-3b"]


def test_an_entry_may_repeat_what_an_earlier_one_took() -> None:
    matrix = Matrix(
        "m",
        platforms=("gke", "eks"),
        hardware=("l4",),
        models=("llama-3.1-8b",),
        exclude=(CellPattern(platform=("gke",)), CellPattern(platform=("gke",), hardware=("l4",))),
    )
    assert ids(matrix) == ["eks_l4_standalone_llama-3.1-8b"]


AXIS_NAMES = {
    "platforms": tuple(CATALOG.platforms),
    "hardware": ("h100", "h100x4", "l4", "t4"),
    "models": tuple(CATALOG.models),
    "variants": tuple(CATALOG.variants),
}


def some(axis: str, least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(AXIS_NAMES[axis]), min_size=least, max_size=4).map(tuple)


MATRICES = st.builds(
    Matrix,
    st.just("m"),
    platforms=some("platforms"),
    hardware=some("hardware"),
    models=some("models"),
    variants=some("variants"),
)


@given(MATRICES)
def test_the_product_has_every_combination_once(matrix: Matrix) -> None:
    cells = expand(matrix, CATALOG)
    expected = len(set(matrix.platforms)) * len(set(matrix.hardware)) * len(set(matrix.models)) * len(set(matrix.variants))
    assert len(cells) == len({cell.id for cell in cells}) == expected
    assert expand(matrix, CATALOG) == cells


@given(MATRICES, some("hardware"), some("models", least=0))
def test_exclude_takes_exactly_what_matches(matrix: Matrix, hardware: tuple[str, ...], models: tuple[str, ...]) -> None:
    everything = expand(matrix, CATALOG)
    pattern = CellPattern(hardware=hardware, model=models)
    kept = [c.id for c in everything if c.hardware.id not in hardware or (models and c.model.name not in models)]
    less = Matrix("m", matrix.platforms, matrix.hardware, matrix.methods, matrix.models, matrix.variants, exclude=(pattern,))
    if len(kept) == len(everything):
        with pytest.raises(ConfigError, match="takes nothing away"):
            expand(less, CATALOG)
    elif not kept:
        with pytest.raises(ConfigError, match=f"its 'exclude' takes all {len(everything)} away"):
            expand(less, CATALOG)
    else:
        assert [cell.id for cell in expand(less, CATALOG)] == kept


def catalog_with(directory: Path, matrix: str) -> Catalog:
    directory.mkdir()
    (directory / "matrix.yaml").write_text(matrix)
    return load_catalog([builtin_directory(), directory])


LISTS = "mine:\n  platforms: [gke]\n  hardware: [h100x4]\n  models: [llama-3.1-8b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mine:\n  platforms: [gke]\n  hardware:\n    - h100\n    - h101\n  models: [llama-3.1-8b]\n",
            "mine/matrix.yaml:5: mine.hardware[1]: unknown hardware 'h101'\n  Did you mean 'h100'? Known: a100-40gb, ",
        ),
        (
            "mine: {platforms: [gke], hardware: [h100x3], models: [llama-3.1-8b]}\n",
            "mine/matrix.yaml:1: mine.hardware[0]: unknown hardware 'h100x3': h100 does not come in that number\n  Known: h100, ",
        ),
        (
            LISTS.replace("models:", "modles:"),
            "mine/matrix.yaml:4: mine.modles: unknown key 'modles'\n  Did you mean 'models'? Known: exclude, hardware, include, ",
        ),
        (
            LISTS.replace("[gke]", "gke"),
            "mine/matrix.yaml:2: mine.platforms: must be a list, not 'gke'",
        ),
        (
            LISTS + "  exclude:\n    - hardwear: h100\n",
            "mine/matrix.yaml:6: mine.exclude[0].hardwear: unknown key 'hardwear'\n  Did you mean 'hardware'? "
            "Known: hardware, method, model, platform, variant.",
        ),
        (
            LISTS + "  include:\n    - {hardware: h100, model: lama-3.1-8b}\n",
            "mine/matrix.yaml:6: mine.include[0].model: unknown model 'lama-3.1-8b'\n  Did you mean 'llama-3.1-8b'? Known: ",
        ),
        (
            LISTS + "  exclude: [{}]\n",
            "mine/matrix.yaml:1: mine: an entry of 'exclude' is empty",
        ),
        (
            LISTS + "  exclude: h100\n",
            "mine/matrix.yaml:5: mine.exclude: must be a list, not 'h100'",
        ),
    ],
)
def test_bad_matrices_are_refused_when_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        catalog_with(tmp_path / "mine", text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mine: {platforms: [gke], models: [llama-3.1-8b]}\n",
            "mine/matrix.yaml:1: mine: matrix 'mine' yields no cell: 'hardware' is empty and 'include' adds none",
        ),
        (
            LISTS + "  exclude: [{platform: gke}]\n",
            "mine/matrix.yaml:1: mine: matrix 'mine' yields no cell: its 'exclude' takes all 1 away",
        ),
        (
            LISTS + "  exclude:\n    - hardware: h100\n",
            "mine/matrix.yaml:6: mine.exclude[0]: takes nothing away: the lists' product has no such cell\n"
            "  A name matches as a whole: 'h100' does not stand for 'h100x4'.",
        ),
        (
            "mine:\n  platforms: [gke]\n  include:\n    - hardware: h100\n",
            "mine/matrix.yaml:4: mine.include[0]: names no model, and the matrix has no list of models to take it from",
        ),
    ],
)
def test_matrices_without_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = catalog_with(tmp_path / "mine", text)
    with pytest.raises(ConfigError) as caught:
        expand(catalog.matrix_named("mine"), catalog)
    assert str(caught.value) == message


def test_a_matrix_made_by_hand_is_checked_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        expand(Matrix("m", platforms=("gkee",), hardware=("h100",), models=("llama-3.1-8b",)), CATALOG)
    assert str(caught.value) == "unknown platform 'gkee'\n  Did you mean 'gke'? Known: eks, eks-auto, gke, k8s, ocp."
