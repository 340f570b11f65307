# vLLM on the CPU with the embedded SmolLM2-135M. Build from the checkout's root:
#   docker build --file docker/server-cpu.Dockerfile --tag fim-eval-server-cpu .
# PYTHON_IMAGE names another base with Python 3.11 or newer as `python`.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY fim_eval fim_eval
COPY servers servers
RUN PYTHON=python PIP_NO_CACHE_DIR=1 servers/install.sh .venv-server \
    && TQDM_DISABLE=1 .venv-server/bin/python servers/prepare_smollm2.py .cache/smollm2-135m
EXPOSE 8135
ENTRYPOINT ["servers/serve.sh", "smollm2", "--host", "0.0.0.0"]
