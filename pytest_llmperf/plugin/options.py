"""Every setting once: its option, ini and environment form, its default, and how it is read into ``Settings``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import pytest

from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.units import parse_duration

TARGETS = ("sim", "endpoint")
DEFAULT_API_KEY_ENV = "LLMPERF_API_KEY"
GroupBy = Literal["cell", "workload", "test", "hardware", "model"]
GROUPINGS: tuple[GroupBy, ...] = get_args(GroupBy)


@dataclass(frozen=True)
class Settings:
    """What was asked of this session. Paths are absolute."""

    target: str
    url: str | None
    served_model: str | None
    api_key_env: str
    matrix: str
    catalog: Path | None
    sla: str | None
    json: Path | None
    storage: Path
    seed: int
    workers: int
    trace: Path | None
    trace_scale: float
    trace_duration_s: float | None
    ready_timeout_s: float | None
    """None: as long as the target's own default."""
    group_by: GroupBy
    sort: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Option:
    """``name`` is the field of ``Settings``; its forms are ``--llmperf-name``, ``llmperf_name`` (ini), ``LLMPERF_NAME``."""

    name: str
    metavar: str
    default: str | None
    help: str

    @property
    def flag(self) -> str:
        return "--llmperf-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        return f"llmperf_{self.name}"

    @property
    def env(self) -> str:
        return f"LLMPERF_{self.name.upper()}"


OPTIONS = (
    _Option("target", "TARGET", "sim", "where cells run: sim (embedded simulator), endpoint (a URL already served)"),
    _Option("url", "URL", None, "the server to load, with --llmperf-target=endpoint: http://HOST:PORT"),
    _Option("served_model", "NAME", None, "the model's name at the endpoint (default: the first of /v1/models)"),
    _Option("api_key_env", "VAR", DEFAULT_API_KEY_ENV, "environment variable that holds the endpoint's Bearer token"),
    _Option("matrix", "NAME", "default", "the named matrix whose cells are run"),
    _Option("catalog", "DIR", None, "catalog whose records override the built-in ones (default: fixtures/ in the rootdir)"),
    _Option("sla", "YAML", None, "one SLA for every test, instead of each workload's: 'ttft: {p99: 1s}'"),
    _Option("json", "PATH", None, "write the session's results to PATH as one JSON document"),
    _Option("storage", "DIR", ".llmperf", "where every run is written the moment it ends"),
    _Option("seed", "N", "0", "seed of all arrivals, lengths and prompts"),
    _Option("workers", "N", "1", "processes that generate load"),
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
    _Option("sort", "KEY", None, "sort the summary's lines by a metric (ttft_p99) (default: in order of running)"),
    _Option("columns", "KEYS", None, "further metrics in the summary, comma-separated: goodput,itl_p99"),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and its ini form."""
    group = parser.getgroup("llmperf", "LLM performance (pytest-llmperf)")
    for option in OPTIONS:
        default = f" [{option.default}]" if option.default is not None else ""
        group.addoption(option.flag, metavar=option.metavar, default=None, help=option.help.replace("%", "%%") + default)
        parser.addini(option.ini, help=f"{option.help} (as {option.flag})", default=None)


def read_settings(
    from_command_line: Callable[[str], str | None],
    from_ini: Callable[[str], str | None],
    environ: Mapping[str, str],
    rootdir: Path,
    invocation_dir: Path,
) -> Settings:
    """Command line before environment before ini before default. Raises ``ConfigError`` naming the form that was used.

    As everywhere in pytest, paths of the command line and environment start at the working directory, the ini's at rootdir.
    """
    raw: dict[str, str | None] = {}
    places: dict[str, Where] = {}
    bases: dict[str, Path] = {}
    for option in OPTIONS:
        forms = (
            (option.flag, from_command_line(option.flag), invocation_dir),
            (option.env, environ.get(option.env), invocation_dir),
            (f"ini {option.ini}", from_ini(option.ini), rootdir),
            (option.flag, option.default, rootdir),
        )
        place, raw[option.name], bases[option.name] = next((form for form in forms if form[1]), forms[-1])
        places[option.name] = Where(option=place)
    return _settings(raw, places, bases)


def _settings(raw: Mapping[str, str | None], places: Mapping[str, Where], bases: Mapping[str, Path]) -> Settings:
    def text(name: str) -> str:
        return raw[name] or ""

    def path(name: str) -> Path | None:
        return bases[name] / Path(text(name)).expanduser() if raw[name] else None

    if text("target") not in TARGETS:
        raise unknown("target", text("target"), TARGETS, places["target"])
    if text("group_by") not in GROUPINGS:
        raise unknown("grouping", text("group_by"), GROUPINGS, places["group_by"])
    if text("target") == "endpoint" and not raw["url"]:
        raise ConfigError("the endpoint target needs a URL", where=places["target"], hint="Add --llmperf-url=http://HOST:PORT.")
    if raw["url"] and text("target") != "endpoint":
        raise ConfigError(
            f"a URL is given, but the target is {text('target')!r}", where=places["url"], hint="Add --llmperf-target=endpoint."
        )
    return Settings(
        target=text("target"),
        url=raw["url"],
        served_model=raw["served_model"],
        api_key_env=text("api_key_env"),
        matrix=text("matrix"),
        catalog=path("catalog"),
        sla=raw["sla"],
        json=path("json"),
        storage=bases["storage"] / Path(text("storage")).expanduser(),
        seed=_whole(text("seed"), places["seed"], least=0),
        workers=_whole(text("workers"), places["workers"], least=1),
        trace=path("trace"),
        trace_scale=_positive(text("trace_scale"), places["trace_scale"]),
        trace_duration_s=_duration(text("trace_duration"), places["trace_duration"]) if raw["trace_duration"] else None,
        ready_timeout_s=_duration(text("ready_timeout"), places["ready_timeout"]) if raw["ready_timeout"] else None,
        group_by=cast(GroupBy, text("group_by")),
        sort=_metric(text("sort"), places["sort"]) if raw["sort"] else None,
        columns=tuple(_metric(key.strip(), places["columns"]) for key in text("columns").split(",") if key.strip()),
    )


def _whole(text: str, place: Where, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{text!r} is not a whole number of {least} or more", where=place)
    return number


def _positive(text: str, place: Where) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{text!r} is not a number above 0", where=place)
    return number


def _duration(text: str, place: Where) -> float:
    try:
        return parse_duration(text)
    except UnitError as error:
        raise ConfigError(str(error), where=place) from None


def _metric(text: str, place: Where) -> str:
    try:
        return metric_key(text).name
    except UnitError as error:
        raise ConfigError(str(error), where=place) from None


SETTINGS = pytest.StashKey[Settings]()


def settings_of(config: pytest.Config) -> Settings:
    """The session's settings, read once from pytest's configuration. Raises ``ConfigError``."""

    def ini(name: str) -> str | None:
        value = config.getini(name)
        return str(value) if value else None

    if SETTINGS not in config.stash:
        config.stash[SETTINGS] = read_settings(config.getoption, ini, os.environ, config.rootpath, config.invocation_params.dir)
    return config.stash[SETTINGS]
