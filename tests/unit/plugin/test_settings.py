"""Settings: the command line before the environment before ini before the default, and where a relative path starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.load.cores import available_cores
from pytest_llmperf.measure.trust import TrustLimits, named_limits
from pytest_llmperf.plugin.kubernetes_options import KubernetesOptions
from pytest_llmperf.plugin.option_table import OPTIONS, Option
from pytest_llmperf.plugin.options import Settings, read_settings
from pytest_llmperf.plugin.targets import target_of
from pytest_llmperf.plugin.trace import trace_profile
from pytest_llmperf.plugin.xdist import xdist_workers

ROOT = Path("/root/dir")
HERE = Path("/working/dir")


def settings(
    command_line: Mapping[str, str | list[str]] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, str] | None = None,
) -> Settings:
    return read_settings((command_line or {}).get, (ini or {}).get, environ or {}, ROOT, HERE)


def test_defaults() -> None:
    default = settings()
    assert default.target == "sim"
    assert default.workers is None
    assert default.trust == TrustLimits()
    assert (default.header, default.ca_file, default.insecure, default.engine_command) == ((), None, False, None)
    assert default.storage == ROOT / ".llmperf"
    assert default.json is None
    assert default.ready_timeout_s is None
    assert default.columns == ()


def test_the_command_line_comes_first_then_the_environment_then_ini() -> None:
    command_line, environ, ini = {"--llmperf-workers": "4"}, {"LLMPERF_WORKERS": "3"}, {"llmperf_workers": "2"}
    assert settings(command_line, environ, ini).workers == 4
    assert settings(None, environ, ini).workers == 3
    assert settings(None, None, ini).workers == 2


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_or_ini_value_is_not_set(empty: str) -> None:
    assert settings(None, {"LLMPERF_WORKERS": empty}, {"llmperf_workers": "2"}).workers == 2
    assert settings(None, {"LLMPERF_SAVE": empty}, {"llmperf_compare_fail": empty, "llmperf_autosave": empty}) == settings()


def test_blanks_around_a_variable_or_an_ini_value_are_not_part_of_it() -> None:
    environ = {"LLMPERF_TARGET": "endpoint ", "LLMPERF_URL": " http://127.0.0.1:9\n", "LLMPERF_JSON": "out.json "}
    found = settings(None, environ, {"llmperf_compare": "\nmain", "llmperf_storage": " kept "})
    assert (found.target, found.url, found.json) == ("endpoint", "http://127.0.0.1:9", HERE / "out.json")
    assert (found.compare, found.storage) == ("main", ROOT / "kept")


@pytest.mark.parametrize("value", ["", " ", [""], ["ttft_p99:10%", ""], [","], ["ttft_p99:10%", " , "]])
def test_an_empty_gate_is_no_gate_that_was_meant(value: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^--llmperf-compare-fail: needs a value"):
        settings({"--llmperf-compare-fail": value}, None, {"llmperf_compare_fail": "tpot_p50:5%"})


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.metavar], ids=lambda option: option.name)
def test_every_option_needs_a_value(option: Option) -> None:
    with pytest.raises(ConfigError, match=f"^{option.flag}: needs a value"):
        settings({option.flag: [""] if option.repeatable else ""})


def test_without_a_name_it_compares_with_the_newest() -> None:
    with pytest.raises(ConfigError, match="\n  --llmperf-compare alone is --llmperf-compare=latest"):
        settings({"--llmperf-compare": ""})


@pytest.mark.parametrize(("environ", "ini"), [({"LLMPERF_COMPARE_FAIL": ","}, {}), ({}, {"llmperf_compare_fail": " ,\n, "})])
def test_commas_alone_are_a_mistake_everywhere(environ: dict[str, str], ini: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^(LLMPERF_COMPARE_FAIL|ini llmperf_compare_fail): .* names nothing"):
        settings(None, environ, ini)


def test_what_may_regress_is_separated_by_commas_or_newlines() -> None:
    several = ("ttft_p99:10%", "tpot_p50:5%", "goodput:1%")
    assert settings(None, None, {"llmperf_compare_fail": "\nttft_p99:10%\ntpot_p50:5%, goodput:1%\n"}).compare_fail == several
    assert settings({"--llmperf-compare-fail": ["ttft_p99:10%,tpot_p50:5%", "goodput:1%"]}).compare_fail == several


@pytest.mark.parametrize("text", ["yes", "true", "on", "1", "True", "YES", "On "])
def test_autosave_on(text: str) -> None:
    assert settings(None, {"LLMPERF_AUTOSAVE": text}).autosave


@pytest.mark.parametrize("text", ["no", "false", "off", "0", "False", "NO", "Off"])
def test_autosave_off(text: str) -> None:
    assert not settings(None, {"LLMPERF_AUTOSAVE": text}, {"llmperf_autosave": "yes"}).autosave


def test_autosave_is_yes_or_no() -> None:
    with pytest.raises(ConfigError, match=r"^ini llmperf_autosave: 'main' is neither yes nor no\n  Known: yes, true, on, 1, no"):
        settings(None, None, {"llmperf_autosave": "main"})


def test_what_was_given_is_kept_as_it_was_written_with_the_defaults() -> None:
    found = settings({"--llmperf-storage": "a/b"}, {"LLMPERF_READY_TIMEOUT": "90s"}, {"llmperf_compare": "main"})
    assert {name: found.given[name] for name in ("storage", "ready_timeout", "compare", "policy", "seed")} == {
        "storage": "a/b",
        "ready_timeout": "90s",
        "compare": "main",
        "policy": "measured",
        "seed": "0",
    }
    assert "catalog" not in found.given


def test_it_knows_which_variables_hold_a_secret() -> None:
    endpoint: dict[str, str | list[str]] = {"--llmperf-target": "endpoint", "--llmperf-url": "http://h:1"}
    given = {**endpoint, "--llmperf-header": ["X-A=env:ONE", "X-B=file:two"]}
    assert settings(given).secret_variables == ("LLMPERF_API_KEY", "ONE")
    assert settings({**given, "--llmperf-api-key-env": "MINE"}).secret_variables == ("MINE", "ONE")


def test_requests_as_csv_are_a_switch() -> None:
    assert [settings(given).requests_csv for given in ({}, {"--llmperf-requests-csv": "yes"})] == [False, True]
    assert settings(None, None, {"llmperf_requests_csv": "on"}).requests_csv


def test_plots_are_a_switch_that_may_also_be_left_alone() -> None:
    assert [settings(given).plots for given in ({}, {"--llmperf-plots": "yes"})] == [None, True]
    assert settings(None, {"LLMPERF_PLOTS": "no"}).plots is False


def test_a_setting_knows_where_it_was_written() -> None:
    found = settings({"--llmperf-compare": "main"}, {"LLMPERF_SAVE": "x"}, {"llmperf_compare_fail": "tpot_p50:5%"})
    places = [str(found.where(name)) for name in ("compare", "save", "compare_fail", "seed")]
    assert places == ["--llmperf-compare", "LLMPERF_SAVE", "ini llmperf_compare_fail", "--llmperf-seed"]
    assert str(replace(found, places={}).where("compare_fail")) == "--llmperf-compare-fail"


@pytest.mark.parametrize("name", ["json", "storage", "catalog", "trace"])
def test_paths_start_where_they_were_written(name: str, tmp_path: Path) -> None:
    option, environ, ini = f"--llmperf-{name}", f"LLMPERF_{name.upper()}", f"llmperf_{name}"
    assert getattr(settings({option: "a/b"}), name) == HERE / "a/b"
    assert getattr(settings(None, {environ: "a/b"}), name) == HERE / "a/b"
    assert getattr(settings(None, None, {ini: "a/b"}), name) == ROOT / "a/b"
    assert getattr(settings({option: str(tmp_path)}), name) == tmp_path
    assert getattr(settings(None, None, {ini: "~/b"}), name) == Path("~/b").expanduser()


@pytest.mark.parametrize(
    ("command_line", "environ", "ini", "place"),
    [
        ({"--llmperf-seed": "x"}, {}, {}, "--llmperf-seed"),
        ({}, {"LLMPERF_SEED": "x"}, {}, "LLMPERF_SEED"),
        ({}, {}, {"llmperf_seed": "x"}, "ini llmperf_seed"),
    ],
)
def test_a_mistake_names_the_form_it_was_made_in(
    command_line: dict[str, str], environ: dict[str, str], ini: dict[str, str], place: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{place}: 'x' is not a whole number of 0 or more"):
        settings(command_line, environ, ini)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("workers", "0", "'0' is not a whole number of 1 or more\n  Or write auto: "),
        ("workers", "1.5", "'1.5' is not a whole number"),
        ("trace-scale", "-1", "'-1' is not a number above 0"),
        ("trace-scale", "inf", "'inf' is not a number above 0"),
        ("trace-scale", "nan", "'nan' is not a number above 0"),
        ("trace-duration", "10", "'10' has no unit"),
        ("trace-duration", "0s", "'0s' is not more than 0 seconds"),
        ("ready-timeout", "0s", "'0s' is not more than 0 seconds\n  Leave it out for the default."),
        ("sort", "ttft_p999x", "ttft"),
        ("columns", "goodput,tfft_p99", "did you mean 'ttft"),
        ("trust", "latness_p99:20ms", "Did you mean 'lateness_p99'?"),
    ],
)
def test_what_cannot_be_read(option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({f"--llmperf-{option}": value})
    assert str(caught.value).startswith(f"--llmperf-{option}: ")
    assert message in str(caught.value)


def test_columns() -> None:
    assert settings({"--llmperf-columns": " goodput, itl_p99 ,"}).columns == ("goodput", "itl_p99")


def test_the_three_forms_of_every_option_are_one_name() -> None:
    names = {*Settings.__dataclass_fields__, *KubernetesOptions.__dataclass_fields__}
    fields = {name.removesuffix("_s") for name in names}
    assert {option.name for option in OPTIONS} == fields - {"places", "given", "kubernetes"}
    for option in OPTIONS:
        assert option.flag == "--" + option.ini.replace("_", "-")
        assert option.env == option.ini.upper()


def test_a_trace_that_is_named_is_replayed_whole_and_the_synthetic_one_in_part(tmp_path: Path) -> None:
    recorded = tmp_path / "mine.csv"
    recorded.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    assert trace_profile(settings({"--llmperf-trace": str(recorded)}))[1] is None
    assert trace_profile(settings({"--llmperf-trace": str(recorded), "--llmperf-trace-duration": "10m"}))[1] == "600s"
    assert trace_profile(settings())[1] == "20s"


@pytest.mark.parametrize("text", ["auto", "AUTO", " auto "])
def test_workers_may_follow_the_load(text: str) -> None:
    assert settings({"--llmperf-workers": text}, None, {"llmperf_workers": "3"}).workers is None


def test_limits_of_trust_in_every_form() -> None:
    expected = TrustLimits(lateness_p99_s=0.02, cpu_share=0.9)
    assert settings({"--llmperf-trust": ["lateness_p99:20ms", "cpu_share:90%"]}).trust == expected
    assert settings(None, {"LLMPERF_TRUST": "lateness_p99:20ms,cpu_share:90%"}).trust == expected
    assert settings(None, None, {"llmperf_trust": "\nlateness_p99:20ms\ncpu_share:90%\n"}).trust == expected
    with pytest.raises(ConfigError, match=r"^ini llmperf_trust: unknown limit of trust 'x'"):
        settings(None, None, {"llmperf_trust": "x:1%"})


def test_the_help_names_every_limit_of_trust_and_its_default() -> None:
    (option,) = [option for option in OPTIONS if option.name == "trust"]
    example, _, defaults = option.help.partition("(repeatable; default: ")
    assert list(named_limits(TrustLimits())) == [name for name in named_limits(TrustLimits()) if f" {name}:" in example]
    names = named_limits(TrustLimits())
    written = [f"{name}:{value}" for name, value in zip(names, defaults.rstrip(")").split(", "), strict=True)]
    assert settings({"--llmperf-trust": written}).trust == TrustLimits()


ENDPOINT = {"--llmperf-target": "endpoint", "--llmperf-url": "https://host"}


def test_headers_and_certificates_of_an_endpoint(tmp_path: Path) -> None:
    found = settings({**ENDPOINT, "--llmperf-header": ["X-Key=env:KEY", "X-Other=file:a"], "--llmperf-ca-file": "ca.pem"})
    assert found.header == ("X-Key=env:KEY", "X-Other=file:a")
    assert found.ca_file == HERE / "ca.pem"
    assert settings(ENDPOINT, {"LLMPERF_HEADER": "X-Key=env:KEY, X-Other=file:a"}).header == found.header
    assert settings(ENDPOINT, None, {"llmperf_ca_file": str(tmp_path / "ca.pem")}).ca_file == tmp_path / "ca.pem"
    assert settings({**ENDPOINT, "--llmperf-insecure": "yes"}).insecure
    assert settings(ENDPOINT, {"LLMPERF_INSECURE": "yes"}).insecure
    assert not settings({}, None, {"llmperf_insecure": "no"}).insecure


def test_a_comma_may_be_part_of_a_headers_file() -> None:
    given = ["X-Key=file:/a,b=c", "X-Other=file:/d,e"]
    assert settings({**ENDPOINT, "--llmperf-header": given}).header == tuple(given)
    expected = ("X-Key=file:/a,b", "X-Other=env:KEY", "X-More=file:/c,/d=e")
    assert settings(ENDPOINT, {"LLMPERF_HEADER": "X-Key=file:/a,b, X-Other=env:KEY,X-More=file:/c,/d=e"}).header == expected
    assert settings(ENDPOINT, None, {"llmperf_header": f"\n{expected[0]}\n{expected[1]},\n{expected[2]},\n"}).header == expected


def test_what_follows_a_header_of_a_variable_is_not_shown() -> None:
    given = settings({**ENDPOINT, "--llmperf-header": ["X-Key=env:KEY,X-Other=s3cret"]})
    with pytest.raises(ConfigError, match=r"^--llmperf-header: the header 'X-Key' names a variable with a comma\n") as caught:
        target_of(given)
    assert "s3cret" not in str(caught.value)


def test_more_workers_than_cores_can_drive_are_refused() -> None:
    most = 8 * available_cores()
    assert settings({"--llmperf-workers": str(most)}).workers == most
    with pytest.raises(
        ConfigError, match=rf"^LLMPERF_WORKERS: {most + 1} workers on .*: {most} are the most, 8 a core\n  Write auto"
    ):
        settings(None, {"LLMPERF_WORKERS": str(most + 1)})


def test_the_variable_of_the_token_that_every_target_has_by_default_is_no_mistake() -> None:
    assert settings({"--llmperf-api-key-env": "LLMPERF_API_KEY"}).target == "sim"


def test_an_engine_of_this_machine() -> None:
    assert settings({"--llmperf-target": "process"}).engine_command is None
    found = settings({"--llmperf-target": "process", "--llmperf-engine-command": "vllm serve m"})
    assert found.engine_command == "vllm serve m"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"served-model": "m"}, "served-model: a served model is named, but the target is 'sim'"),
        (
            {"target": "process", "served-model": "m"},
            "served-model: a served model is named, but the target is 'process'",
        ),
        (
            {"api-key-env": "KEY"},
            "api-key-env: a variable that holds the endpoint's token is named, but the target is 'sim'",
        ),
        ({"header": ["A=env:B"]}, "header: a header is given, but the target is 'sim'\n  Add --llmperf-target=endpoint."),
        ({"insecure": "yes"}, "insecure: certificates are not to be checked, but the target is 'sim'"),
        ({"ca-file": "ca.pem"}, "ca-file: a file of CA certificates is given, but the target is 'sim'"),
        ({"target": "process", "ca-file": "ca.pem"}, "ca-file: a file of CA certificates is given, but the target is 'process'"),
        ({"target": "process", "url": "http://h"}, "url: a URL is given, but the target is 'process'"),
        (
            {"engine-command": "x"},
            "engine-command: an engine's command is given, but the target is 'sim'\n  Add --llmperf-target=process.",
        ),
        (
            {"target": "endpoint", "url": "https://h", "engine-command": "x"},
            "engine-command: an engine's command is given, but the target is 'endpoint'",
        ),
        (
            {"target": "endpoint", "url": "http://h", "insecure": "yes"},
            "insecure: certificates are not to be checked, but http:// has none\n  Write --llmperf-url=https://…",
        ),
        (
            {"target": "endpoint", "url": "http://h", "ca-file": "a"},
            "ca-file: a file of CA certificates is given, but http:// has none",
        ),
        (
            {"target": "endpoint", "url": "https://h", "ca-file": "a", "insecure": "yes"},
            "insecure: certificates are not to be checked, but a file of CA certificates to check them by is given",
        ),
        (
            {"target": "endpiont"},
            "target: unknown target 'endpiont'\n  Did you mean 'endpoint'? Known: endpoint, kubernetes, process, sim.",
        ),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(given: dict[str, str | list[str]], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({f"--llmperf-{name}": value for name, value in given.items()})
    assert str(caught.value).startswith(f"--llmperf-{says}")


@pytest.mark.parametrize(("count", "workers"), [("", 1), ("4", 4), ("0", 1), ("x", 1)])
def test_how_many_of_xdists_workers_share_the_machine(count: str, workers: int) -> None:
    assert xdist_workers({"PYTEST_XDIST_WORKER_COUNT": count}) == workers
    assert xdist_workers({}) == 1
