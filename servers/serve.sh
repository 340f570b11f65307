#!/usr/bin/env bash
# Start one vLLM server in the foreground: servers/serve.sh NAME [vLLM options that override NAME.yaml]
# From the environment: CUDA_VISIBLE_DEVICES, VLLM_BATCH_INVARIANT=1, CHECK=0 (do not look first),
# SERVER_PYTHON (the Python of another environment that holds vLLM), DRY_RUN=1 (print the command).
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?usage: servers/serve.sh NAME [vLLM options]; NAME is one of: $(cd servers && echo *.yaml)}
shift
config=servers/$name.yaml
python=${SERVER_PYTHON:-.venv-server/bin/python}
[[ -f $config ]] || { echo "servers/serve.sh: $config does not exist; there are: $(cd servers && echo *.yaml)" >&2; exit 1; }
[[ -x $python ]] || command -v "$python" >/dev/null ||
    { echo "servers/serve.sh: $python does not exist; run make env-server" >&2; exit 1; }

# Longer than any pause of a client between two requests on one connection (vLLM's default: 5 s).
export VLLM_HTTP_TIMEOUT_KEEP_ALIVE=${VLLM_HTTP_TIMEOUT_KEEP_ALIVE:-120}
export VLLM_NO_USAGE_STATS=1
export DO_NOT_TRACK=1
if ! command -v nvidia-smi >/dev/null; then
    export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2} # GB
    export VLLM_HOST_IP=${VLLM_HOST_IP:-127.0.0.1}
fi
[[ $name == smollm2 || $name == ladder-* ]] && export HF_HUB_OFFLINE=1

# `vllm serve` looks for a distribution named vllm, which the CPU build is not; the module below
# has no --headless, which the further nodes of a server on several need.
serve=(-m vllm.entrypoints.openai.api_server)
if "$python" -c 'import importlib.metadata as m; m.version("vllm")' 2>/dev/null; then
    serve=(-m vllm.entrypoints.cli.main serve)
fi
command=("$python" "${serve[@]}" --config "$config" "$@")
if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "${command[*]}"
    exit
fi
[[ ${CHECK:-1} == 0 ]] || "$python" servers/check.py "$config" "$@"
exec "${command[@]}"
