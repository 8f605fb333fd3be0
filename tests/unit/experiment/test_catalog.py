"""The catalog: records from files, later directories over earlier ones, and one clear error for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def load(directory: Path, files: dict[str, str]) -> Catalog:
    """The built-in catalog with ``files`` over it."""
    return load_catalog([builtin_directory(), write(directory, files)])


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's catalog directory, named ``mine`` in errors."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def refusal(directory: Path, files: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(directory, files)
    return str(caught.value)


HARDWARE = """\
title: NVIDIA B200
memory: 179Gi
bandwidth: 8TB/s
bf16_flops: 2250T
fp8_flops: 4500T
interconnect: nvlink-h100
power_watts: 1000
"""
MODEL = """\
title: Tiny
repository: example/tiny
params_total: 1B
params_active: 1B
layers: 2
hidden_size: 64
heads: 8
kv_heads: 2
head_dim: 8
vocab_size: 100
max_model_len: 2048
"""
WORKLOAD = "title: Mine\ninput: {mean: 100}\noutput: {mean: 10}\n"


def test_a_record_of_the_users_is_added(mine: Path) -> None:
    catalog = load(mine, {"hardware/b200.yaml": HARDWARE})
    b200 = catalog.hardware_named("b200")
    assert (b200.name, b200.memory, b200.bandwidth) == ("b200", 179 * 2**30, 8e12)
    assert "h100" in catalog.hardware


def test_a_later_directory_overrides_by_name(mine: Path) -> None:
    catalog = load(mine, {"slas/interactive-chat.yaml": "ttft: {p50: 5s}\n", "hardware.yml": f"l4:\n  {indented(HARDWARE)}"})
    assert [t.limit for t in catalog.sla_named("interactive-chat").thresholds] == [5.0]
    assert catalog.hardware["l4"].title == "NVIDIA B200"
    assert catalog.where("hardware", "l4", "title") == Where("mine/hardware.yml", 2, "l4.title")


def test_a_price_overrides_by_hardware_and_platform(mine: Path) -> None:
    prices = "- {hardware: h100, platform: eks, per_gpu: $1/h, source: our contract, date: 2026-01-31}\n"
    catalog = load(mine, {"prices.yaml": prices})
    price = catalog.price_of(catalog.hardware_named("h100x8"), catalog.platforms["eks"])
    assert price is not None
    assert (price.per_gpu, price.date) == (1.0, "2026-01-31")
    l4 = catalog.price_of(catalog.hardware["l4"], catalog.platforms["eks"])
    assert l4 is not None
    assert l4.per_gpu == 0.805


def test_no_price_is_none(mine: Path) -> None:
    catalog = load(mine, {"hardware/b200.yaml": HARDWARE})
    assert catalog.price_of(catalog.hardware["b200"], catalog.platforms["gke"]) is None


def test_a_name_may_be_repeated_but_not_contradicted(mine: Path) -> None:
    assert "b200" in load(mine, {"hardware/b200.yaml": f"name: b200\n{HARDWARE}"}).hardware
    assert "mine" in load(mine, {"slas/mine.yaml": "name: mine\nttft: {p50: 1s}\n"}).slas
    text = refusal(mine, {"hardware/b200.yaml": f"name: b300\n{HARDWARE}"})
    assert text == "mine/hardware/b200.yaml:1: name: must be 'b200', as its place says, not 'b300'"


def test_other_files_are_left_alone(mine: Path) -> None:
    loaded = load(
        mine,
        {
            "users.yaml": "[not, a, catalog",
            "data/x.yaml": "- 1",
            "modules/x.json": "1",
            "hardware/README.md": "# x",
            "notes.txt": "x",
        },
    )
    assert set(loaded.hardware) == set(load(mine, {}).hardware)


def indented(text: str) -> str:
    return text.replace("\n", "\n  ")


KNOWN_HARDWARE = (
    "Known: bandwidth, bf16_flops, counts, efficiency, engine_class, fp8_flops, interconnect, memory, name, node_labels, "
    "power_watts, resource, supports_bf16, title."
)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"hardware/b200.yaml": HARDWARE.replace("179Gi", "179")},
            "mine/hardware/b200.yaml:1: 'memory' is only 179 bytes: is its unit missing (80Gi)?",
        ),
        (
            {"hardware/b200.yaml": HARDWARE.replace("memory", "memroy")},
            f"mine/hardware/b200.yaml:2: memroy: unknown key 'memroy'\n  Did you mean 'memory'? {KNOWN_HARDWARE}",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "count: 4\n"},
            f"mine/hardware/b200.yaml:8: count: unknown key 'count'\n  Did you mean 'counts'? {KNOWN_HARDWARE}",
        ),
        (
            {"hardware.yaml": f"# mine\nb200:\n  {indented(HARDWARE.replace('memory: 179Gi', 'memory: 179 gigs'))}"},
            "mine/hardware.yaml:4: b200.memory: '179 gigs' has the unknown unit 'gigs'; a size in bytes is written like "
            "'16Gi' or '80G' (units: B, k, K, M, G, T, Ki, Mi, Gi, Ti)",
        ),
        (
            {"hardware/b200.yaml": HARDWARE.replace("8TB/s", "8000")},
            "mine/hardware/b200.yaml:3: bandwidth: 8000 has no unit; a bandwidth is written like '3.35TB/s' or '864GB/s' "
            "(units: B/s, MB/s, GB/s, TB/s)",
        ),
        (
            {"hardware/b200.yaml": HARDWARE.replace("nvlink-h100", "nvlink-h10")},
            "mine/hardware/b200.yaml:6: interconnect: 'nvlink-h10' is not one of nvlink-h100, nvlink-a100, pcie4, pcie3, none; "
            "did you mean 'nvlink-h100'?",
        ),
        (
            {"hardware/b200.yaml": HARDWARE.replace("title: NVIDIA B200\n", "")},
            "mine/hardware/b200.yaml:1: the key 'title' is missing",
        ),
        (
            {"hardware.yaml": f"\nb200:\n  {indented(HARDWARE.replace('memory: 179Gi', ''))}"},
            "mine/hardware.yaml:2: b200: the key 'memory' is missing",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "node_labels:\n  gkee: nvidia-b200\n"},
            "mine/hardware/b200.yaml:9: node_labels.gkee: unknown platform 'gkee'\n"
            "  Did you mean 'gke'? Known: eks, eks-auto, gke, k8s, ocp.",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "node_labels: {gke: 200}\n"},
            "mine/hardware/b200.yaml:8: node_labels.gke: must be text, not the number 200; put it in quotes",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "counts: []\n"},
            "mine/hardware/b200.yaml:1: 'counts' needs at least one number, each 1 or more",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "counts: 4\n"},
            "mine/hardware/b200.yaml:8: counts: must be a list, not 4",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "counts:\n  - 1\n  - two\n"},
            "mine/hardware/b200.yaml:10: counts[1]: must be a whole number, not 'two'",
        ),
        (
            {"hardware/b200.yaml": HARDWARE.replace("1000", "a lot")},
            "mine/hardware/b200.yaml:7: power_watts: must be a number, not 'a lot'",
        ),
        (
            {"hardware/b200.yaml": HARDWARE + "supports_bf16: maybe\n"},
            "mine/hardware/b200.yaml:8: supports_bf16: must be true or false, not 'maybe'",
        ),
        ({"hardware/b200.yaml": "- title\n"}, "mine/hardware/b200.yaml:1: must be a mapping of keys to values, not a list"),
        ({"hardware/b200.yaml": "title: [\n"}, "mine/hardware/b200.yaml:2: not YAML: did not find expected node content"),
        ({"hardware/b200.yaml": ""}, "mine/hardware/b200.yaml: the file is empty"),
        ({"hardware.yaml": "- title\n"}, "mine/hardware.yaml:1: must be a mapping of names to records"),
        ({"hardware.yaml": "b200:\n"}, "mine/hardware.yaml:1: b200: must be a mapping of keys to values, not nothing"),
        (
            {"hardware.yaml": f"b200:\n  {indented(HARDWARE)}", "hardware/b200.yaml": HARDWARE},
            "mine/hardware.yaml:1: b200: hardware 'b200' is defined twice (first in mine/hardware/b200.yaml:1)",
        ),
        (
            {"models/tiny.yaml": MODEL.replace("kv_heads: 2", "kv_heads: 3")},
            "mine/models/tiny.yaml:1: 'heads' (8) must be a multiple of 'kv_heads' (3)",
        ),
        (
            {"models/tiny.yaml": MODEL.replace("layers: 2", "layers: 0")},
            "mine/models/tiny.yaml:1: 'layers' must be 1 or more",
        ),
        (
            {"models/tiny.yaml": MODEL.replace("active: 1B", "active: 2B")},
            "mine/models/tiny.yaml:1: 'params_active' must be more than 0 and at most 'params_total'",
        ),
        (
            {"models/tiny.yaml": MODEL + "experts_per_token: 1\n"},
            "mine/models/tiny.yaml:1: 'experts_per_token' (1) is more than 'experts' (0)",
        ),
        (
            {"models/tiny.yaml": MODEL + "precision: fp9\n"},
            "mine/models/tiny.yaml:12: precision: 'fp9' is not one of bf16, fp16, fp8, int4; did you mean 'fp8'?",
        ),
        (
            {"platforms.yaml": "aks:\n  title: x\n  accelerator_label: y\n  tolerations:\n    - {key: z, opperator: Exists}\n"},
            "mine/platforms.yaml:5: aks.tolerations[0].opperator: unknown key 'opperator'\n"
            "  Did you mean 'operator'? Known: effect, key, operator, value.",
        ),
        (
            {"variants.yaml": "mine:\n  engine_args:\n    max-num-seqs: [1]\n"},
            "mine/variants.yaml:3: mine.engine_args.max-num-seqs: must be text, not a list",
        ),
        (
            {"methods.yaml": "stand-alone: {title: x, manifests: y}\n"},
            "mine/methods.yaml:1: stand-alone: 'stand-alone' is not one of standalone, kustomize, helm, llm-d, kserve; "
            "did you mean 'standalone'?",
        ),
    ],
)
def test_bad_records(mine: Path, files: dict[str, str], message: str) -> None:
    assert refusal(mine, files) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            WORKLOAD + "sla: interactive-chta\n",
            "mine/workloads/mine.yaml:4: sla: unknown SLA 'interactive-chta'\n  Did you mean 'interactive-chat'? "
            "Known: agentic, classification, ",
        ),
        (
            WORKLOAD + "turns:\n  count: {mean: 3}\n  input: {mean: 50, maen: 3}\n",
            "mine/workloads/mine.yaml:6: turns.input.maen: unknown key 'maen'\n  Did you mean 'mean'? "
            "Known: cv, distribution, max, mean, min.",
        ),
        (
            WORKLOAD + "shared_prefix:\n  tokens: 200\n",
            "mine/workloads/mine.yaml:1: 'shared_prefix.tokens' (200) is more than the shortest input (100); raise 'input.min'",
        ),
        (
            WORKLOAD + "shared_prefix: {tokens: 0}\n",
            "mine/workloads/mine.yaml:4: shared_prefix: 'tokens' and 'groups' must be 1 or more",
        ),
        (
            WORKLOAD.replace("{mean: 10}", "{mean: 10, distribution: lognormal}"),
            "mine/workloads/mine.yaml:3: output: a lognormal distribution needs a 'cv' (sd / mean) of more than 0",
        ),
        (
            WORKLOAD.replace("{mean: 10}", "{mean: 10, cv: 0.5}"),
            "mine/workloads/mine.yaml:3: output: 'cv' belongs to a lognormal distribution, not to a fixed one",
        ),
        (
            WORKLOAD.replace("{mean: 10}", "{mean: 10, min: 11}"),
            "mine/workloads/mine.yaml:3: output: 'mean' (10) is less than 'min' (11)",
        ),
        (
            WORKLOAD.replace("{mean: 10}", "{mean: 10, max: 9}"),
            "mine/workloads/mine.yaml:3: output: 'mean' (10) is more than 'max' (9)",
        ),
        (
            WORKLOAD.replace("{mean: 10}", "{mean: 10, min: 0}"),
            "mine/workloads/mine.yaml:3: output: 'min' must be 1 or more",
        ),
        (
            WORKLOAD + "warmup: 2\n",
            "mine/workloads/mine.yaml:4: warmup: 2 has no unit; a duration is written like '500ms', '30s' or '1m30s' "
            "(units: ns, us, µs, ms, s, m, min, h)",
        ),
    ],
)
def test_bad_workloads(mine: Path, text: str, message: str) -> None:
    assert refusal(mine, {"workloads/mine.yaml": text}).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft:\n  p99: 1 sec\n", "mine/slas/mine.yaml:2: ttft.p99: '1 sec' has the unknown unit 'sec'; "),
        (
            "ttft:\n  p50: 1s\ntopt:\n  p95: 50ms\n",
            "mine/slas/mine.yaml:4: topt.p95: unknown metric 'topt'; did you mean 'tpot'? ",
        ),
        ("ttft:\n  q99: 1s\n", "mine/slas/mine.yaml:2: ttft.q99: ttft needs a statistic such as p50, "),
        ("ttft: 1s\n", "mine/slas/mine.yaml:1: ttft: ttft needs a statistic: write ttft: {p99: 1s}"),
        (
            "error_rate: {p99: 1%}\n",
            "mine/slas/mine.yaml:1: error_rate.p99: error_rate has one value a run, so no statistic 'p99'",
        ),
        ("error_rate: '>= 1%'\n", "mine/slas/mine.yaml:1: error_rate: error rate is better when lower: write '<= 1%'"),
        ("output_tokens_per_s: <= 5/s\n", "mine/slas/mine.yaml:1: output_tokens_per_s: output tokens/s is better when higher: "),
        ("- 1s\n", "mine/slas/mine.yaml:1: must be a mapping of metrics to limits"),
        ("{}\n", "mine/slas/mine.yaml:1: an SLA needs at least one limit"),
    ],
)
def test_bad_slas(mine: Path, text: str, message: str) -> None:
    assert refusal(mine, {"slas/mine.yaml": text}).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- {hardware: h101, platform: eks, per_gpu: $1/h, source: x, date: y}\n",
            "mine/prices.yaml:1: [0].hardware: unknown hardware 'h101'\n  Did you mean 'h100'? Known: a100-40gb, ",
        ),
        (
            "- hardware: h100\n  platform: esk\n  per_gpu: $1/h\n  source: x\n  date: y\n",
            "mine/prices.yaml:2: [0].platform: unknown platform 'esk'\n"
            "  Did you mean 'eks'? Known: eks, eks-auto, gke, k8s, ocp.",
        ),
        (
            "- {hardware: h100, platform: eks, per_gpu: 1, source: x, date: y}\n",
            "mine/prices.yaml:1: [0].per_gpu: 1 is not a price; write it like '$2.10/h'",
        ),
        (
            "- {hardware: h100, platform: eks}\n",
            "mine/prices.yaml:1: [0]: the key 'per_gpu' is missing",
        ),
        (
            "- {hardware: h100, platform: eks, per_gpu: $1/h, source: x, date: y}\n" * 2,
            "mine/prices.yaml:2: [1]: price 'h100 on eks' is defined twice (first in mine/prices.yaml:1)",
        ),
        ("h100: $1/h\n", "mine/prices.yaml:1: must be a list of prices"),
        ("- $1/h\n", "mine/prices.yaml:1: [0]: must be a mapping of keys to values, not '$1/h'"),
    ],
)
def test_bad_prices(mine: Path, text: str, message: str) -> None:
    assert refusal(mine, {"prices.yaml": text}).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("workload/chat.yaml", "mine/workload: a catalog has no 'workload'; did you mean 'workloads'?"),
        ("matrices.yaml", "mine/matrices.yaml: a catalog has no 'matrices'; did you mean 'matrix'?"),
        ("Hardware/h100.yaml", "mine/Hardware: a catalog has no 'Hardware'; did you mean 'hardware'?"),
    ],
)
def test_a_mistyped_file_is_not_passed_over(mine: Path, name: str, message: str) -> None:
    assert refusal(mine, {name: "x: 1\n"}) == message


def test_missing_directory(mine: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mine: the catalog directory does not exist$"):
        load_catalog([mine])


def test_workload_without_an_sla(mine: Path) -> None:
    catalog = load(mine, {"workloads/mine.yaml": WORKLOAD})
    with pytest.raises(ConfigError) as caught:
        catalog.sla_for(catalog.workload_named("mine"))
    assert str(caught.value).startswith(
        "mine/workloads/mine.yaml:1: workload 'mine' names no SLA\n  Add 'sla:' to it. Known: agentic, "
    )


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog([builtin_directory()])


def test_counts_of_hardware(catalog: Catalog) -> None:
    assert catalog.hardware_named("h100").count == 1
    four = catalog.hardware_named("h100x4")
    assert (four.id, four.count, four.name) == ("h100x4", 4, "h100")
    assert catalog.hardware_named("h100x1").id == "h100"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "h100x3",
            "-k: unknown hardware 'h100x3': h100 does not come in that number\n  Known: h100, h100x2, h100x4, h100x8.",
        ),
        (
            "h100-mig-3g.40gbx2",
            "-k: unknown hardware 'h100-mig-3g.40gbx2': h100-mig-3g.40gb does not come in that number\n"
            "  Known: h100-mig-3g.40gb.",
        ),
        ("h10x4", "-k: unknown hardware 'h10x4'\n  Did you mean 'h100x4'? Known: a100-40gbx4, a100-80gbx4, "),
        ("h10x16", "-k: unknown hardware 'h10x16'\n  Did you mean 'h100'? Known: a100-40gb, "),
        ("a100", "-k: unknown hardware 'a100'\n  Did you mean 'h100'? Known: a100-40gb, a100-80gb, "),
    ],
)
def test_unknown_hardware(catalog: Catalog, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog.hardware_named(name, Where(option="-k"))
    assert str(caught.value).startswith(message)


def test_every_lookup_teaches(catalog: Catalog) -> None:
    for kind, look_up, known in (
        ("platform", catalog.platform_named, "gke"),
        ("method", catalog.method_named, "standalone"),
        ("model", catalog.model_named, "llama-3.1-8b"),
        ("variant", catalog.variant_named, "fp8"),
        ("workload", catalog.workload_named, "agentic"),
        ("SLA", catalog.sla_named, "agentic"),
        ("matrix", catalog.matrix_named, "default"),
    ):
        assert look_up(known).name == known
        with pytest.raises(ConfigError) as caught:
            look_up(known + "x", Where(key="marker"))
        assert str(caught.value).startswith(f"marker: unknown {kind} '{known}x'\n  Did you mean '{known}'? Known: ")


def test_a_record_that_came_from_no_file_has_no_place(catalog: Catalog) -> None:
    assert catalog.where("matrix", "made by hand") is None
