"""Every setting once: its option, ini and environment form, its default. ``options`` reads them into ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import pytest

from pytest_llmperf.plugin.option_values import AUTO, parts

DEFAULT_API_KEY_ENV = "LLMPERF_API_KEY"
LATEST = "latest"
"""What ``--llmperf-compare`` without a name compares with: the newest saved session that may be a baseline."""
GroupBy = Literal["cell", "workload", "test", "hardware", "model"]
GROUPINGS: tuple[GroupBy, ...] = get_args(GroupBy)


def flag_of(name: str) -> str:
    """``compare_fail`` -> ``--llmperf-compare-fail``."""
    return "--llmperf-" + name.replace("_", "-")


@dataclass(frozen=True)
class Option:
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


KUBERNETES = (
    Option("kubeconfig", "FILE", None, "the cluster, and who asks it (default: $KUBECONFIG, ~/.kube/config, or the pod's own)"),
    Option("context", "NAME", None, "the kubeconfig's context (default: its current one)"),
    Option("namespace", "NAME", None, "a namespace that exists (default: one is made for the session, and goes with it)"),
    Option(
        "manifests",
        "PATH",
        None,
        "what to deploy instead of what the cell's method names: YAML, a folder of it, a kustomization or a Helm chart",
    ),
    Option("helm_values", "FILE", None, "values for a Helm chart (repeatable)", repeatable=True, listed=True),
    Option("image", "IMAGE", None, "the engine's image, instead of the manifests'"),
    Option("simulator_image", "IMAGE", None, "deploy the simulator from this image in the engine's place: SIMULATED"),
    Option("model_cache", "WHERE", None, "where weights are kept: pvc:NAME, hostpath:/DIR, none (default: the manifests' own)"),
    Option(
        "hf_secret",
        "NAME[/KEY]",
        None,
        "a Secret with the Hugging Face token (default: one is made of the variable HF_TOKEN, where it is set)",
    ),
    Option("queue", "NAME", None, "Kueue's local queue, for what is deployed"),
    Option("queue_timeout", "TIME", None, "how long to wait for accelerators that others use, or for Kueue (default: 1h)"),
    Option("unschedulable_grace", "TIME", None, "how long a pod may fit no node, while an autoscaler may add one (default: 5m)"),
    Option(
        "reach",
        "HOW",
        None,
        "how a deployment is reached: auto, port-forward, service, load-balancer, ingress (default: auto: its Service inside the "
        "cluster, else a port-forward)",
    ),
    Option("keep", "", None, "leave deployments standing; pytest-llmperf gc removes them", bare="yes"),
    Option("render", "DIR", None, "write the objects of each selected cell to DIR, and run no test; needs no cluster"),
)
"""What belongs to ``--llmperf-target=kubernetes``."""

OPTIONS = (
    Option(
        "target",
        "TARGET",
        "sim",
        "where cells run: sim (embedded simulator), process (an engine on this machine), endpoint, kubernetes",
    ),
    Option(
        "url",
        "URL",
        None,
        "the server to load, with --llmperf-target=endpoint: http://HOST:PORT; with kubernetes, the address that leads to a "
        "deployment from outside",
    ),
    Option("served_model", "NAME", None, "the model's name at the endpoint (default: the first of /v1/models)"),
    Option("api_key_env", "VAR", DEFAULT_API_KEY_ENV, "environment variable that holds the endpoint's Bearer token"),
    Option(
        "header",
        "NAME=SOURCE",
        None,
        "a header of every request to the endpoint, its value from a variable or a file: X-Key=env:VAR, X-Key=file:PATH "
        "(repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    Option("ca_file", "FILE", None, "CA certificates (PEM) that an https:// endpoint is checked by (default: the system's)"),
    Option("insecure", "", None, "do not check the certificate of an https:// endpoint", bare="yes"),
    Option(
        "engine_command",
        "COMMAND",
        None,
        "the engine that --llmperf-target=process starts (default: 'vllm serve' with the cell's model and engine arguments)",
    ),
    Option("matrix", "NAME", "default", "the named matrix whose cells are run"),
    Option("catalog", "DIR", None, "catalog whose records override the built-in ones (default: fixtures/ in the rootdir)"),
    Option("sla", "YAML", None, "one SLA for every test, instead of each workload's: 'ttft: {p99: 1s}'"),
    Option("json", "PATH", None, "write the session's results to PATH as one JSON document"),
    Option("requests_csv", "", None, "write each run's requests as CSV too (requests.csv beside its run.json)", bare="yes"),
    Option(
        "plots", "", None, "draw each run's latency and throughput beside its run.json (default: with --alluredir)", bare="yes"
    ),
    Option("markdown", "PATH", None, "write a summary of the session to PATH as Markdown"),
    Option(
        "export",
        "FORMAT=PATH",
        None,
        "write the session's results for other tools: pytest-benchmark=FILE, openmetrics=FILE, llm-d=DIR (one report a run) "
        "(repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    Option("storage", "DIR", ".llmperf", "where every run is written the moment it ends"),
    Option("seed", "N", "0", "seed of all arrivals, lengths and prompts"),
    Option("workers", "N", AUTO, "processes that generate load; auto: by the planned load, at most one a core"),
    Option(
        "trust",
        "LIMITS",
        None,
        "beyond which client health a run is INVALID: lateness_p99:20ms, loop_lag_p99:20ms, cpu_share:90%, sent_share:99.9%, "
        "busy_share:90% (repeatable; default: 50ms, 50ms, 95%, 99.9%, 90%)",
        repeatable=True,
        listed=True,
    ),
    Option("trace", "FILE", None, "the trace that trace-replay suites replay (default: a small synthetic one)"),
    Option("trace_scale", "X", "1", "multiplies the gaps between a trace's requests: 2 replays twice as slowly"),
    Option(
        "trace_duration",
        "TIME",
        None,
        "how much of the trace to replay, in replayed time: 10m (default: all; 20s of the synthetic one)",
    ),
    Option(
        "ready_timeout",
        "TIME",
        None,
        "how long a deployment may take to answer (default: 10m; an endpoint 30s; on Kubernetes 1h30m from when it has a node)",
    ),
    Option("group_by", "WHAT", "cell", "group the summary's lines by " + ", ".join(GROUPINGS)),
    Option("sort", "KEY", None, "sort the summary's lines by a metric (ttft_p99) (default: by name)"),
    Option("columns", "KEYS", None, "further metrics in the summary, comma-separated: goodput,itl_p99", listed=True),
    Option("policy", "POLICY", "measured", "how a verdict is reached: measured, or certain (sequential, at a stated error)"),
    Option("gate", "GRADE", "target", "the grade that a graded limit must reach: target, acceptable"),
    Option("inconclusive", "WHAT", "fail", "what an INCONCLUSIVE verdict does to its test: fail, skip, pass"),
    Option("invalid", "WHAT", "fail", "what an INVALID run does to its test: fail, skip (it never passes)"),
    Option("save", "NAME", None, "save the session's runs as a baseline of this name"),
    Option("autosave", "", None, "the same, named after the commit and the time where --llmperf-save gives no name", bare="yes"),
    Option("compare", "NAME", None, "compare every run with this baseline (without a name: with the newest)", bare=LATEST),
    Option(
        "compare_fail",
        "EXPR",
        None,
        "a test fails whose run regressed beyond this: ttft_p99:10%, output_tokens_per_s:5% (repeatable)",
        repeatable=True,
        listed=True,
    ),
    Option("repeat", "N", "1", "run every test with a cell N times, so that the noise between runs is known"),
    Option(
        "scrape",
        "KIND=URL",
        None,
        "a further page of metrics to read once a second: dcgm=URL (NVIDIA's exporter), engine=URL (an engine's own, instead of "
        "the endpoint's /metrics) (repeatable)",
        repeatable=True,
        listed=True,
        may_hold_commas=True,
    ),
    Option("prometheus", "URL", None, "ask this Prometheus for the engine's metrics after each run, and read no page"),
    Option("prometheus_labels", "LABELS", None, 'which series there are the run\'s: \'namespace="x",pod=~"llm-.*"\''),
    *KUBERNETES,
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
