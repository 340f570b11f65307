# The client: asks, scores, reports. No GPU, no torch. Build from the checkout's root:
#   docker build --file docker/client.Dockerfile --tag fim-eval .
# PYTHON_IMAGE names another base with Python 3.11 or newer as `python`.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY fim_eval fim_eval
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir '.[humaneval]'

FROM ${PYTHON_IMAGE}
COPY --from=build /venv /venv
COPY servers/*.yaml /servers/
# A user of its own: nothing in here needs root. /work is for run directories, /cache for the hub's.
RUN useradd --uid 10001 --create-home fim && mkdir /work /cache && chown fim:fim /work /cache
USER fim
WORKDIR /work
ENV PATH=/venv/bin:$PATH HF_HOME=/cache PYTHONUNBUFFERED=1
HEALTHCHECK --interval=60s --timeout=10s CMD ["fim-eval", "--help"]
ENTRYPOINT ["fim-eval"]
CMD ["--help"]
