# fim_eval: make help lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
SERVER_VENV := .venv-server
BIN := $(VENV)/bin
SMOLLM2 := .cache/smollm2-135m
LADDER := .cache/ladder
EMBEDDED := 1m 2m
DEMO := runs/demo
AXE := .cache/axe-core/axe.min.js
AXE_VERSION := 4.14.1

# What `make eval` and `make serve-*` take. Empty: the default of the command.
MBPP ?= mbpp
SPLIT ?= test
KIND ?=
PER_PROBLEM ?=
SEED ?=
OUT ?= runs/eval
ENDPOINT ?=
MODEL ?=
CARD ?=
STRATEGIES ?=
GOLD ?=
TOKENIZER ?=
FORMAT ?=
LIMIT ?=
CONCURRENCY ?=
BATCH ?=
PRIORITY ?=
SHARD ?=
AUDIT ?=
STREAM ?=
API_KEY_ENV ?=
NO_VERIFY ?=
ISOLATION ?=
WORKERS ?=
ENGINE ?=
RUN ?= runs/eval
REPORT ?= runs/report
TP ?=
PP ?=
GPUS ?=
BATCH_INVARIANT ?=
REPLICAS ?=
PORT ?=
EXTRA ?=
SIZES ?=
TOKENS ?=

option = $(if $($(2)),$(1) "$($(2))")

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9.-]+:.*## / {printf "  %-26s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make eval takes   MBPP=PATH SPLIT=test KIND=single-line|multi-line|random-span|block PER_PROBLEM=N'
	@echo '                    SEED=N OUT=runs/eval ENDPOINT=URL MODEL=NAME CARD=NAME'
	@echo '                    STRATEGIES=lr,fim-psm GOLD=1 TOKENIZER=DIR FORMAT=NAME LIMIT=N'
	@echo '                    CONCURRENCY=N (prompts in flight at most) BATCH=N (in one request) PRIORITY=N SHARD=I/N AUDIT=5% STREAM=10%'
	@echo '                    API_KEY_ENV=NAME NO_VERIFY=1 ISOLATION=auto|namespaces|landlock|none WORKERS=N'
	@echo '                    ENGINE=ray (on the nodes of the Ray cluster at RAY_ADDRESS)'
	@echo '  make serve-* take TP=N PP=N GPUS=0,1 PORT=N REPLICAS=N BATCH_INVARIANT=1'
	@echo '                    EXTRA="vLLM options"'

.PHONY: demo demo-smollm2
demo: $(EMBEDDED:%=$(DEMO)/%.done) ## The whole study on this machine: two small models that infill, on vLLM, no GPU, no download but packages
	$(BIN)/fim-eval report $(DEMO) --out $(DEMO)/report
# Each model's own table is left out: the report's holds both.
# What other weights of the same name answered is no answer of these.
$(DEMO)/%.done: servers/ladder/models/%/SHA256SUMS | $(VENV)/ready $(SERVER_VENV)/ready
	@mkdir -p $(DEMO)
	@cmp -s $< $(DEMO)/$*.sums || rm -rf $(DEMO)/fim-eval-ladder-$*.*
	@cp $< $(DEMO)/$*.sums
	$(PYTHON) servers/with_server.py ladder-$* --log $(DEMO)/server-$*.log -- \
	  $(BIN)/fim-eval eval --problems starter --gold --tokenizer servers/ladder/models/$* --out $(DEMO) > /dev/null
	@touch $@
demo-smollm2: $(VENV)/ready $(SMOLLM2)/config.json ## The same with SmolLM2-135M, which was never trained to infill: left to right only
	$(PYTHON) servers/with_server.py smollm2 --log runs/demo-smollm2/server.log -- \
	  $(BIN)/fim-eval eval --problems starter --out runs/demo-smollm2

holes = $(call option,--kind,KIND) $(call option,--per-problem,PER_PROBLEM) $(call option,--seed,SEED)

evaluate = $(BIN)/fim-eval eval --problems "$(MBPP)" --split "$(SPLIT)" $(holes) --out "$(OUT)" --servers servers \
  $(call option,--endpoint,ENDPOINT) $(call option,--model,MODEL) $(call option,--card,CARD) \
  $(call option,--strategies,STRATEGIES) $(if $(GOLD),--gold) $(call option,--tokenizer,TOKENIZER) \
  $(call option,--format,FORMAT) \
  $(call option,--limit,LIMIT) $(call option,--max-concurrency,CONCURRENCY) \
  $(call option,--batch,BATCH) $(call option,--priority,PRIORITY) $(call option,--shard,SHARD) $(call option,--audit,AUDIT) $(call option,--stream,STREAM) \
  $(call option,--api-key-env,API_KEY_ENV) $(if $(NO_VERIFY),--no-verify) $(judged) $(engine)

engine = $(call option,--engine,ENGINE)
judged = $(call option,--isolation,ISOLATION) $(call option,--workers,WORKERS)

.PHONY: eval
eval: $(VENV)/ready ## Ask every server that answers (or ENDPOINT= MODEL=) all of MBPP's tasks, judge, print one table
	$(strip $(evaluate))

.PHONY: verify report selfcheck doctor
verify: $(VENV)/ready ## Judge what runs hold, or what is missing of it: RUN=runs/eval, ENGINE=ray
	$(strip $(BIN)/fim-eval verify "$(RUN)" $(judged) $(engine))
report: $(VENV)/ready ## The answer, with every number behind it: RUN=runs/eval REPORT=runs/report
	$(BIN)/fim-eval report "$(RUN)" --out "$(REPORT)"
selfcheck: $(VENV)/ready ## Ceiling and floor of MBPP: reference answers and empty ones through the judge
	$(strip $(BIN)/fim-eval selfcheck --problems "$(MBPP)" --split "$(SPLIT)" $(holes) $(judged))
doctor: $(VENV)/ready ## What this machine offers: isolation, cores, memory, servers that answer
	$(BIN)/fim-eval doctor --servers servers

serve = $(if $(GPUS),CUDA_VISIBLE_DEVICES="$(GPUS)") $(if $(BATCH_INVARIANT),VLLM_BATCH_INVARIANT=1) \
  $(if $(REPLICAS),$(PYTHON) servers/replicas.py $(1) $(REPLICAS),servers/serve.sh $(1)) \
  $(call option,--tensor-parallel-size,TP) \
  $(call option,--pipeline-parallel-size,PP) $(call option,--port,PORT) $(EXTRA)

.PHONY: serve-7b serve-13b serve-34b serve-70b serve-7b-instruct serve-13b-instruct
.PHONY: serve-starcoder2-7b serve-deepseek-coder-6.7b serve-qwen2.5-coder-7b serve-smollm2
serve-7b: $(SERVER_VENV)/ready ## Serve Code Llama 7B on port 8007 (1 GPU)
	$(strip $(call serve,7b))
serve-13b: $(SERVER_VENV)/ready ## Serve Code Llama 13B on port 8013 (1 GPU)
	$(strip $(call serve,13b))
serve-34b: $(SERVER_VENV)/ready ## Serve Code Llama 34B on port 8034 (2 GPUs)
	$(strip $(call serve,34b))
serve-70b: $(SERVER_VENV)/ready ## Serve Code Llama 70B on port 8070 (4 GPUs)
	$(strip $(call serve,70b))
serve-7b-instruct: $(SERVER_VENV)/ready ## Serve Code Llama 7B Instruct on port 8107 (1 GPU)
	$(strip $(call serve,7b-instruct))
serve-13b-instruct: $(SERVER_VENV)/ready ## Serve Code Llama 13B Instruct on port 8113 (1 GPU)
	$(strip $(call serve,13b-instruct))
serve-starcoder2-7b: $(SERVER_VENV)/ready ## Serve StarCoder2 7B on port 8207 (1 GPU)
	$(strip $(call serve,starcoder2-7b))
serve-deepseek-coder-6.7b: $(SERVER_VENV)/ready ## Serve DeepSeek-Coder 6.7B on port 8306 (1 GPU)
	$(strip $(call serve,deepseek-coder-6.7b))
serve-qwen2.5-coder-7b: $(SERVER_VENV)/ready ## Serve Qwen2.5-Coder 7B on port 8407 (1 GPU)
	$(strip $(call serve,qwen2.5-coder-7b))
serve-smollm2: $(SMOLLM2)/config.json ## Serve the embedded SmolLM2-135M on port 8135 (CPU)
	$(strip $(call serve,smollm2))
.PHONY: serve-ladder-1m serve-ladder-2m serve-ladder-4m serve-ladder-8m
serve-ladder-1m: $(SERVER_VENV)/ready ## Serve the embedded ladder model of 0.9 M parameters on port 8201 (CPU)
	$(strip $(call serve,ladder-1m))
serve-ladder-2m: $(SERVER_VENV)/ready ## Serve the embedded ladder model of 1.9 M parameters on port 8202 (CPU)
	$(strip $(call serve,ladder-2m))
serve-ladder-4m: $(LADDER)/4m/config.json ## Serve the ladder model of 4.0 M parameters on port 8203 (CPU)
	$(strip $(call serve,ladder-4m))
serve-ladder-8m: $(LADDER)/8m/config.json ## Serve the ladder model of 7.5 M parameters on port 8204 (CPU)
	$(strip $(call serve,ladder-8m))

# Memory is kept between steps, not given back and zeroed again: faster (servers/ladder/README.md).
ladder = MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 \
  MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 TQDM_DISABLE=1 PYTHONPATH=servers \
  $(SERVER_VENV)/bin/python -m ladder --out $(LADDER) $(call option,--tokens,TOKENS)

.PHONY: ladder ladder-embed ladder-overlaps
ladder: $(SERVER_VENV)/ready ## Train the ladder, or what is missing of it: SIZES="1m 2m 4m 8m" TOKENS=N
	$(ladder) $(SIZES)
$(LADDER)/%/config.json: | $(SERVER_VENV)/ready
	$(ladder) $*
ladder-embed: ## Put the two smallest models that `make ladder` has trained into the repository
	for size in $(EMBEDDED); do \
	  test -f $(LADDER)/$$size/config.json; \
	  mkdir -p servers/ladder/models/$$size; \
	  cp $(LADDER)/$$size/* servers/ladder/models/$$size/; \
	done
ladder-overlaps: $(VENV)/ready ## Search the ladder's text for the programs of MBPP, HumanEval and the starter set: MBPP=PATH
	PYTHONPATH=servers $(BIN)/python -m ladder.overlaps "$(MBPP)"

.PHONY: check
check: $(VENV)/ready ## Format, lint, types, import contract, unit tests: under a minute, no network
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit

.PHONY: test
test: $(VENV)/ready ## All tests, real vLLM on the CPU included; sets up what they need
	@$(MAKE) --no-print-directory $(SMOLLM2)/config.json || \
	  echo 'make test: vLLM for the CPU could not be set up (see above); its tests are skipped' >&2
	$(BIN)/python -m pytest tests

.PHONY: axe-core
axe-core: $(AXE) ## Fetch the checker of accessibility that tests of the report's page use (npm)
$(AXE):
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent axe-core@$(AXE_VERSION)
	tar -xzf $(@D)/axe-core-$(AXE_VERSION).tgz -C $(@D) --strip-components=1 package/axe.min.js
	rm $(@D)/axe-core-$(AXE_VERSION).tgz

.PHONY: format
format: $(VENV)/ready ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: env env-server
env: $(VENV)/ready ## Set up the client's environment (.venv)
env-server: $(SERVER_VENV)/ready ## Set up the server's environment (.venv-server): vLLM for GPUs, or for the CPU

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; fim_eval needs 3.11 or newer: make PYTHON=/path/to/python3.11 ...")'
	@echo '[client environment] half a minute' >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off --editable '.[dev]'
	@touch $@

$(SERVER_VENV)/ready: servers/install.sh
	PYTHON="$(PYTHON)" servers/install.sh $(SERVER_VENV)

$(SMOLLM2)/config.json: $(SERVER_VENV)/ready servers/prepare_smollm2.py
	TQDM_DISABLE=1 $(SERVER_VENV)/bin/python servers/prepare_smollm2.py $(SMOLLM2)

.PHONY: clean
clean: ## Remove environments and caches; runs/ stays
	rm -rf $(VENV) $(SERVER_VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
