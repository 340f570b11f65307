"""The hub's way of giving data: from a stand-in on loopback, from a folder, and without it.

The real hub is not asked: that the stand-in speaks as it does is known from `huggingface_hub` and
`datasets` being content with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from fim_eval.formats import card_of
from fim_eval.problems import HUB_REPOSITORY, HUB_REVISION, mbpp_split
from fim_eval.records import InfillTask, TaskFacts
from tests.data_paths import (
    FULL,
    SANITIZED,
    mbpp_path,
    needs_mbpp,
    needs_tokenizer,
    tokenizer_folder,
)
from tests.integration import environment, fim_eval, made_tasks, write_tasks
from tests.integration.hub_stand_in import Hub

SPLITS = ("train", "test", "validation", "prompt")
"""In the order of the repository's README."""

STRING = {"dtype": "string"}
FULL_FEATURES = {
    "task_id": {"dtype": "int32"},
    "text": STRING,
    "code": STRING,
    "test_list": {"sequence": "string"},
    "test_setup_code": STRING,
    "challenge_test_list": {"sequence": "string"},
}
SANITIZED_FEATURES = {
    "source_file": STRING,
    "task_id": {"dtype": "int32"},
    "prompt": STRING,
    "code": STRING,
    "test_imports": {"sequence": "string"},
    "test_list": {"sequence": "string"},
}
TYPES: dict[str, Any] = {
    "int32": pl.Int32,
    "string": pl.String,
}

Row = Mapping[str, Any]


def made_up_row(number: int) -> dict[str, Any]:
    """A problem like those of the full set: CRLF line ends, a setup, a challenge."""
    return {
        "text": f"Write a function that adds {number} to its argument. ",
        "code": f"def add_{number}(x): \r\n\ttotal = x + {number}\r\n\treturn total\r\n",
        "task_id": number,
        "test_setup_code": "import math" if number % 2 else "",
        "test_list": [f"assert add_{number}(1) == {number + 1}"],
        "challenge_test_list": [f"assert add_{number}(-1) == {number - 1}"],
    }


def made_up_sanitized_row(number: int) -> dict[str, Any]:
    return {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": number,
        "prompt": f"Write a function that adds {number} to its argument.",
        "code": f"def add_{number}(x):\n    total = x + {number}\n    return total",
        "test_imports": ["import math", "import re"] if number % 2 else [],
        "test_list": [f"assert add_{number}(1) == {number + 1}"],
    }


NUMBERS = (2, 10, 11, 12, 510, 511, 600, 601, 974)
"""Around both ends of every split."""

MADE_UP = [made_up_row(number) for number in NUMBERS]
MADE_UP_SANITIZED = [made_up_sanitized_row(number) for number in NUMBERS]


def lay_out(folder: Path, full: Sequence[Row], sanitized: Sequence[Row]) -> Path:
    """The rows in the layout of the hub's repository, README included."""
    infos, configs = [], []
    for config, rows, features in (
        ("full", full, FULL_FEATURES),
        ("sanitized", sanitized, SANITIZED_FEATURES),
    ):
        (folder / config).mkdir(parents=True)
        counts = []
        for split in SPLITS:
            chosen = [row for row in rows if mbpp_split(row["task_id"]) == split]
            path = folder / config / f"{split}-00000-of-00001.parquet"
            as_frame(chosen, features).write_parquet(path)
            counts.append((split, len(chosen), path.stat().st_size))
        infos.append(info(config, features, counts))
        configs.append(
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}-*"} for split in SPLITS],
                **({"default": True} if config == "full" else {}),
            }
        )
    # JSON is YAML.
    head = json.dumps({"license": ["cc-by-4.0"], "dataset_info": infos, "configs": configs})
    (folder / "README.md").write_text(f"---\n{head}\n---\n\n# Stand-in\n")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    return folder


def info(
    config: str, features: Mapping[str, Any], counts: Iterable[tuple[str, int, int]]
) -> dict[str, Any]:
    listed = list(counts)
    size = sum(size for _, _, size in listed)
    return {
        "config_name": config,
        "features": [{"name": name, **kind} for name, kind in features.items()],
        "splits": [
            {"name": split, "num_bytes": size, "num_examples": rows} for split, rows, size in listed
        ],
        "download_size": size,
        "dataset_size": size,
    }


def as_frame(rows: Sequence[Row], features: Mapping[str, Any]) -> pl.DataFrame:
    schema = {
        name: pl.List(TYPES[kind["sequence"]]) if "sequence" in kind else TYPES[kind["dtype"]]
        for name, kind in features.items()
    }
    return pl.DataFrame([{name: row[name] for name in features} for row in rows], schema=schema)


def as_file(path: Path, rows: Sequence[Row]) -> Path:
    """The rows as Google published them: JSON lines, or one array."""
    if path.suffix == ".jsonl":
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    else:
        path.write_bytes(orjson.dumps(rows))
    return path


def build(
    folder: Path, problems: str | Path, split: str, env: Mapping[str, str]
) -> tuple[list[InfillTask], TaskFacts]:
    """Tasks and facts that `fim-eval tasks` writes; each call into the same file."""
    done = fim_eval(
        "tasks", "--problems", problems, "--split", split, "--out", "tasks.jsonl",
        cwd=folder, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (folder / "tasks.jsonl").read_bytes().splitlines()
    facts = (folder / "tasks.jsonl.facts.json").read_bytes()
    return (
        [InfillTask.model_validate_json(line) for line in lines],
        TaskFacts.model_validate_json(facts),
    )


def online(hub: Hub, home: Path) -> dict[str, str]:
    """An environment in which the hub is the stand-in, and nothing is cached."""
    return environment(
        HF_ENDPOINT=hub.endpoint, HF_HOME=str(home / "hf"), HF_HUB_DISABLE_TELEMETRY="1"
    )


def offline(home: Path) -> dict[str, str]:
    return environment(HF_HUB_OFFLINE="1", HF_HOME=str(home / "hf"))


class TestMadeUpProblems:
    @pytest.mark.parametrize(
        ("name", "config", "file"),
        [("mbpp", "full", "mbpp.jsonl"), ("mbpp-sanitized", "sanitized", "sanitized-mbpp.json")],
    )
    def test_from_the_hub_are_those_of_the_file(
        self, tmp_path: Path, name: str, config: str, file: str
    ) -> None:
        rows = MADE_UP if config == "full" else MADE_UP_SANITIZED
        repository = lay_out(tmp_path / "hub", MADE_UP, MADE_UP_SANITIZED)
        with Hub({f"datasets/{HUB_REPOSITORY}": (repository, HUB_REVISION)}) as hub:
            tasks, facts = build(tmp_path, name, "all", online(hub, tmp_path))
        assert [task.problem_id for task in tasks] == [
            f"MBPP/{number}" for number in NUMBERS for _line in range(2)
        ]
        assert tasks[0].middle == ("\t" if config == "full" else "    ") + "total = x + 2\n"
        assert facts.dataset.name == name
        assert facts.dataset.source == f"{HUB_REPOSITORY} {config} @ {HUB_REVISION}"
        assert facts.dataset.problems == 9
        assert facts.dataset.sha256 is None

        published = as_file(tmp_path / file, rows)
        same, from_file = build(tmp_path, published, "all", offline(tmp_path))
        assert same == tasks
        assert from_file.dataset.content_sha256 == facts.dataset.content_sha256
        assert from_file.tasks_sha256 == facts.tasks_sha256

        if name == "mbpp":
            # The hub has stopped: what was fetched once is there.
            assert build(tmp_path, name, "all", offline(tmp_path)) == (tasks, facts)

    def test_in_a_folder_of_the_hubs_layout_need_no_hub(self, tmp_path: Path) -> None:
        repository = lay_out(tmp_path / "repository", MADE_UP, MADE_UP_SANITIZED)
        with Hub({}) as hub:
            tasks, facts = build(tmp_path, repository, "validation", online(hub, tmp_path))
            asked_for_data = [one for one in hub.requests if "/datasets/" in one]
        assert asked_for_data == []
        assert [task.problem_id for task in tasks[::2]] == ["MBPP/511", "MBPP/600"]
        assert facts.dataset.source == f"{repository} full"
        assert facts.dataset.problems == 9
        published = as_file(tmp_path / "mbpp.jsonl", MADE_UP)
        same, from_file = build(tmp_path, published, "validation", offline(tmp_path))
        assert same == tasks
        assert facts.dataset.content_sha256 == from_file.dataset.content_sha256

    def test_of_another_revision_are_not_taken(self, tmp_path: Path) -> None:
        repository = lay_out(tmp_path / "hub", MADE_UP, MADE_UP_SANITIZED)
        with Hub({f"datasets/{HUB_REPOSITORY}": (repository, "0" * 40)}) as hub:
            done = fim_eval(
                "tasks", "--problems", "mbpp", "--out", "tasks.jsonl",
                cwd=tmp_path, env=online(hub, tmp_path),
            )  # fmt: skip
            assert all("0" * 40 not in request for request in hub.requests)
        assert done.returncode == 1
        assert HUB_REVISION in done.stderr
        assert not (tmp_path / "tasks.jsonl").exists()


class TestWithoutTheHub:
    def test_one_sentence_tells_how_to_get_the_file(self, tmp_path: Path) -> None:
        done = fim_eval(
            "tasks", "--problems", "mbpp", "--out", "tasks.jsonl",
            cwd=tmp_path, env=offline(tmp_path),
        )  # fmt: skip
        notice, told = done.stderr.splitlines()
        assert notice.startswith("reading ")
        assert done.returncode == 1
        assert told.startswith(f"fim-eval: {HUB_REPOSITORY} full @ {HUB_REVISION}: cannot be read")
        assert "download mbpp.jsonl once from https://github.com/google-research/" in told
        assert "--problems PATH" in told
        assert "`make demo` needs neither network nor file" in told
        assert not (tmp_path / "tasks.jsonl").exists()

    def test_a_folder_of_another_layout_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("no data set\n")
        done = fim_eval(
            "tasks", "--problems", "mine", "--out", "tasks.jsonl",
            cwd=tmp_path, env=offline(tmp_path),
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("fim-eval: mine: is no data set in the hub's layout")
        assert done.stderr.count("\n") == 1

    def test_one_sentence_tells_how_to_get_a_tokenizer(self, tmp_path: Path) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(1))
        done = fim_eval(
            "prompts", "--tasks", file, "--model", "codellama/CodeLlama-7b-hf",
            "--strategy", "fim-psm", "--out", "-", cwd=tmp_path, env=offline(tmp_path),
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("fim-eval: codellama/CodeLlama-7b-hf: is no folder")
        assert "name its folder with --tokenizer" in done.stderr
        assert done.stderr.count("\n") == 1


@needs_mbpp
class TestTheRealProblems:
    def test_from_the_hub_are_those_of_the_files(self, tmp_path: Path) -> None:
        full = [orjson.loads(line) for line in mbpp_path(FULL).read_bytes().splitlines()]
        sanitized = orjson.loads(mbpp_path(SANITIZED).read_bytes())
        repository = lay_out(tmp_path / "hub", full, sanitized)
        with Hub({f"datasets/{HUB_REPOSITORY}": (repository, HUB_REVISION)}) as hub:
            env = online(hub, tmp_path)
            tasks, facts = build(tmp_path, "mbpp", "test", env)
            sanitized_tasks, sanitized_facts = build(tmp_path, "mbpp-sanitized", "test", env)
        assert (len(tasks), facts.tasks, facts.dataset.problems) == (2757, 2757, 974)
        assert (len(sanitized_tasks), sanitized_facts.dataset.problems) == (1234, 427)
        assert facts.dataset.source.endswith(f" @ {HUB_REVISION}")
        assert sanitized_facts.dataset.source.endswith(f" @ {HUB_REVISION}")

        same, from_file = build(tmp_path, mbpp_path(FULL), "test", offline(tmp_path))
        assert same == tasks
        assert from_file.dataset.content_sha256 == facts.dataset.content_sha256
        same, from_file = build(tmp_path, mbpp_path(SANITIZED), "test", offline(tmp_path))
        assert same == sanitized_tasks
        assert from_file.dataset.content_sha256 == sanitized_facts.dataset.content_sha256


class TestATokenizer:
    REPOSITORY = "codellama/CodeLlama-7b-hf"

    @staticmethod
    def revision() -> str:
        card = card_of("codellama/CodeLlama-7b-hf")
        assert card is not None
        assert card.revision is not None
        return card.revision

    def prompts(self, folder: Path, env: Mapping[str, str], *more: str | Path) -> Any:
        file = write_tasks(folder / "tasks.jsonl", made_tasks(3))
        return fim_eval(
            "prompts", "--tasks", file, "--model", self.REPOSITORY, "--strategy", "fim-psm",
            "--out", "-", *more, cwd=folder, env=env,
        )  # fmt: skip

    def test_is_fetched_at_the_revision_of_the_card(self, tmp_path: Path) -> None:
        """What comes is no tokenizer of Code Llama, and is refused by name."""
        repository = tmp_path / "hub"
        repository.mkdir()
        (repository / "tokenizer.model").write_bytes(b"no SentencePiece model")
        with Hub({self.REPOSITORY: (repository, self.revision())}) as hub:
            done = self.prompts(tmp_path, online(hub, tmp_path))
            assert any(
                request.endswith(f"/resolve/{self.revision()}/tokenizer.model")
                for request in hub.requests
            )
        assert done.returncode == 1
        assert "tokenizer.model: is not a SentencePiece model" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_of_another_revision_is_not_taken(self, tmp_path: Path) -> None:
        repository = tmp_path / "hub"
        repository.mkdir()
        (repository / "tokenizer.model").write_bytes(b"no SentencePiece model")
        with Hub({self.REPOSITORY: (repository, "0" * 40)}) as hub:
            done = self.prompts(tmp_path, online(hub, tmp_path))
        assert done.returncode == 1
        assert "the hub does not give its tokenizer.model or tokenizer.json" in done.stderr
        assert done.stderr.count("\n") == 1

    @needs_tokenizer
    def test_from_the_hub_gives_the_prompts_of_the_folder(self, tmp_path: Path) -> None:
        with Hub({self.REPOSITORY: (tokenizer_folder(), self.revision())}) as hub:
            fetched = self.prompts(tmp_path, online(hub, tmp_path))
        named = self.prompts(tmp_path, offline(tmp_path), "--tokenizer", tokenizer_folder())
        cached = self.prompts(tmp_path, offline(tmp_path))
        assert fetched.returncode == 0, fetched.stderr
        assert fetched.stdout == named.stdout == cached.stdout
        rows = [json.loads(line) for line in fetched.stdout.splitlines()]
        assert len(rows) == 3
        for row in rows:
            ids = row["token_ids"]
            assert (ids[0], ids[1], ids[-1]) == (1, 32007, 32009)
            assert ids.count(32008) == 1
            assert row["stop_token_ids"] == [32010]
        assert "3 fim-psm prompts as token ids" in fetched.stderr
