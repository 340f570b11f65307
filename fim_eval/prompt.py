"""Tasks in, prompts out. Knows the recipes; knows no server, no file, no model by name.

Infilling recipe: `infilling_prompt_tokens` in
https://github.com/meta-llama/codellama/blob/main/llama/generation.py, and the Code Llama paper v3,
section 2.3. Left to right: InCoder's "L-R single" and "L-R reranking"
(https://arxiv.org/abs/2204.05999). The few-shot template is ours: see `fewshot_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

from fim_eval.errors import StrategyRefusedError
from fim_eval.records import InfillFormat, InfillTask, ModelCard, Prompt, Scoring
from fim_eval.words import INFILLING, Context, Kind, Strategy

LEFT_TO_RIGHT_STOPS = ("\nclass ", "\ndef ", "\n# ", "\nif")
"""Where a left-to-right completion has left the function: InCoder's `infill_evaluation.py`."""

MAX_TOKENS: dict[Kind, int] = {
    "single-line": 64,
    "multi-line": 512,
    "random-span": 512,
    "block": 512,
}
"""Default limits on new tokens. InCoder allows 40 for a line, which cuts the reference of 23 of
MBPP's 5,261 single-line tasks (end token included); 64 cuts one, by its end token only. It allows
450 for several lines."""


HOLE, FILL, FILL_END = "<HOLE>", "<FILL>", "</FILL>"
"""What marks the hole, and its filling, in a few-shot prompt."""

FEWSHOT_HEAD = (
    f"# Python programs with a hole, marked {HOLE}. Behind each program stands the text that is\n"
    f"# missing there, exactly, between {FILL} and {FILL_END}.\n"
)

FILL_END_TOKENS = 8
"""What `FILL_END` may add to a limit on new tokens: Code Llama writes it with 4."""


class Encoder(Protocol):
    """Text to ids, in the two ways that infilling needs."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without BOS."""
        ...

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence: without the tokenizer's own leading space."""
        ...


def shown_prefix(task: InfillTask, context: Context) -> str:
    """The prefix as the model sees it: with the problem's text above it, or as it is."""
    match context:
        case "none":
            return task.prefix
        case "text":
            above = "" if task.context is None else module_docstring(task.context)
            return above + task.prefix
        case _:
            assert_never(context)


def module_docstring(text: str) -> str:
    r'''A module docstring whose value is exactly `text`, on its own line or lines.

    >>> print(module_docstring('Say "hi".'), end="")
    """Say "hi"."""
    '''
    body = text.replace("\\", "\\\\")
    if '"""' in body or body.endswith('"'):
        body = body.replace('"', '\\"')
    # Python reads a bare carriage return as a line end, and refuses a NUL.
    body = body.replace("\r", "\\r").replace("\0", "\\x00")
    return f'"""{body}"""\n'


def infill_format(model: str, card: ModelCard | None, strategy: Strategy) -> InfillFormat:
    """The sentinels to ask the model with.

    A disputed model may be asked: whoever asks it has named the strategy.

    Raises:
        StrategyRefusedError: the model was not trained to infill, or nothing is known of it.
    """
    if card is None:
        raise StrategyRefusedError(
            f"{strategy} for {model}: this model is not in the table of models, so its sentinels "
            "are unknown; name the model it is with --card (for example "
            "--card codellama/CodeLlama-7b-hf), or use --strategy lr"
        )
    if card.infills in ("no", "unknown") or card.format is None:
        raise StrategyRefusedError(
            f"{strategy} for {model}: it was not trained to infill ({card.source}); "
            "use --strategy lr"
        )
    return card.format


def infill_ids(
    strategy: Strategy, encoder: Encoder, sentinels: InfillFormat, prefix: str, suffix: str
) -> tuple[int, ...]:
    """Code Llama's infilling prompt as ids, for `fim-psm` or `fim-spm`.

    PSM: BOS PRE prefix SUF suffix MID. SPM: BOS PRE SUF suffix MID prefix, where prefix and
    middle are one text. An empty prefix or suffix gives no ids; no other case is special.
    """
    before = encoder.encode(prefix)
    after = encoder.encode_infill(suffix)
    bos, pre, suf, mid = (
        sentinels.bos_id, sentinels.prefix_id, sentinels.suffix_id, sentinels.middle_id,
    )  # fmt: skip
    match strategy:
        case "fim-psm":
            return (bos, pre, *before, suf, *after, mid)
        case "fim-spm":
            return (bos, pre, suf, *after, mid, *before)
        case "lr" | "lr-rerank" | "fewshot":
            raise ValueError(f"{strategy} has no sentinels")
        case _:
            assert_never(strategy)


def fewshot_text(examples: Sequence[InfillTask], task: InfillTask, context: Context) -> str:
    """Worked examples, then the task up to where its filling begins, as plain text.

    `FEWSHOT_HEAD`, then for each example, and at last for the task: a blank line, the line
    `# Program N`, the program as shown with `HOLE` in place of the hole, and behind it, on a line
    of its own, `FILL`, the middle, `FILL_END`. The middle stands between these as it is, with its
    indentation and its line end; the task's prompt ends with `FILL`.

    The examples come first and are the same for all tasks of a run: servers keep what they have
    computed of a common beginning.

    Raises:
        StrategyRefusedError: a program holds one of the markers, so nobody could tell them apart.
    """
    parts = [FEWSHOT_HEAD]
    for number, one in enumerate((*examples, task), 1):
        program = f"{shown_prefix(one, context)}{HOLE}{one.suffix}"
        if any(marker in one.prefix + one.middle + one.suffix for marker in (HOLE, FILL, FILL_END)):
            raise StrategyRefusedError(
                f"{one.task_id}: its program holds {HOLE}, {FILL} or {FILL_END}, with which "
                "fewshot marks holes"
            )
        end = "" if program.endswith("\n") else "\n"
        parts.append(f"\n# Program {number}\n{program}{end}{FILL}")
        if one is not task:
            parts.append(f"{one.middle}{FILL_END}\n")
    return "".join(parts)


def gold_scoring(task: InfillTask, prompt: Prompt, encoder: Encoder | None) -> Scoring:
    """The reference middle, and what ends it, behind the prompt that completions get.

    Ids if the prompt is ids. The end is the sentinel of `fim-*`, the closing marker of `fewshot`;
    left to right has none.
    """
    end = FILL_END if prompt.strategy == "fewshot" else ""
    given: str | tuple[int, ...]
    text: str | tuple[int, ...] = task.middle
    ending: str | tuple[int, ...] = end
    if prompt.token_ids is None or encoder is None:
        given = prompt.text or ""
    else:
        given = prompt.token_ids
        text = tuple(encoder.encode_infill(task.middle))
        ending = prompt.stop_token_ids[:1] or tuple(encoder.encode_infill(end))
    return Scoring(
        task_id=task.task_id,
        strategy=prompt.strategy,
        sample_index=0,
        scored="gold",
        given=given,
        text=text,
        end=ending,
        characters=len(task.middle),
    )


def candidate_scoring(
    task: InfillTask,
    prompt: Prompt,
    candidate: str,
    *,
    context: Context,
    card: ModelCard | None,
    encoder: Encoder | None,
) -> Scoring:
    """The whole program with a candidate in its hole, as InCoder's reranking scores it.

    Args:
        task: whose hole it is.
        prompt: that the candidate answered.
        candidate: after truncation.
        context: what is shown above the program; scored with it.
        card: of the model.
        encoder: as `build_prompt`.
    """
    program = shown_prefix(task, context) + candidate + task.suffix
    given: str | tuple[int, ...] = ""
    text: str | tuple[int, ...] = program
    end: str | tuple[int, ...] = ""
    if prompt.token_ids is not None and encoder is not None and card is not None:
        given = () if card.bos_id is None else (card.bos_id,)
        text, end = tuple(encoder.encode(program)), ()
    return Scoring(
        task_id=task.task_id,
        strategy=prompt.strategy,
        sample_index=prompt.sample_index,
        scored="candidate",
        given=given,
        text=text,
        end=end,
        characters=len(program),
    )


def build_prompt(
    task: InfillTask,
    strategy: Strategy,
    *,
    context: Context,
    max_tokens: int,
    model: str,
    card: ModelCard | None,
    encoder: Encoder | None,
    examples: Sequence[InfillTask] = (),
    sample_index: int = 0,
) -> Prompt:
    """The prompt for one task.

    `fim-*` prompts are always ids and need an encoder and a card; others are ids with BOS if there
    is an encoder and a card that names BOS, else text for the server to tokenise. `lr-rerank` asks
    what `lr` asks, several times; `fewshot` shows those `examples` that are of the task's kind.

    Raises:
        StrategyRefusedError: the model cannot be asked this way; ends the run.
    """
    prefix = shown_prefix(task, context)
    text: str | None = None
    ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    if strategy not in INFILLING:
        stop = LEFT_TO_RIGHT_STOPS
        if strategy == "fewshot":
            stop = (FILL_END,)
            fitting = [example for example in examples if example.kind == task.kind]
            if not fitting:
                raise StrategyRefusedError(
                    f"{task.task_id}: fewshot has no worked example of a {task.kind} hole to show"
                )
            prefix = fewshot_text(fitting, task, context)
        if encoder is None or card is None or card.bos_id is None:
            text = prefix
        else:
            ids = (card.bos_id, *encoder.encode(prefix))
    else:
        sentinels = infill_format(model, card, strategy)
        if encoder is None:
            raise StrategyRefusedError(
                f"{strategy} for {model}: needs the model's tokenizer.model; "
                "name its folder or repository with --tokenizer"
            )
        ids = infill_ids(strategy, encoder, sentinels, prefix, task.suffix)
        stop_ids = (sentinels.end_id,)
    if ids is not None and card is not None and max(ids) >= card.vocabulary:
        raise StrategyRefusedError(
            f"{task.task_id}: its prompt holds id {max(ids)}, but {card.model_id} embeds only ids "
            f"below {card.vocabulary}; take tokenizer.model from {card.model_id} itself"
        )
    return Prompt(
        task_id=task.task_id,
        strategy=strategy,
        sample_index=sample_index,
        text=text,
        token_ids=ids,
        stop=stop,
        stop_token_ids=stop_ids,
        max_tokens=max_tokens,
    )
