"""One model trained and saved; resumes where it was stopped. Runs in the server's environment.

Matrices of the layers by Muon (https://kellerjordan.github.io/posts/muon/); embeddings and norms by
AdamW.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from ladder import loops, objective, recipe
from ladder.attention import BLOCKS
from ladder.beginning import set_heads, set_tabs
from ladder.corpus import Corpus, Document
from ladder.objective import Manner, Rows
from ladder.pieces import BOS, EOS, VOCABULARY, Pieces, with_tabs
from ladder.recipe import Size

CHECKPOINT_EVERY_S = 60
TELL_EVERY = 10
"""Steps."""

HELD_OUT_ROWS = 48
SMALLEST = 1e-4
"""Probability of all other tokens, from which on a loop counts no more."""

LOG = "training.jsonl"


class Muon(torch.optim.Optimizer):  # torch has no types here
    """Momentum whose step is made orthogonal, by five Newton-Schulz iterations."""

    def __init__(
        self, parameters: Iterable[torch.Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        """Take matrices only."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: None = None) -> None:  # noqa: ARG002  the base class's
        """One step."""
        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the closest orthogonal matrix; coefficients of the source named above."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@dataclass(frozen=True)
class Plan:
    """All that decides what comes out of a stage, but for its text and its beginning."""

    size: Size
    tokens: int = recipe.TOKENS
    length: int = recipe.LENGTH
    rows: int = recipe.ROWS
    seed: int = recipe.SEED
    matrix_rate: float = recipe.MATRIX_RATE
    other_rate: float = recipe.OTHER_RATE
    calm_from: float = recipe.CALM_FROM
    spm_line_end_weight: float = recipe.SPM_LINE_END_WEIGHT
    manner: Manner = objective.FIRST
    unlikelihood: float = 0.0
    """How much the loops of the model's own answers count beside the loss of the text."""

    bfloat16: bool = False
    """Products in bfloat16, those of Muon's iterations too; weights and sums in float32."""

    @property
    def steps(self) -> int:
        """All of the stage."""
        return self.tokens // (self.rows * self.length)

    def second(self) -> Plan:
        """The stage that follows: short, at low rates, its text shown in another manner."""
        return replace(
            self,
            tokens=max(round(self.tokens * recipe.SECOND_TOKENS), 2 * self.rows * self.length),
            seed=self.seed + 1,
            matrix_rate=self.matrix_rate * recipe.SECOND_RATE,
            other_rate=self.other_rate * recipe.SECOND_RATE,
            calm_from=0.0,
            spm_line_end_weight=recipe.SECOND_SPM_LINE_END_WEIGHT,
            manner=objective.SECOND,
            unlikelihood=recipe.SECOND_UNLIKELIHOOD,
        )


def new_model(plan: Plan, pieces: Pieces) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(plan.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=plan.size.hidden,
            intermediate_size=plan.size.intermediate,
            num_hidden_layers=plan.size.layers,
            num_attention_heads=plan.size.hidden // recipe.HEAD,
            num_key_value_heads=plan.size.hidden // recipe.HEAD,
            max_position_embeddings=recipe.POSITIONS,
            rope_theta=10_000.0,
            bos_token_id=BOS,
            eos_token_id=EOS,
            tie_word_embeddings=True,
            attn_implementation=BLOCKS if plan.bfloat16 else "sdpa",
        )
    )
    set_heads(model, pieces)
    return model


def own_document(ids: torch.Tensor) -> torch.Tensor:
    """Which places each sees, (rows, 1, places, places): those of its document up to itself."""
    number = (ids == BOS).cumsum(1)
    same = number[:, None, :, None] == number[:, None, None, :]
    return same & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()


def losses_of(model: LlamaForCausalLM, rows: list[list[int]]) -> torch.Tensor:
    """Of all tokens but the first of each row, in nats: (rows, length - 1)."""
    ids = torch.tensor(rows)
    states = model.model(
        ids[:, :-1], attention_mask=own_document(ids[:, :-1]), use_cache=False
    ).last_hidden_state
    losses = [  # a row at a time: scores of all would leave the processor's cache
        functional.cross_entropy(model.lm_head(one), targets, reduction="none")
        for one, targets in zip(states, ids[:, 1:], strict=True)
    ]
    return torch.stack(losses)


def loop_loss(
    model: LlamaForCausalLM, rows: Sequence[Sequence[int]], pieces: Pieces, draw: random.Random
) -> torch.Tensor | None:
    """Unlikelihood, in nats, of the loops the model falls into when it goes on with rows by itself.

    Of each token that goes on with a loop, minus the logarithm of the probability of any other;
    their sum over the number of all tokens it answered. None: it fell into none.
    """
    prompts = [prompt for row in rows if (prompt := loops.asked(row, pieces, draw))]
    if not prompts:
        return None
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[EOS] * pad + one for pad, one in zip(padding, prompts, strict=True)])
    seen = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
    ends = [pieces.eot, EOS]
    with torch.no_grad():
        both = model.generate(
            ids, attention_mask=seen, max_new_tokens=recipe.ANSWER_TOKENS, do_sample=False,
            eos_token_id=ends, pad_token_id=EOS,
        )  # fmt: skip
    answers = both[:, width:]
    told = [_until(ends, answer) for answer in answers.tolist()]
    is_loop = torch.zeros(answers.shape, dtype=torch.bool)
    for number, answer in enumerate(told):
        is_loop[number, : len(answer)] = torch.tensor(loops.looped(answer), dtype=torch.bool)
    which = is_loop.any(1)
    if not which.any():
        return None
    seen = torch.cat([seen, torch.ones_like(answers)], 1)[which, :-1]
    places = (seen.cumsum(1) - 1).clamp(min=0)
    scores = model(
        both[which, :-1], attention_mask=seen, position_ids=places, use_cache=False
    ).logits[:, width - 1 :]
    chosen = scores.float().softmax(-1).gather(-1, answers[which].unsqueeze(-1)).squeeze(-1)
    unlikely = -torch.log((1 - chosen).clamp(min=SMALLEST))
    return (unlikely * is_loop[which]).sum() / sum(map(len, told))


def _until(ends: Sequence[int], answer: Sequence[int]) -> list[int]:
    """An answer without what stands behind its end."""
    end = next((place for place, one in enumerate(answer) if one in ends), len(answer))
    return list(answer[: end + 1])


class Training:
    """A model, its optimisers and its place in the text, through both stages."""

    def __init__(self, plan: Plan, documents: tuple[Document, ...], tokenizer: bytes) -> None:
        """At step 0 of the first stage; the tokenizer is that stage's."""
        self.documents = documents
        self.first, self.second = plan, plan.second()
        self.steps = self.first.steps + self.second.steps
        self.model = new_model(plan, Pieces(tokenizer))
        self.step = 0
        self._begin(self.first, tokenizer)

    def _begin_second(self) -> None:
        self._begin(self.second, with_tabs(self.tokenizer))
        set_tabs(self.model, self.pieces)

    def _begin(self, plan: Plan, tokenizer: bytes) -> None:
        """Have a stage's tokenizer, text and optimisers, at its beginning."""
        self.plan, self.tokenizer, self.pieces = plan, tokenizer, Pieces(tokenizer)
        self.rows = Rows(self.documents, self.pieces, plan.length, plan.seed, plan.manner)
        named = dict(self.model.named_parameters())
        matrices = [one for name, one in named.items() if one.ndim == 2 and "layers" in name]
        others = [one for name, one in named.items() if one.ndim != 2 or "layers" not in name]
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (
                Muon(matrices, plan.matrix_rate, recipe.MOMENTUM, recipe.MATRIX_WEIGHT_DECAY),
                plan.matrix_rate,
            ),
            (
                torch.optim.AdamW(
                    others, plan.other_rate, (0.9, 0.95), weight_decay=recipe.WEIGHT_DECAY
                ),
                plan.other_rate,
            ),
        ]

    def advance(self) -> float:
        """One step; the loss before it."""
        if self.plan is self.first and self.step == self.first.steps:
            self._begin_second()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bfloat16):
            return self._advance()

    def _advance(self) -> float:
        self.model.train()
        rows = [self.rows.next() for _ in range(self.plan.rows)]
        calm = self._step_of_stage() >= self.plan.calm_from * self.plan.steps
        line_end = self.plan.spm_line_end_weight if calm else recipe.SPM_END_WEIGHT
        counts = torch.tensor([objective.counts_of(row, self.pieces, line_end)[1:] for row in rows])
        loss = (losses_of(self.model, rows) * counts).sum() / counts.sum()
        loss.backward()
        if self.plan.unlikelihood:
            self._unlearn_loops(rows)
        share = self._share()
        for optimiser, rate in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    def _unlearn_loops(self, rows: list[list[int]]) -> None:
        draw = random.Random(f"{self.plan.seed}/loops {self.step}")  # noqa: S311  reproducible
        self.model.eval()
        loss = loop_loss(self.model, rows, self.pieces, draw)
        self.model.train()
        if loss is not None:
            (self.plan.unlikelihood * loss).backward()

    def _step_of_stage(self) -> int:
        return self.step if self.plan is self.first else self.step - self.first.steps

    def _share(self) -> float:
        """Of the stage's highest rate: up, then down to 0."""
        step, steps = self._step_of_stage(), self.plan.steps
        warm = max(1, round(steps * recipe.WARM_UP))
        return min((step + 1) / warm, (steps - step) / (steps - warm), 1.0)

    def state(self) -> dict[str, Any]:
        """All of it, for `restore`."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimisers": [one.state_dict() for one, _ in self.optimisers],
            "rows": [self.rows.taken, self.rows.waiting],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.step = state["step"]
        if self.step > self.first.steps:
            self._begin_second()
        self.model.load_state_dict(state["model"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rows.taken, self.rows.waiting = state["rows"]


def held_out_loss(
    model: LlamaForCausalLM, plan: Plan, documents: tuple[Document, ...], pieces: Pieces
) -> float:
    """Mean over tokens of files that are never trained on, in nats; the same rows every time.

    Every token counts once.
    """
    model.eval()
    rows = Rows(documents, pieces, plan.length, plan.seed)
    with torch.no_grad():
        losses = [
            float(losses_of(model, [rows.next() for _ in range(plan.rows)]).mean())
            for _ in range(HELD_OUT_ROWS // plan.rows)
        ]
    return sum(losses) / len(losses)


def train(name: str, plan: Plan, corpus: Corpus, tokenizer: bytes, folder: Path) -> None:
    """Train both stages, from the checkpoint in `folder` if there is one, and save to `folder`.

    While it lasts, the folder holds `checkpoint.pt` and `training.jsonl`; at the end, what vLLM
    serves, the log and the checksums.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / LOG
    training = Training(plan, corpus.train, tokenizer)
    made_of = _made_of(name, plan, training.model, corpus, tokenizer)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["made_of"] != made_of:
            sys.exit(
                f"ladder: {checkpoint} was begun with another recipe or text; remove {folder} to "
                "begin anew"
            )
        training.restore(saved)
        kept = [line for line in _lines(log) if line.get("step", 0) <= training.step]
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        _say(f"{name}: goes on at step {training.step} of {training.steps}")
    else:
        log.write_text(json.dumps(made_of) + "\n")
    began, first = time.monotonic(), training.step
    written = began
    recent: list[float] = []
    while training.step < training.steps:
        recent.append(training.advance())
        now = time.monotonic()
        is_last = training.step == training.steps
        if training.step <= TELL_EVERY or training.step % TELL_EVERY == 0 or is_last:
            speed = (training.step - first) * plan.rows * plan.length / (now - began)
            left_s = (training.steps - training.step) * plan.rows * plan.length / speed
            line = {
                "step": training.step,
                "loss": round(sum(recent) / len(recent), 4),
                "tokens": training.step * plan.rows * plan.length,
                "tokens_per_s": round(speed),
            }
            recent = []
            if training.step % (TELL_EVERY * 10) == 0 or is_last:
                line["held_out_loss"] = round(
                    held_out_loss(training.model, plan, corpus.held_out, training.pieces), 4
                )
            with log.open("a") as out:
                out.write(json.dumps(line) + "\n")
            shown = ", ".join(f"{key} {value}" for key, value in line.items())
            _say(f"{name} of {training.steps}: {shown}, {left_s / 60:.1f} min left")
        if now - written > CHECKPOINT_EVERY_S or is_last:
            written = now
            unfinished = checkpoint.with_suffix(".unfinished")
            torch.save({**training.state(), "made_of": made_of}, unfinished)
            unfinished.rename(checkpoint)
    save(training.model, training.tokenizer, folder)
    checkpoint.unlink(missing_ok=True)
    _say(f"{name}: {folder} is complete; {training.rows.epochs:.2f} epochs of the second stage")


def save(model: LlamaForCausalLM, tokenizer: bytes, folder: Path) -> None:
    """A folder that vLLM serves, in bfloat16, and the checksum of each of its files.

    `config.json` is written last: with it the folder is complete.
    """
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    (unfinished / "tokenizer.model").write_bytes(tokenizer)
    LlamaTokenizer.from_pretrained(unfinished).save_pretrained(unfinished)
    (unfinished / "tokenizer.model").write_bytes(tokenizer)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(unfinished)
    config = unfinished / "config.json"
    config.write_text(config.read_text().rstrip("\n") + "\n")
    shutil.copy(folder / LOG, unfinished)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", LOG)
    sums = [hashlib.sha256((unfinished / one).read_bytes()).hexdigest() for one in names]
    (unfinished / "SHA256SUMS").write_text(
        "".join(f"{digest}  {one}\n" for digest, one in zip(sums, names, strict=True))
    )
    for path in sorted(unfinished.iterdir(), key=lambda one: one.name == "config.json"):
        path.rename(folder / path.name)
    unfinished.rmdir()


def trained_otherwise(folder: Path, name: str, plan: Plan) -> str:
    """In what a finished training differs from the recipe, in words; empty if in nothing.

    Not compared: the text, the versions, and whether products were in bfloat16, which are of the
    machine.
    """
    logged = _lines(folder / LOG)[0]
    wanted = _recipe_of(name, plan) | {"bfloat16": logged.get("bfloat16")}
    pairs = [(key, logged.get(key), value) for key, value in wanted.items() if key != "second"]
    second = logged.get("second", {})
    pairs += [(f"second {key}", second.get(key), one) for key, one in wanted["second"].items()]
    return "; ".join(
        f"{key}: {there} there, {here} here" for key, there, here in pairs if there != here
    )


def _made_of(
    name: str, plan: Plan, model: LlamaForCausalLM, corpus: Corpus, tokenizer: bytes
) -> dict[str, Any]:
    """The log's first line."""
    parameters = sum(one.numel() for one in model.parameters())
    made_of = _recipe_of(name, plan)
    made_of["second"]["tokenizer_sha256"] = hashlib.sha256(with_tabs(tokenizer)).hexdigest()
    return made_of | {
        "parameters": parameters,
        "parameters_without_embeddings": parameters - VOCABULARY * plan.size.hidden,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest(),
        "corpus": corpus.facts,
    }


def _recipe_of(name: str, plan: Plan) -> dict[str, Any]:
    """All of the log's first line that is decided before a text is read."""
    second = plan.second()
    return {
        "size": name,
        "layers": plan.size.layers,
        "hidden": plan.size.hidden,
        "intermediate": plan.size.intermediate,
        "vocabulary": VOCABULARY,
        "tokens": plan.tokens,
        "length": plan.length,
        "rows": plan.rows,
        "steps": plan.steps,
        "seed": plan.seed,
        "matrix_rate": plan.matrix_rate,
        "other_rate": plan.other_rate,
        "bfloat16": plan.bfloat16,
        "warm_up": recipe.WARM_UP,
        "momentum": recipe.MOMENTUM,
        "weight_decay": recipe.WEIGHT_DECAY,
        "matrix_weight_decay": recipe.MATRIX_WEIGHT_DECAY,
        "end_weight": recipe.END_WEIGHT,
        "spm_end_weight": recipe.SPM_END_WEIGHT,
        "spm_line_end_weight": plan.spm_line_end_weight,
        "calm_from": plan.calm_from,
        "first_weight": recipe.FIRST_WEIGHT,
        "first_decay": recipe.FIRST_DECAY,
        "infilling_rate": objective.INFILLING_RATE,
        "spm_rate": objective.SPM_RATE,
        "one_line_rate": objective.ONE_LINE_RATE,
        "part_rate": objective.PART_RATE,
        "alike_rate": objective.ALIKE_RATE,
        **asdict(plan.manner),
        "second": {
            "tokens": second.tokens,
            "steps": second.steps,
            "seed": second.seed,
            "matrix_rate": second.matrix_rate,
            "other_rate": second.other_rate,
            "calm_from": second.calm_from,
            "spm_line_end_weight": second.spm_line_end_weight,
            **asdict(second.manner),
            "unlikelihood": second.unlikelihood,
            "answer_tokens": recipe.ANSWER_TOKENS,
        },
    }


def _lines(log: Path) -> list[dict[str, Any]]:
    """All but one that a kill has torn."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _say(message: str) -> None:
    sys.stderr.write(f"[ladder] {message}\n")
    sys.stderr.flush()
