"""The run directory: what a kill, a second process, another run or a full disk may do to it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import (
    RunDirectory,
    key_of,
    next_segment,
    place_of,
    read_generations,
    read_limits,
    read_manifest,
    read_segments,
    read_standing,
    read_tasks,
)
from fim_eval.lines import create, json_lines, line_of, sealed
from fim_eval.records import (
    Completion,
    ConcurrencyChange,
    ReferenceRun,
    RequestFailure,
    RunIdentity,
    RunManifest,
    Sampling,
    Segment,
    ServerIdentity,
    Timeouts,
)
from fim_eval.verdicts import VerdictFolder
from fim_eval.words import FailureReason
from tests.integration import files_in, made_tasks

TASKS = made_tasks(3)


def completion(number: int, text: str = "    return 0\n") -> Completion:
    return Completion(
        task_id=f"Made/{number}/single-line/L1",
        strategy="lr",
        sample_index=0,
        text=text,
        server_text=None,
        token_ids=None,
        finish_reason="stop",
        stop_reason=None,
        prompt_tokens=10,
        completion_tokens=4,
        system_fingerprint="vllm-0.32.0-5b2ef2de",
        answered_as="fake-model",
        attempts=1,
        segment=0,
        sent_ns=0,
        elapsed_ns=1_000,
    )


def failure(number: int, reason: FailureReason = "timeout") -> RequestFailure:
    return RequestFailure(
        task_id=f"Made/{number}/single-line/L1",
        strategy="lr",
        sample_index=0,
        reason=reason,
        detail="600 s",
        attempts=6,
        segment=0,
        sent_ns=0,
        elapsed_ns=1_000,
    )


def segment(number: int) -> Segment:
    return Segment(
        segment=number,
        started_at="2026-11-23T23:04:24.000+00:00",
        base_url="http://127.0.0.1:8007/v1",
        asked=3,
        pid=4711,
        concurrency=64,
    )


def manifest(**changes: object) -> RunManifest:
    """A manifest; the changes are to its identity."""
    identity = RunIdentity(
        tasks_sha256=hashlib.sha256(json_lines(TASKS)).hexdigest(),
        tasks=len(TASKS),
        model="fake-model",
        model_id=None,
        strategy="lr",
        context="text",
        prompt_form="text",
        prompts_sha256="2" * 64,
        tokenizer_sha256=None,
        max_tokens=64,
        stop=(),
        stop_token_ids=(),
        sampling=Sampling(),
        answers_as="fake-model",
        server_version="0.32.0",
        system_fingerprint="vllm-0.32.0-5b2ef2de",
    )
    return RunManifest(
        created_at="2026-11-23T23:04:24.000+00:00",
        fim_eval_version="0.1.0",
        code_revision=None,
        python="3.11.7",
        platform="Linux",
        packages={},
        identity=identity.model_copy(update=changes),
        server=ServerIdentity(
            base_url="http://127.0.0.1:8007/v1",
            model="fake-model",
            answers_as="fake-model",
            root=None,
            max_model_len=2048,
            version="0.32.0",
            system_fingerprint="vllm-0.32.0-5b2ef2de",
        ),
        server_log=None,
        card=None,
        tokenizer=None,
        task_facts=None,
        limit=None,
        concurrency=64,
        timeouts=Timeouts(),
        api_key_env=None,
    )


def write(folder: Path, *outcomes: Completion | RequestFailure) -> Path:
    """A run directory with these outcomes; its `generations.jsonl`."""
    with RunDirectory(folder) as directory:
        directory.claim(manifest(), map(line_of, TASKS))
        directory.begin_segment(segment(0))
        for outcome in outcomes:
            directory.append(outcome)
    return folder / "generations.jsonl"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run = tmp_path / "some" / "run"
    odd = completion(1, text='\u2028 "quoted" \x00 🦙\r\n\t')
    write(run, completion(0), odd, failure(2, "prompt-too-long"))
    assert list(read_generations(run).values()) == [
        completion(0),
        odd,
        failure(2, "prompt-too-long"),
    ]
    assert read_manifest(run) == manifest()
    assert list(read_tasks(run)) == TASKS
    assert read_segments(run) == [segment(0)]
    assert len((run / "generations.jsonl").read_bytes().split(b"\n")) == 4


def test_an_outcome_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.claim(manifest(), map(line_of, TASKS))
        for number in range(3):
            directory.append(completion(number))
            assert len(read_generations(tmp_path)) == number + 1


def test_a_torn_last_line_is_asked_again_wherever_it_was_cut(tmp_path: Path) -> None:
    journal = write(tmp_path, completion(0), completion(1))
    content = journal.read_bytes()
    first_end = content.index(b"\n") + 1
    for cut in range(first_end, len(content)):
        journal.write_bytes(content[:cut])
        assert list(read_generations(tmp_path)) == [key_of(completion(0))]
        again = completion(1, text="    return 1\n")
        with RunDirectory(tmp_path) as directory:
            directory.append(again)
        assert list(read_generations(tmp_path).values()) == [completion(0), again], cut


def test_a_torn_first_line_leaves_nothing_answered(tmp_path: Path) -> None:
    journal = write(tmp_path, completion(0))
    journal.write_bytes(journal.read_bytes()[:20])
    assert read_generations(tmp_path) == {}


def test_a_torn_segment_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "segments.jsonl"
    path.write_bytes(path.read_bytes() + b'{"segment":1,"started')
    assert read_segments(tmp_path) == [segment(0)]
    with RunDirectory(tmp_path) as directory:
        directory.begin_segment(segment(1))
    assert read_segments(tmp_path) == [segment(0), segment(1)]


def test_a_damaged_line_of_a_session_is_no_prompt_s(tmp_path: Path) -> None:
    write(tmp_path, completion(0))
    for name, read in (("segments.jsonl", read_segments), ("concurrency.jsonl", read_limits)):
        (tmp_path / name).write_bytes(b"{}\n")
        with pytest.raises(RunDirectoryError, match="is damaged") as caught:
            read(tmp_path)
        told = str(caught.value)
        assert told.startswith(f"{tmp_path / name}:1: ")
        assert "remove that line: all answers stay" in told
        assert "ask its prompt" not in told


def test_a_session_whose_line_was_removed_leaves_its_number_to_its_answers(tmp_path: Path) -> None:
    assert next_segment(tmp_path) == 0
    odd = completion(0, text='"segment":9, "segment\\":9')
    journal = write(tmp_path, odd, completion(1).model_copy(update={"segment": 2}), failure(2))
    assert read_segments(tmp_path) == [segment(0)]
    assert next_segment(tmp_path) == 3, "as an answer tells"
    journal.unlink()
    assert next_segment(tmp_path) == 1
    with RunDirectory(tmp_path) as directory:
        directory.begin_segment(segment(5))
    assert next_segment(tmp_path) == 6, "not how many there are"
    with RunDirectory(tmp_path) as directory:
        directory.append_limit(
            ConcurrencyChange(
                segment=7, base_url="", at_s=0.0, limit=8, prompts_per_s=0.0, reason="start"
            )
        )
    assert next_segment(tmp_path) == 8, "as a change of the limit tells"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda line: line[:40], id="cut"),
        pytest.param(lambda line: line.replace(b'"lr"', b'"rl"'), id="unknown strategy"),
        pytest.param(lambda line: line.replace(b'"attempts":1,', b""), id="lacks a field"),
        pytest.param(lambda line: line[:-1] + b',"score":1}', id="has a field too many"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\0" * 300, id="zeros, as after a power cut"),
        pytest.param(lambda _: b"\xff\xfe", id="no UTF-8"),
    ],
)
def test_a_damaged_line_before_the_last_is_told_by_its_number(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    journal = write(tmp_path, completion(0), completion(1), completion(2))
    lines = journal.read_bytes().split(b"\n")
    lines[1] = damage(lines[1])
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(RunDirectoryError, match="is damaged") as caught:
        read_generations(tmp_path)
    assert str(caught.value).startswith(f"{journal}:2: ")


def test_a_bit_turned_anywhere_is_told_or_asked_again_and_never_scored(tmp_path: Path) -> None:
    journal = write(tmp_path, completion(0), completion(1))
    content = journal.read_bytes()
    whole = read_generations(tmp_path)
    recovered = told = 0
    for place, bit in itertools.product(range(len(content)), range(8)):
        turned = bytearray(content)
        turned[place] ^= 1 << bit
        journal.write_bytes(turned)
        try:
            found = read_generations(tmp_path)
        except RunDirectoryError as error:
            assert "is damaged" in str(error)  # noqa: PT017  either may come
            told += 1
            continue
        recovered += 1
        assert len(found) < len(whole), (place, bit)
        assert found.items() <= whole.items(), (place, bit)
    assert recovered == 8, "of the last line end, without which the last line is torn"
    assert told == 8 * (len(content) - 1)


def test_a_line_with_a_right_checksum_of_another_version_is_told(tmp_path: Path) -> None:
    journal = write(tmp_path, completion(0))
    journal.write_bytes(sealed(b'{"outcome":"completion","score":1}'))
    with pytest.raises(RunDirectoryError, match="written by another version"):
        read_generations(tmp_path)


def test_a_completion_after_a_failure_wins(tmp_path: Path) -> None:
    write(tmp_path, failure(0), completion(0), failure(1), failure(1, "connection"))
    assert list(read_generations(tmp_path).values()) == [completion(0), failure(1, "connection")]


def test_a_key_answered_twice_is_an_error(tmp_path: Path) -> None:
    journal = write(tmp_path, completion(0), completion(1), completion(0))
    with pytest.raises(RunDirectoryError, match="a second time") as caught:
        read_generations(tmp_path)
    assert str(caught.value).startswith(f"{journal}:3: answers Made/0/single-line/L1")


def test_samples_and_strategies_have_keys_of_their_own(tmp_path: Path) -> None:
    second = completion(0).model_copy(update={"sample_index": 1})
    infilled = completion(0).model_copy(update={"strategy": "fim-psm"})
    write(tmp_path, completion(0), second, infilled)
    assert len(read_generations(tmp_path)) == 3


def test_what_stands_is_known_without_the_answers(tmp_path: Path) -> None:
    write(
        tmp_path, completion(0), failure(1, "connection"), completion(2), failure(3, "bad-request")
    )
    standing = read_standing(tmp_path)
    outcomes = read_generations(tmp_path).values()
    assert [standing.is_answered(place_of(one)) for one in outcomes] == [True, False, True, False]
    standing.note(completion(1))
    assert standing.is_answered(place_of(completion(1)))
    with pytest.raises(ValueError, match="a second time"):
        standing.note(completion(1))


HOLD = """
import sys
from pathlib import Path
from fim_eval.journal import RunDirectory
with RunDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_cannot_open_a_directory_in_use(tmp_path: Path) -> None:
    write(tmp_path, completion(0))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        before = files_in(tmp_path)
        with (
            pytest.raises(RunDirectoryError, match="is in use by another run") as caught,
            RunDirectory(tmp_path),
        ):
            pass
        assert f"process {owner.pid} on " in str(caught.value)
        assert files_in(tmp_path) == before
        owner.kill()
    # A killed owner leaves its file, but no lock.
    with RunDirectory(tmp_path) as directory:
        directory.claim(manifest(), map(line_of, TASKS))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "other-model"}, "model: fake-model there, other-model now"),
        ({"strategy": "fim-psm"}, "strategy: lr there, fim-psm now"),
        ({"tasks": 2}, "tasks: 3 there, 2 now"),
        ({"tasks_sha256": "3" * 64}, "tasks_sha256: "),
        ({"prompts_sha256": "3" * 64}, "prompts_sha256: "),
        ({"context": "none"}, "context: text there, none now"),
        ({"sampling": Sampling(temperature=0.8)}, "'temperature': 0.8"),
        ({"system_fingerprint": "vllm-0.33.0-tp2-0a1b2c3d"}, "vllm-0.33.0-tp2-0a1b2c3d now"),
    ],
)
def test_a_directory_of_another_run_is_refused_and_left_alone(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    write(tmp_path, completion(0))
    before = files_in(tmp_path)
    with (
        RunDirectory(tmp_path) as directory,
        pytest.raises(RunDirectoryError, match="belongs to another run") as caught,
    ):
        directory.claim(manifest(**changes), map(line_of, TASKS))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    after = files_in(tmp_path)
    assert {**after, "lock": b""} == {**before, "lock": b""}


@pytest.mark.parametrize("name", ["root", "max_model_len"])
def test_what_a_server_without_fingerprint_lists_tells_it_from_another(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, completion(0))
    began = manifest()
    other = began.server.model_copy(update={name: 4096 if name == "max_model_len" else "other"})
    with RunDirectory(tmp_path) as directory:
        with pytest.raises(RunDirectoryError, match=f"{name}: .*; start the server as it was"):
            directory.claim(began.model_copy(update={"server": other}), map(line_of, TASKS))
        moved = began.server.model_copy(update={"base_url": "http://other:8007/v1"})
        directory.claim(began.model_copy(update={"server": moved}), map(line_of, TASKS))


@pytest.mark.parametrize(
    ("changes", "is_of_the_server"),
    [
        ({"system_fingerprint": "vllm-0.33.0-tp2-0a1b2c3d"}, True),
        ({"system_fingerprint": "vllm-0.33.0-tp2-0a1b2c3d", "model": "other-model"}, False),
    ],
)
def test_a_server_is_to_be_restored_only_where_nothing_else_differs(
    tmp_path: Path, changes: dict[str, object], is_of_the_server: bool
) -> None:
    write(tmp_path, completion(0))
    with RunDirectory(tmp_path) as directory, pytest.raises(RunDirectoryError) as caught:
        directory.claim(manifest(**changes), map(line_of, TASKS))
    assert ("start the server as it was" in str(caught.value)) == is_of_the_server
    assert "choose another --out" in str(caught.value)


@pytest.mark.parametrize("told", [("0.32.0", None), (None, "0.32.0")])
def test_a_version_that_is_told_only_once_is_no_other_where_the_fingerprint_names_it(
    tmp_path: Path, told: tuple[str | None, str | None]
) -> None:
    first, second = (manifest(server_version=version) for version in told)
    with RunDirectory(tmp_path) as directory:
        directory.claim(first, map(line_of, TASKS))
        directory.claim(second, map(line_of, TASKS))
    own = {"system_fingerprint": "a-team-s-own"}
    first, second = (manifest(server_version=version, **own) for version in told)
    with RunDirectory(tmp_path / "own") as directory:
        directory.claim(first, map(line_of, TASKS))
        with pytest.raises(RunDirectoryError, match=f"server_version: {told[0]} there"):
            directory.claim(second, map(line_of, TASKS))


def test_the_same_run_may_claim_its_directory_again(tmp_path: Path) -> None:
    write(tmp_path, completion(0))
    first = (tmp_path / "manifest.json").read_bytes()
    with RunDirectory(tmp_path) as directory:
        later = manifest().model_copy(update={"created_at": "2027-01-01T00:00:00.000+00:00"})
        directory.claim(later, map(line_of, TASKS))
    assert (tmp_path / "manifest.json").read_bytes() == first


@pytest.mark.parametrize("name", ["generations.jsonl", "segments.jsonl"])
def test_outcomes_without_a_manifest_are_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}\n")
    with (
        RunDirectory(tmp_path) as directory,
        pytest.raises(RunDirectoryError, match=rf"holds {name} but no manifest\.json"),
    ):
        directory.claim(manifest(), map(line_of, TASKS))
    assert {path for path in files_in(tmp_path) if path != "lock"} == {name}


def test_a_kill_before_the_manifest_was_written_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(b"")
    (tmp_path / "manifest.json.unfinished").write_bytes(b'{"format"')
    write(tmp_path, completion(0))
    assert list(read_tasks(tmp_path)) == TASKS
    assert read_manifest(tmp_path) == manifest()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"format": 1', id="cut"),
        pytest.param(orjson.dumps({"format": 2}), id="of another version"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match="cannot be understood") as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_below_a_file_cannot_be_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    out = tmp_path / "file" / "run"
    with pytest.raises(RunDirectoryError, match="Not a directory") as caught, RunDirectory(out):
        pass
    assert str(caught.value) == (
        f"{out}: cannot be written (Not a directory); name a folder of your own with --out"
    )
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_cannot_be_a_run_directory(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with (
        pytest.raises(RunDirectoryError, match=r"cannot be written \(Permission denied\)"),
        RunDirectory(locked / "run"),
    ):
        pass


FILL = """
import resource
import sys
from pathlib import Path
from fim_eval.journal import RunDirectory
from fim_eval.records import Completion, Segment
run, limit, line, segment = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from fim_eval.errors import RunDirectoryError
try:
    with RunDirectory(run) as directory:
        if segment:
            directory.begin_segment(Segment.model_validate_json(segment))
        directory.append(Completion.model_validate_json(line))
except RunDirectoryError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [1, 100, 0])
def test_a_line_that_does_not_fit_on_the_disk_ends_the_run_and_is_cut_off(
    tmp_path: Path, room: int
) -> None:
    """No file may grow beyond a limit: the system call then fails as on a full disk."""
    journal = write(tmp_path, completion(0))
    limit = journal.stat().st_size + room
    new = completion(1).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path, str(limit), new, ""],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{journal}: ")
    assert journal.stat().st_size == limit - room, "half a line is taken back at once"
    assert list(read_generations(tmp_path).values()) == [completion(0)]
    with RunDirectory(tmp_path) as directory:
        directory.append(completion(1))
    assert list(read_generations(tmp_path).values()) == [completion(0), completion(1)]


def refused(number: int) -> Callable[[int], None]:
    """A system call that tells of a disk that has not taken what was written."""

    def call(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_disk_that_loses_what_was_written_ends_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write(tmp_path, completion(0))
    reference = ReferenceRun(
        problem_id="Made/0", tests_sha256="", outcome="passed", detail="", cpu_s=0.01,
        time_limit_s=2.0,
    )  # fmt: skip
    monkeypatch.setattr("fim_eval.lines.SYNC_S", -1.0)
    monkeypatch.setattr(os, "fdatasync", refused(errno.EIO))
    with (
        RunDirectory(tmp_path) as directory,
        pytest.raises(RunDirectoryError, match=r"may not be on the disk \(Input/output error\)"),
    ):
        directory.append(completion(1))
    monkeypatch.setattr(os, "fsync", refused(errno.EDQUOT))
    with (
        pytest.raises(RunDirectoryError, match="its quota, and run the same command again"),
        RunDirectory(tmp_path) as directory,
    ):
        directory.append(completion(2))
    with (
        pytest.raises(RunDirectoryError, match=r"references\.jsonl: .*its quota"),
        VerdictFolder(tmp_path) as folder,
    ):
        folder.add_reference(reference)
    monkeypatch.undo()
    with RunDirectory(tmp_path):
        pass  # it was released all the same
    assert len(journal.read_bytes().splitlines()) == 3


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename, fsync = Path.rename, os.fsync

    def noted_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    def noted_fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        size = os.fstat(descriptor).st_size
        assert size == 3 or done[-1] == tmp_path.name, "nothing is left in a buffer"
        fsync(descriptor)

    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    create(tmp_path / "file", b"abc")
    assert done == ["file.unfinished", "rename", tmp_path.name]


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EINVAL, None), (errno.EIO, "cannot be written")]
)
def test_a_file_system_may_know_no_folders_that_are_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str | None
) -> None:
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        (refused(number) if stat.S_ISDIR(os.fstat(descriptor).st_mode) else fsync)(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    with pytest.raises(RunDirectoryError, match=says) if says else contextlib.nullcontext():
        create(tmp_path / "file", b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"


@pytest.mark.parametrize("limit", [pytest.param(0, id="lock"), pytest.param(60, id="segment")])
def test_a_disk_that_is_full_from_the_start_is_one_sentence(tmp_path: Path, limit: int) -> None:
    write(tmp_path, completion(0))
    new = completion(1).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path, str(limit), new, segment(1).model_dump_json()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(tmp_path))
    assert done.stdout.count("\n") == 1
