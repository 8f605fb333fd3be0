# A simulated vLLM server (docs/simulator.md). `docker build -t llmperf-simulator .`, then
# `docker run -p 8000:8000 -v ./spec.json:/spec.json llmperf-simulator --spec /spec.json --host 0.0.0.0 --port 8000`.
#
# Any image with Python 3.11 or later and its venv module can be the base.
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
# Where there is no package index: --no-index --find-links=DIR
ARG PIP_ARGS=""
RUN python3 -m venv /opt/llmperf
# What the simulator imports; the rest of the plugin's dependencies would make the image ten times as large.
RUN /opt/llmperf/bin/python -m pip install ${PIP_ARGS} --no-cache-dir httptools prometheus-client uvloop
COPY . /src
RUN /opt/llmperf/bin/python -m pip install ${PIP_ARGS} --no-cache-dir --no-deps /src

FROM ${BASE}
COPY --from=build /opt/llmperf /opt/llmperf
ENV PATH=/opt/llmperf/bin:${PATH} PYTHONUNBUFFERED=1
# Nobody in particular: the pod's security context may name another.
USER 1000:1000
EXPOSE 8000
ENTRYPOINT ["python", "-m", "pytest_llmperf.sim"]
