"""The files that start servers: configurations, compose, make targets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from fim_eval.architecture import architecture_of
from fim_eval.formats import card_of
from fim_eval.server import known_servers

ROOT = Path(__file__).parents[2]
SIZES = ("7b", "13b", "34b", "70b")
OTHERS = ("7b-instruct", "13b-instruct", "starcoder2-7b", "deepseek-coder-6.7b", "qwen2.5-coder-7b")
HUB = (*SIZES, *OTHERS)
LADDER = ("ladder-1m", "ladder-2m", "ladder-4m", "ladder-8m")


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "servers" / f"{name}.yaml").read_text())
    return loaded


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    return loaded


def dry_run(*arguments: str) -> list[str]:
    """The lines that make would run, environments taken as ready."""
    ready = (".venv/ready", ".venv-server/ready", ".cache/smollm2-135m/config.json")
    old = [word for path in ready for word in ("-o", path)]
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", *old, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout.replace("\\\n", " ").splitlines()


def words(line: str) -> list[str]:
    return line.split()


def commands(*arguments: str) -> list[str]:
    """What make would run, one command each, in single spaces."""
    return [" ".join(words(line)) for line in dry_run(*arguments) if line.strip()]


@pytest.mark.parametrize("name", HUB)
def test_a_model_is_served_under_its_own_name_at_the_revision_on_its_card(name: str) -> None:
    settings = config(name)
    card = card_of(settings["model"])
    assert card is not None
    assert settings["model"] == settings["served-model-name"] == card.model_id
    assert settings["revision"] == settings["tokenizer-revision"] == card.revision


def test_sizes_of_one_study_differ_in_nothing_but_model_port_and_gpus() -> None:
    own = {"model", "served-model-name", "revision", "tokenizer-revision", "port",
           "tensor-parallel-size"}  # fmt: skip
    rest = [{k: v for k, v in config(name).items() if k not in own} for name in HUB]
    assert rest == [rest[0]] * len(HUB)
    assert rest[0]["generation-config"] == "vllm"
    assert rest[0]["dtype"] == "bfloat16"


def test_every_server_has_a_port_of_its_own_and_stays_on_this_machine() -> None:
    servers = known_servers(ROOT / "servers")
    assert {server.config for server in servers} == {*HUB, "smollm2", *LADDER}
    assert len({server.base_url for server in servers}) == len(servers)
    assert all(config(server.config)["host"] == "127.0.0.1" for server in servers)


@pytest.mark.parametrize("name", ["smollm2", *LADDER])
def test_the_name_of_a_model_that_is_no_hub_s_finds_its_card(name: str) -> None:
    assert card_of(config(name)["served-model-name"]) is not None


@pytest.mark.parametrize("name", LADDER[:2])
def test_make_serve_starts_a_ladder_model_that_is_in_the_repository(name: str) -> None:
    assert (ROOT / config(name)["model"] / "model.safetensors").exists()
    assert words(dry_run(f"serve-{name}")[-1]) == ["servers/serve.sh", name]


@pytest.mark.parametrize("name", LADDER[2:])
def test_make_serve_trains_a_ladder_model_that_is_not_and_starts_it(name: str) -> None:
    size = name.removeprefix("ladder-")
    assert config(name)["model"] == f".cache/ladder/{size}"
    train, serve = dry_run(f"serve-{name}", "LADDER=absent")[-2:]
    assert train.split()[-5:] == ["-m", "ladder", "--out", "absent", size]
    assert serve.split() == ["servers/serve.sh", name]


@pytest.mark.parametrize("name", HUB)
def test_make_serve_starts_that_model(name: str) -> None:
    assert [words(line) for line in dry_run(f"serve-{name}")] == [["servers/serve.sh", name]]


@pytest.mark.parametrize("name", HUB)
def test_every_server_splits_its_model_into_what_vllm_can(name: str) -> None:
    settings = config(name)
    architecture = architecture_of(settings["model"])
    assert architecture is not None
    assert architecture.splits_into(settings["tensor-parallel-size"])
    card = card_of(settings["model"])
    assert card is not None
    first_lines = (ROOT / "servers" / f"{name}.yaml").read_text().splitlines()[:2]
    gigabytes = f"{card.parameters * 2 / 1e9:.3g} GB of weights"
    assert gigabytes in first_lines[1], "the file says how much memory it takes"


def test_every_option_of_the_servers_has_its_reason() -> None:
    reasons = (ROOT / "servers" / "README.md").read_text()
    own = {"model", "port"}
    unexplained = [key for key in config("7b") if key not in own and f"`{key}" not in reasons]
    assert unexplained == []


def test_make_serve_passes_on_gpus_port_and_other_options() -> None:
    line = dry_run("serve-70b", "TP=8", "PORT=9000", "EXTRA=--max-model-len 16384")[0]
    assert words(line) == [
        "servers/serve.sh", "70b", "--tensor-parallel-size", '"8"', "--port", '"9000"',
        "--max-model-len", "16384",
    ]  # fmt: skip


def test_make_eval_asks_the_servers_of_this_folder_unless_an_endpoint_is_named() -> None:
    assert words(dry_run("eval")[0]) == [
        ".venv/bin/fim-eval", "eval", "--problems", '"mbpp"', "--split", '"test"', "--out",
        '"runs/eval"', "--servers", "servers",
    ]  # fmt: skip
    line = dry_run("eval", "ENDPOINT=https://c.example/a/v1", "MODEL=m", "MBPP=/data/mbpp.jsonl")[0]
    assert words(line)[2:4] == ["--problems", '"/data/mbpp.jsonl"']
    assert words(line)[-4:] == ["--endpoint", '"https://c.example/a/v1"', "--model", '"m"']
    assert words(dry_run("eval", "ENGINE=ray")[0])[-2:] == ["--engine", '"ray"']
    polite = words(dry_run("eval", "CONCURRENCY=8", "PRIORITY=10")[0])
    assert polite[-4:] == ["--max-concurrency", '"8"', "--priority", '"10"']


def test_make_serve_chooses_gpus_pipeline_and_batch_invariance() -> None:
    line = dry_run("serve-70b", "TP=4", "PP=2", "GPUS=0,1", "BATCH_INVARIANT=1")[0]
    assert words(line) == [
        'CUDA_VISIBLE_DEVICES="0,1"', "VLLM_BATCH_INVARIANT=1", "servers/serve.sh", "70b",
        "--tensor-parallel-size", '"4"', "--pipeline-parallel-size", '"2"',
    ]  # fmt: skip


SERVED = (*HUB, "smollm2")
COMMANDS = {
    "demo-smollm2": "python3 servers/with_server.py smollm2 --log runs/demo-smollm2/server.log -- "
    ".venv/bin/fim-eval eval --problems starter --out runs/demo-smollm2",
    "verify": '.venv/bin/fim-eval verify "runs/eval"',
    "verify ENGINE=ray": '.venv/bin/fim-eval verify "runs/eval" --engine "ray"',
    "report": '.venv/bin/fim-eval report "runs/eval" --out "runs/report"',
    "selfcheck": '.venv/bin/fim-eval selfcheck --problems "mbpp" --split "test"',
    "doctor": ".venv/bin/fim-eval doctor --servers servers",
    "ladder SIZES=1m TOKENS=5": "MALLOC_MMAP_THRESHOLD_=4294967296 "
    "MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 "
    "TQDM_DISABLE=1 PYTHONPATH=servers "
    '.venv-server/bin/python -m ladder --out .cache/ladder --tokens "5" 1m',
    "ladder-overlaps": 'PYTHONPATH=servers .venv/bin/python -m ladder.overlaps "mbpp"',
    **{f"serve-{name}": f"servers/serve.sh {name}" for name in SERVED},
}


HOUSEKEEPING = {
    "check": [
        ".venv/bin/ruff format --check .",
        ".venv/bin/ruff check .",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
        ".venv/bin/python -m pytest tests/unit",
    ],
    "ladder-embed": [
        "for size in 1m 2m; do test -f .cache/ladder/$size/config.json; "
        "mkdir -p servers/ladder/models/$size; "
        "cp .cache/ladder/$size/* servers/ladder/models/$size/; done"
    ],
    "axe-core AXE=absent/axe.min.js": [
        "mkdir -p absent",
        "cd absent && npm pack --silent axe-core@4.14.1",
        "tar -xzf absent/axe-core-4.14.1.tgz -C absent --strip-components=1 package/axe.min.js",
        "rm absent/axe-core-4.14.1.tgz",
    ],
    "format": [".venv/bin/ruff format .", ".venv/bin/ruff check --fix ."],
    "env-server SERVER_VENV=absent": ['PYTHON="python3" servers/install.sh absent'],
    "clean": [
        "rm -rf .venv .venv-server .cache build dist *.egg-info .mypy_cache .pytest_cache "
        ".ruff_cache .hypothesis .import_linter_cache"
    ],
}


@pytest.mark.parametrize("target", COMMANDS)
def test_a_make_target_runs_one_command(target: str) -> None:
    assert commands(*target.split()) == [COMMANDS[target]]


@pytest.mark.parametrize("target", HOUSEKEEPING)
def test_a_make_target_that_keeps_house_runs_its_commands(target: str) -> None:
    assert commands(*target.split()) == HOUSEKEEPING[target]


def test_make_env_looks_at_the_python_and_installs_the_client_with_its_tools() -> None:
    look, tell, make, install, note = commands("env", "VENV=absent")
    assert look.startswith("python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit(")
    assert tell == "echo '[client environment] half a minute' >&2"
    assert make == "python3 -m venv absent"
    assert install.split()[:4] == ["absent/bin/python", "-m", "pip", "install"]
    assert install.split()[-2:] == ["--editable", "'.[dev]'"]
    assert note == "touch absent/ready"


def test_make_test_sets_vllm_up_and_runs_all_tests_with_or_without_it() -> None:
    # A line with another make in it is run even by `make -n`: no test may stand on it.
    set_up, *_, run = commands("test", "SMOLLM2=absent", "BIN=absent")
    assert set_up.startswith("make --no-print-directory absent/config.json || echo ")
    assert run == "absent/python -m pytest tests"


def test_make_demo_asks_both_embedded_models_one_after_the_other_and_reports_both() -> None:
    small = ("touch ", "mkdir ", "cmp ", "cp ")
    lines = [
        " ".join(words(line))
        for line in dry_run("demo", "DEMO=absent")
        if not line.startswith(small)
    ]
    for size, line in zip(("1m", "2m"), lines, strict=False):
        assert line == (
            f"python3 servers/with_server.py ladder-{size} --log absent/server-{size}.log -- "
            ".venv/bin/fim-eval eval --problems starter --gold "
            f"--tokenizer servers/ladder/models/{size} --out absent > /dev/null"
        )
    assert lines[2:] == [".venv/bin/fim-eval report absent --out absent/report"]


def test_make_demo_keeps_answers_of_the_same_weights_only(tmp_path: Path) -> None:
    lines = [
        line
        for line in dry_run("demo", f"DEMO={tmp_path}")
        if line.startswith(("cmp ", "cp ")) and "1m" in line
    ]
    assert len(lines) == 2
    answers = [tmp_path / f"fim-eval-ladder-{size}.lr" for size in ("1m", "2m")]
    for sums, kept in ((None, False), ("others'", False), ("the same", True)):
        for each in answers:
            each.mkdir(exist_ok=True)
        if sums == "others'":
            (tmp_path / "1m.sums").write_text(sums)
        for line in lines:
            subprocess.run(["sh", "-ec", line], cwd=ROOT, check=True)
        assert answers[0].exists() == kept
        assert answers[1].exists()


def test_every_make_target_is_held_against_its_commands() -> None:
    known = {target.split()[0] for target in (*COMMANDS, *HOUSEKEEPING)}
    known |= {"eval", "demo", "env", "test", "help", *(f"serve-{name}" for name in LADDER)}
    lines = (ROOT / "Makefile").read_text().splitlines()
    named = {name for line in lines if line.startswith(".PHONY:") for name in words(line)[1:]}
    named |= {line.partition(":")[0] for line in lines if re.match(r"[a-z0-9.-]+:(?!=)", line)}
    assert named - known == set()
    assert known - named == set()


def test_make_serve_with_replicas_puts_a_router_before_them() -> None:
    line = dry_run("serve-7b", "REPLICAS=4", "TP=2", "PORT=9000")[0]
    assert words(line) == [
        "python3", "servers/replicas.py", "7b", "4", "--tensor-parallel-size", '"2"', "--port",
        '"9000"',
    ]  # fmt: skip


def test_make_help_lists_every_target() -> None:
    targets = set(
        re.findall(r"^([a-z][a-z0-9.-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    listed = {words(line)[0] for line in subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines() if line.startswith("  ") and words(line)}  # fmt: skip
    assert targets <= listed


def test_shell_scripts_have_no_fault_that_shellcheck_knows() -> None:
    scripts = [*ROOT.glob("servers/*.sh"), *ROOT.glob("servers/slurm/*.s*"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 7
    tool = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([tool, *scripts], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_compose_file_is_a_compose_file() -> None:
    # Its merge keys resolved first: the validator knows compose, not YAML 1.1.
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose())).validate()


@pytest.mark.parametrize("profile", [*SIZES, "cpu"])
def test_a_profile_is_one_server_and_one_evaluation_that_waits_for_it(profile: str) -> None:
    services = {
        name: service
        for name, service in compose()["services"].items()
        if profile in service["profiles"]
    }
    assert set(services) == {f"server-{profile}", f"eval-{profile}"}
    evaluation = services[f"eval-{profile}"]
    assert evaluation["depends_on"] == {f"server-{profile}": {"condition": "service_healthy"}}
    settings = config("smollm2" if profile == "cpu" else profile)
    environment = evaluation["environment"]
    assert environment["FIM_EVAL_ENDPOINT"] == f"http://server-{profile}:{settings['port']}/v1"
    assert environment["FIM_EVAL_MODEL"] == settings["served-model-name"]
    health = services[f"server-{profile}"]["healthcheck"]["test"]
    assert health[:2] == ["CMD", "python3"], "the image has no curl"
    assert f":{settings['port']}/health" in health[-1]


def test_images_are_pinned() -> None:
    images = {service["image"] for service in compose()["services"].values()}
    assert images == {"vllm/vllm-openai:v0.33.0", "fim-eval", "fim-eval-server-cpu"}
