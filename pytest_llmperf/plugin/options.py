"""Every setting once: its option, ini and environment form, its default, and how it is read into ``Settings``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import pytest

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.measure.server_sources import ServerSources, parse_server_sources
from pytest_llmperf.measure.trust import TrustLimits, parse_trust_limits
from pytest_llmperf.plugin.option_values import (
    AUTO,
    Export,
    exports,
    flag,
    lines,
    metric,
    number_of_workers,
    one_a_line,
    parts,
    positive,
    time_span,
    whole,
)
from pytest_llmperf.plugin.target_options import TARGETS, check_target_options

DEFAULT_API_KEY_ENV = "LLMPERF_API_KEY"
LATEST = "latest"
"""What ``--llmperf-compare`` without a name compares with: the newest saved session that may be a baseline."""
GroupBy = Literal["cell", "workload", "test", "hardware", "model"]
PolicyName = Literal["measured", "certain"]
GateName = Literal["target", "acceptable"]
InconclusiveIs = Literal["fail", "skip", "pass"]
InvalidIs = Literal["fail", "skip"]
GROUPINGS: tuple[GroupBy, ...] = get_args(GroupBy)


@dataclass(frozen=True)
class Settings:
    """What was asked of this session. Paths are absolute."""

    target: str
    url: str | None
    served_model: str | None
    api_key_env: str
    header: tuple[str, ...]
    """Each ``Name=env:VAR`` or ``Name=file:PATH``, as it was written: never a value."""
    ca_file: Path | None
    insecure: bool
    engine_command: str | None
    matrix: str
    catalog: Path | None
    sla: str | None
    json: Path | None
    storage: Path
    seed: int
    workers: int | None
    """None: as many as the planned load asks for."""
    trust: TrustLimits
    trace: Path | None
    trace_scale: float
    trace_duration_s: float | None
    ready_timeout_s: float | None
    """None: as long as the target's own default."""
    group_by: GroupBy
    sort: str | None
    columns: tuple[str, ...]
    policy: PolicyName
    gate: GateName
    inconclusive: InconclusiveIs
    invalid: InvalidIs
    save: str | None
    autosave: bool
    compare: str | None
    compare_fail: tuple[str, ...]
    """Each ``ttft_p99:10%``, as it was written."""
    repeat: int
    markdown: Path | None
    export: tuple[Export, ...]
    scrape: tuple[str, ...]
    """Each ``dcgm=URL``, as it was written."""
    prometheus: str | None
    prometheus_labels: str | None
    requests_csv: bool
    plots: bool | None
    """None: only where they go into Allure's results."""
    given: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What each was read from, by its option's name: as it was written, or the default. Those without either are left out."""
    places: Mapping[str, Where] = field(default_factory=dict, repr=False, compare=False)
    """Where each came from, by its name here: the option, its environment variable or its ini key."""

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The environment's variables from which a token or a header is read."""
        sources = (text.partition("=")[2] for text in self.header)
        return (self.api_key_env, *(source.removeprefix("env:") for source in sources if source.startswith("env:")))

    @property
    def server(self) -> ServerSources:
        """Where the server's side of a run is read. Raises ``ConfigError``."""
        return parse_server_sources(self.scrape, self.prometheus, self.prometheus_labels, self.where)

    def where(self, name: str) -> Where:
        """The place to name in an error about a setting: ``where("compare")`` is what a user wrote it as."""
        return self.places.get(name, Where(option=flag_of(name)))


def flag_of(name: str) -> str:
    """``compare_fail`` -> ``--llmperf-compare-fail``."""
    return "--llmperf-" + name.replace("_", "-")


@dataclass(frozen=True)
class _Option:
    """``name`` is the field of ``Settings``; its forms are ``--llmperf-name``, ``llmperf_name`` (ini), ``LLMPERF_NAME``."""

    name: str
    metavar: str
    default: str | None
    help: str
    bare: str | None = None
    """What the option means without a value; None where it needs one."""
    repeatable: bool = False
    listed: bool = False
    """Several values in one text, separated by commas or newlines."""
    may_hold_commas: bool = False
    """Of one that is listed: a comma may be part of a value, so that there is one value to an option on the command line."""

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    def says_nothing(self, text: str | None) -> bool:
        """Whether a text of it is empty, or commas and nothing between them."""
        return not (parts(text) if self.listed else (text or "").strip())

    @property
    def ini(self) -> str:
        return f"llmperf_{self.name}"

    @property
    def env(self) -> str:
        return f"LLMPERF_{self.name.upper()}"


OPTIONS = (
    _Option(
        "target", "TARGET", "sim", "where cells run: sim (embedded simulator), process (an engine on this machine), endpoint"
    ),
    _Option("url", "URL", None, "the server to load, with --llmperf-target=endpoint: http://HOST:PORT"),
    _Option("served_model", "NAME", None, "the model's name at the endpoint (default: the first of /v1/models)"),
    _Option("api_key_env", "VAR", DEFAULT_API_KEY_ENV, "environment variable that holds the endpoint's Bearer token"),
    _Option(
        "header",
        "NAME=SOURCE",
        None,
        "a header of every request to the endpoint, its value from a variable or a file: X-Key=env:VAR, X-Key=file:PATH "
        "(repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    _Option("ca_file", "FILE", None, "CA certificates (PEM) that an https:// endpoint is checked by (default: the system's)"),
    _Option("insecure", "", None, "do not check the certificate of an https:// endpoint", bare="yes"),
    _Option(
        "engine_command",
        "COMMAND",
        None,
        "the engine that --llmperf-target=process starts (default: 'vllm serve' with the cell's model and engine arguments)",
    ),
    _Option("matrix", "NAME", "default", "the named matrix whose cells are run"),
    _Option("catalog", "DIR", None, "catalog whose records override the built-in ones (default: fixtures/ in the rootdir)"),
    _Option("sla", "YAML", None, "one SLA for every test, instead of each workload's: 'ttft: {p99: 1s}'"),
    _Option("json", "PATH", None, "write the session's results to PATH as one JSON document"),
    _Option("requests_csv", "", None, "write each run's requests as CSV too (requests.csv beside its run.json)", bare="yes"),
    _Option(
        "plots", "", None, "draw each run's latency and throughput beside its run.json (default: with --alluredir)", bare="yes"
    ),
    _Option("markdown", "PATH", None, "write a summary of the session to PATH as Markdown"),
    _Option(
        "export",
        "FORMAT=PATH",
        None,
        "write the session's results for other tools: pytest-benchmark=FILE, openmetrics=FILE, llm-d=DIR (one report a run) "
        "(repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    _Option("storage", "DIR", ".llmperf", "where every run is written the moment it ends"),
    _Option("seed", "N", "0", "seed of all arrivals, lengths and prompts"),
    _Option("workers", "N", AUTO, "processes that generate load; auto: by the planned load, at most one a core"),
    _Option(
        "trust",
        "LIMITS",
        None,
        "beyond which client health a run is INVALID: lateness_p99:20ms, loop_lag_p99:20ms, cpu_share:90%, sent_share:99.9%, "
        "busy_share:90% (repeatable; default: 50ms, 50ms, 95%, 99.9%, 90%)",
        repeatable=True,
        listed=True,
    ),
    _Option("trace", "FILE", None, "the trace that trace-replay suites replay (default: a small synthetic one)"),
    _Option("trace_scale", "X", "1", "multiplies the gaps between a trace's requests: 2 replays twice as slowly"),
    _Option(
        "trace_duration",
        "TIME",
        None,
        "how much of the trace to replay, in replayed time: 10m (default: all; 20s of the synthetic one)",
    ),
    _Option("ready_timeout", "TIME", None, "how long a deployment may take to answer (default: 10m; an endpoint 30s)"),
    _Option("group_by", "WHAT", "cell", "group the summary's lines by " + ", ".join(GROUPINGS)),
    _Option("sort", "KEY", None, "sort the summary's lines by a metric (ttft_p99) (default: by name)"),
    _Option("columns", "KEYS", None, "further metrics in the summary, comma-separated: goodput,itl_p99", listed=True),
    _Option("policy", "POLICY", "measured", "how a verdict is reached: measured, or certain (sequential, at a stated error)"),
    _Option("gate", "GRADE", "target", "the grade that a graded limit must reach: target, acceptable"),
    _Option("inconclusive", "WHAT", "fail", "what an INCONCLUSIVE verdict does to its test: fail, skip, pass"),
    _Option("invalid", "WHAT", "fail", "what an INVALID run does to its test: fail, skip (it never passes)"),
    _Option("save", "NAME", None, "save the session's runs as a baseline of this name"),
    _Option("autosave", "", None, "the same, named after the commit and the time where --llmperf-save gives no name", bare="yes"),
    _Option("compare", "NAME", None, "compare every run with this baseline (without a name: with the newest)", bare=LATEST),
    _Option(
        "compare_fail",
        "EXPR",
        None,
        "a test fails whose run regressed beyond this: ttft_p99:10%, output_tokens_per_s:5% (repeatable)",
        repeatable=True,
        listed=True,
    ),
    _Option("repeat", "N", "1", "run every test with a cell N times, so that the noise between runs is known"),
    _Option(
        "scrape",
        "KIND=URL",
        None,
        "a further page of metrics to read once a second: dcgm=URL (NVIDIA's exporter), engine=URL (an engine's own, instead of "
        "the endpoint's /metrics) (repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    _Option("prometheus", "URL", None, "ask this Prometheus for the engine's metrics after each run, and read no page"),
    _Option("prometheus_labels", "LABELS", None, 'which series there are the run\'s: \'namespace="x",pod=~"llm-.*"\''),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and its ini form."""
    group = parser.getgroup("llmperf", "LLM performance (pytest-llmperf)")
    for option in OPTIONS:
        default = f" [{option.default}]" if option.default is not None else ""
        text = option.help.replace("%", "%%") + default
        if option.repeatable:
            group.addoption(option.flag, metavar=option.metavar, action="append", help=text)
        elif option.bare is not None and not option.metavar:
            group.addoption(option.flag, action="store_const", const=option.bare, help=text)
        elif option.bare is not None:
            group.addoption(option.flag, metavar=option.metavar, nargs="?", const=option.bare, help=text)
        else:
            group.addoption(option.flag, metavar=option.metavar, help=text)
        parser.addini(option.ini, help=f"{option.help} (as {option.flag})", default=None)


def read_settings(
    from_command_line: Callable[[str], str | list[str] | None],
    from_ini: Callable[[str], str | None],
    environ: Mapping[str, str],
    rootdir: Path,
    invocation_dir: Path,
) -> Settings:
    """Command line before environment before ini before default. Raises ``ConfigError`` naming the form that was used.

    An empty environment variable or ini value is not set, and blanks around one are not part of it. An empty option is an error:
    a CI makes it of a variable that is not set, and it would switch off, without a word, the gate or the baseline that was
    asked for.
    As everywhere in pytest, paths of the command line and environment start at the working directory, the ini's at rootdir.
    """
    raw: dict[str, str | None] = {}
    places: dict[str, Where] = {}
    bases: dict[str, Path] = {}
    for option in OPTIONS:
        forms = (
            (option.flag, _from_command_line(option, from_command_line(option.flag)), invocation_dir),
            (option.env, (environ.get(option.env) or "").strip(), invocation_dir),
            (f"ini {option.ini}", (from_ini(option.ini) or "").strip(), rootdir),
            (option.flag, option.default, rootdir),
        )
        place, found, bases[option.name] = next((form for form in forms if form[1] and form[1].strip()), forms[-1])
        places[option.name] = Where(option=place)
        if found and option.says_nothing(found):
            raise ConfigError(f"{found!r} names nothing", where=places[option.name])
        raw[option.name] = one_a_line(found) if found and option.may_hold_commas and place != option.flag else found
    return _settings(raw, places, bases)


def _from_command_line(option: _Option, given: str | list[str] | None) -> str | None:
    """An option's value, several of them separated as it takes them; None where it is not there. Raises ``ConfigError``."""
    values = [given] if isinstance(given, str) else given
    if values is None:
        return None
    if any(map(option.says_nothing, values)):
        hint = (
            f"{option.flag} alone is {option.flag}={option.bare}." if option.bare is not None else "Leave it out, or fill it in."
        )
        raise ConfigError("needs a value, and there is none", where=Where(option=option.flag), hint=hint)
    return ("\n" if option.may_hold_commas else ",").join(values)


_CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "target": ("target", TARGETS),
    "group_by": ("grouping", GROUPINGS),
    "policy": ("policy", get_args(PolicyName)),
    "gate": ("gate", get_args(GateName)),
    "inconclusive": ("treatment of INCONCLUSIVE", get_args(InconclusiveIs)),
    "invalid": ("treatment of INVALID", get_args(InvalidIs)),
}


def _settings(raw: Mapping[str, str | None], places: Mapping[str, Where], bases: Mapping[str, Path]) -> Settings:
    def text(name: str) -> str:
        return raw[name] or ""

    def path(name: str) -> Path | None:
        return bases[name] / Path(text(name)).expanduser() if raw[name] else None

    for name, (kind, choices) in _CHOICES.items():
        if text(name) not in choices:
            raise unknown(kind, text(name), choices, places[name])
    insecure = flag(text("insecure"), places["insecure"]) if raw["insecure"] else False
    api_key_env = None if text("api_key_env") == DEFAULT_API_KEY_ENV else raw["api_key_env"]
    check_target_options({**raw, "insecure": insecure, "api_key_env": api_key_env}, places)
    parse_server_sources(lines(raw["scrape"]), raw["prometheus"], raw["prometheus_labels"], places.__getitem__)
    return Settings(
        target=text("target"),
        url=raw["url"],
        served_model=raw["served_model"],
        api_key_env=text("api_key_env"),
        header=lines(raw["header"]),
        ca_file=path("ca_file"),
        insecure=insecure,
        engine_command=raw["engine_command"],
        matrix=text("matrix"),
        catalog=path("catalog"),
        sla=raw["sla"],
        json=path("json"),
        storage=bases["storage"] / Path(text("storage")).expanduser(),
        seed=whole(text("seed"), places["seed"], least=0),
        workers=number_of_workers(text("workers"), places["workers"]),
        trust=parse_trust_limits(parts(raw["trust"]), places["trust"]),
        trace=path("trace"),
        trace_scale=positive(text("trace_scale"), places["trace_scale"]),
        trace_duration_s=time_span(text("trace_duration"), places["trace_duration"]) if raw["trace_duration"] else None,
        ready_timeout_s=time_span(text("ready_timeout"), places["ready_timeout"]) if raw["ready_timeout"] else None,
        group_by=cast(GroupBy, text("group_by")),
        sort=metric(text("sort"), places["sort"]) if raw["sort"] else None,
        columns=tuple(metric(key, places["columns"]) for key in parts(raw["columns"])),
        policy=cast(PolicyName, text("policy")),
        gate=cast(GateName, text("gate")),
        inconclusive=cast(InconclusiveIs, text("inconclusive")),
        invalid=cast(InvalidIs, text("invalid")),
        save=raw["save"],
        autosave=flag(text("autosave"), places["autosave"]) if raw["autosave"] else False,
        compare=raw["compare"],
        compare_fail=parts(raw["compare_fail"]),
        repeat=whole(text("repeat"), places["repeat"], least=1),
        markdown=path("markdown"),
        export=exports(raw["export"], places["export"], bases["export"]),
        scrape=lines(raw["scrape"]),
        prometheus=raw["prometheus"],
        prometheus_labels=raw["prometheus_labels"],
        requests_csv=flag(text("requests_csv"), places["requests_csv"]) if raw["requests_csv"] else False,
        plots=flag(text("plots"), places["plots"]) if raw["plots"] else None,
        given={name: value for name, value in raw.items() if value},
        places=places,
    )


SETTINGS = pytest.StashKey[Settings]()


def settings_of(config: pytest.Config) -> Settings:
    """The session's settings, read once from pytest's configuration. Raises ``ConfigError``."""

    def ini(name: str) -> str | None:
        value = config.getini(name)
        return str(value) if value else None

    if SETTINGS not in config.stash:
        config.stash[SETTINGS] = read_settings(config.getoption, ini, os.environ, config.rootpath, config.invocation_params.dir)
    return config.stash[SETTINGS]
