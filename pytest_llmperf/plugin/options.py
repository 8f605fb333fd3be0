"""Settings: the table's options as they were given, read into one frozen record."""

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
from pytest_llmperf.plugin.kubernetes_options import KubernetesOptions, kubernetes_options
from pytest_llmperf.plugin.option_table import DEFAULT_API_KEY_ENV, GROUPINGS, OPTIONS, GroupBy, Option, flag_of
from pytest_llmperf.plugin.option_values import (
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

PolicyName = Literal["measured", "certain"]
GateName = Literal["target", "acceptable"]
InconclusiveIs = Literal["fail", "skip", "pass"]
InvalidIs = Literal["fail", "skip"]


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
    kubernetes: KubernetesOptions
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


def _from_command_line(option: Option, given: str | list[str] | None) -> str | None:
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
    kubernetes = kubernetes_options(raw, path, bases["helm_values"], places)
    given = {**raw, "insecure": insecure, "api_key_env": api_key_env, "keep": kubernetes.keep}
    check_target_options(given, places)
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
        kubernetes=kubernetes,
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
