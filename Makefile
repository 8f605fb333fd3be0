# Two commands do everything: `make demo` runs the main job on the simulator, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STARTED := $(shell date +%s)
OUT := demo-out
# What holds the load generator, the simulator and the waiting to their times runs alone; all else runs two at a time.
ALONE := tests/unit/deploy tests/unit/load tests/unit/measure tests/unit/sim
TESTS := $(BIN)/pytest tests/unit tests/plugin -rfER -n 2 --dist worksteal $(ALONE:%=--ignore=%) && $(BIN)/pytest -rfER $(ALONE)

.PHONY: help demo test test-quick test-engine test-cluster cluster-up cluster-down lint bench bench-peers clean

help:
	@echo "make demo   run 'pytest suites/ -k h100' on the embedded simulator; results in $(OUT)/"
	@echo "make test   formatting, types, import rules and all tests, those on a real Kubernetes too where this machine can run one"
	@echo "make test-quick    the same without those on a real Kubernetes"
	@echo "make test-cluster  only those on a real Kubernetes (root, Linux; tests/cluster/README.md), however long it takes to build"
	@echo "make test-engine   the tests against a real vLLM for CPU, which is installed outside the checkout (5.5 GB, minutes)"
	@echo "make cluster-up, make cluster-down  the same Kubernetes, to try things by hand"
	@echo "make lint   formatting and types only"
	@echo "make bench  the benchmarks of tests/perf (minutes; prints tables)"
	@echo "make bench-peers  the same load by other load generators (installs them outside the checkout; prints a table)"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed (set PYTHON=)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	rm -rf $(OUT)
	$(BIN)/pytest suites/ -k h100 --llmperf-json=$(OUT)/results.json --llmperf-storage=$(OUT)/llmperf --alluredir=$(OUT)/allure-results
	@echo
	@echo "Results (JSON):          $(OUT)/results.json"
	@echo "Every run:               $(OUT)/llmperf/runs/*/run.json"
	@echo "Allure results:          $(OUT)/allure-results  (render: npx allure generate $(OUT)/allure-results --config $(OUT)/allure-results/allurerc.json)"

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	@# What the cluster's tests need is built beside the others, from the processor's idle time, where it is not there already.
	$(BIN)/python -m tests.cluster build --within=30 & trap "kill $$! 2>/dev/null" EXIT; $(TESTS) \
		&& { wait $$! || echo "What the cluster's tests need could not be built."; }
	@# All of it is to be over after 45 minutes: on a slow machine what is left of these is skipped, and named.
	LLMPERF_CLUSTER_BUILD=no LLMPERF_CLUSTER_UNTIL=$$(($(STARTED) + 43 * 60)) $(BIN)/pytest tests/cluster -rfEsR

test-quick: lint
	$(TESTS)

test-engine: $(VENV)/.installed
	$(BIN)/python tests/engine/install.py
	$(BIN)/pytest tests/engine

test-cluster: $(VENV)/.installed
	$(BIN)/python -m tests.cluster build
	$(BIN)/pytest tests/cluster -rs

cluster-up: $(VENV)/.installed
	$(BIN)/python -m tests.cluster build
	$(BIN)/python -m tests.cluster up

cluster-down: $(VENV)/.installed
	$(BIN)/python -m tests.cluster down

bench: $(VENV)/.installed
	$(BIN)/pytest tests/perf -s

bench-peers: $(VENV)/.installed
	$(BIN)/python -m tests.perf.peers

clean:
	rm -rf $(OUT) $(VENV) .mypy_cache .ruff_cache .pytest_cache .llmperf
