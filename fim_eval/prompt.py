"""Tasks in, prompts out. Knows the recipes; knows no server, no file, no model by name.

Infilling recipe, which holds for every family: `infilling_prompt_tokens` in
https://github.com/meta-llama/codellama/blob/main/llama/generation.py, and the Code Llama paper v3,
section 2.3; the order of the parts is the format's. Left to right: InCoder's "L-R single" and "L-R
reranking" (https://arxiv.org/abs/2204.05999). The few-shot template is ours: see `fewshot_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Protocol, assert_never

from fim_eval.errors import StrategyRefusedError, TokenizerError
from fim_eval.records import (
    InfillFormat,
    InfillTask,
    ModelCard,
    Part,
    Piece,
    Prompt,
    Scoring,
    Text,
)
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
    """Text to ids, in the two ways that infilling needs, and the ids of single pieces."""

    @property
    def source(self) -> str:
        """The file it was read from."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the file itself puts in front of a text."""
        ...

    def piece_id(self, piece: str) -> int | None:
        """The id of a token spelled exactly so; None if there is none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without BOS."""
        ...

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence: without the tokenizer's own leading space."""
        ...


class Remembering:
    """An encoder that remembers what it has encoded last.

    The holes of one problem share what stands around them: of MBPP's 25,576 multi-line holes no
    two of one problem that begin alike need their prefix encoded twice.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.source = encoder.source
        self.start_ids = encoder.start_ids
        self.piece_id = cache(encoder.piece_id)
        self.encode = lru_cache(REMEMBERED)(encoder.encode)
        self.encode_infill = lru_cache(REMEMBERED)(encoder.encode_infill)


REMEMBERED = 1024
"""Texts: more than one problem's holes have around them."""


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


def infill_format(
    model: str, card: ModelCard | None, strategy: Strategy, named: InfillFormat | None = None
) -> InfillFormat:
    """The sentinels to ask the model with: those named, else its card's.

    A disputed model may be asked: whoever asks it has named the strategy. A model without a card
    may be asked in a format that is named.

    Raises:
        StrategyRefusedError: the model was not trained to infill, or not in this layout, or
            nothing is known of it.
    """
    if card is not None and (card.infills in ("no", "unknown") or card.format is None):
        raise StrategyRefusedError(
            f"{strategy} for {model}: it was not trained to infill ({card.source}); "
            "use --strategy lr"
        )
    sentinels = named or (card.format if card else None)
    if sentinels is None:
        raise StrategyRefusedError(
            f"{strategy} for {model}: this model is not in the table of models, so its sentinels "
            "are unknown; name the model it is with --card (for example "
            "--card codellama/CodeLlama-7b-hf), its family with --format, or use --strategy lr"
        )
    layout(sentinels, strategy)
    return sentinels


def layout(sentinels: InfillFormat, strategy: Strategy) -> tuple[Part, ...]:
    """The parts of a prompt, in order.

    Raises:
        StrategyRefusedError: the family never defined this one.
    """
    match strategy:
        case "fim-psm":
            parts, other = sentinels.psm, "fim-spm"
        case "fim-spm":
            parts, other = sentinels.spm, "fim-psm"
        case "lr" | "lr-rerank" | "fewshot":
            raise ValueError(f"{strategy} has no sentinels")
        case _:
            assert_never(strategy)
    if parts is None:
        raise StrategyRefusedError(
            f"{strategy} in format {sentinels.name}: the family defines no such layout "
            f"({sentinels.source}); use --strategy {other}"
        )
    return parts


def sentinel_ids(encoder: Encoder, sentinels: InfillFormat) -> dict[str, int]:
    """The ids of all pieces of the format, in the model's own tokenizer.

    Raises:
        TokenizerError: a piece is no token of it, or has another id than the family's.
    """
    ids = {}
    for piece in dict.fromkeys((*sentinels.sentinels, *sentinels.ends)):
        found = encoder.piece_id(piece)
        if found is None and piece not in sentinels.sentinels:
            continue
        wanted = sentinels.known_ids.get(piece, found)
        if found is None or found != wanted:
            finding = "is not a token of this file" if found is None else f"has id {found}"
            raise TokenizerError(
                f"{encoder.source}: {piece} {finding}, but the format {sentinels.name} needs it"
                + ("" if wanted is None else f" as {wanted}")
                + "; take the tokenizer from the model itself"
            )
        ids[piece] = found
    return ids


@dataclass(frozen=True)
class Bound:
    """A format in the ids of one tokenizer."""

    pieces: dict[str, int]
    start: tuple[int, ...]
    """What every sequence begins with."""

    stop: tuple[int, ...]


def bind(encoder: Encoder, sentinels: InfillFormat) -> Bound:
    """The format in the tokenizer's ids.

    Raises:
        TokenizerError: as `sentinel_ids`.
    """
    pieces = sentinel_ids(encoder, sentinels)
    match sentinels.start:
        case "file":
            start = encoder.start_ids
        case Piece(piece):
            start = (pieces[piece],)
        case None:
            start = ()
    return Bound(pieces, start, tuple(pieces[end] for end in sentinels.ends if end in pieces))


def start_of(
    card: ModelCard | None, encoder: Encoder, named: InfillFormat | None
) -> tuple[int, ...] | None:
    """What every sequence of the model begins with; None if nobody knows."""
    if card is not None and card.bos_id is not None:
        return (card.bos_id,)
    sentinels = named or (card.format if card else None)
    return None if sentinels is None else bind(encoder, sentinels).start


def infill_ids(
    encoder: Encoder, bound: Bound, parts: tuple[Part, ...], prefix: str, suffix: str
) -> tuple[int, ...]:
    """The infilling prompt as ids: the start, then the parts of the layout.

    The prefix begins a text and the suffix goes on in one, as in Meta's reference: that differs
    where the tokenizer adds a leading space. An empty prefix or suffix gives no ids; no other case
    is special.
    """
    ids = [*bound.start]
    for part in parts:
        match part:
            case "prefix":
                ids += encoder.encode(prefix)
            case "suffix":
                ids += encoder.encode_infill(suffix)
            case Piece(piece):
                ids.append(bound.pieces[piece])
            case Text(text):
                ids += encoder.encode_infill(text)
    return tuple(ids)


def piece_counts(bound: Bound, parts: tuple[Part, ...]) -> tuple[tuple[str, int, int], ...]:
    """Every piece with its id and how often a prompt holds it.

    Where a prompt holds it oftener, the task's text spells it, and the tokenizer has read it as
    one.
    """
    return tuple(
        (piece, number, parts.count(Piece(piece)) + bound.start.count(number))
        for piece, number in bound.pieces.items()
    )


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
    start: tuple[int, ...] | None,
    encoder: Encoder | None,
) -> Scoring:
    """The whole program with a candidate in its hole, as InCoder's reranking scores it.

    Args:
        task: whose hole it is.
        prompt: that the candidate answered.
        candidate: after truncation.
        context: what is shown above the program; scored with it.
        start: what the model's sequences begin with; None: not known, or prompts are text.
        encoder: as `build_prompt`.
    """
    program = shown_prefix(task, context) + candidate + task.suffix
    given: str | tuple[int, ...] = ""
    text: str | tuple[int, ...] = program
    end: str | tuple[int, ...] = ""
    if prompt.token_ids is not None and encoder is not None and start is not None:
        given = start
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


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How one model is asked: what holds for every task of a run."""

    strategy: Strategy
    context: Context
    card: ModelCard | None
    encoder: Encoder | None
    """None: prompts are text."""

    start: tuple[int, ...] = ()
    """Left to right: what every sequence begins with."""

    bound: Bound | None = None
    """The format, where the strategy has one."""

    parts: tuple[Part, ...] = ()
    spellable: tuple[tuple[str, int, int], ...] = ()
    """Pieces that a program may spell by accident: piece, id, how often the layout has it."""

    examples: Sequence[InfillTask] = ()
    """Of which those of the task's kind are shown."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Where the server ends a completion, as text."""
        if self.bound is not None:
            return ()
        return (FILL_END,) if self.strategy == "fewshot" else LEFT_TO_RIGHT_STOPS

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Where the server ends a completion, as ids."""
        return () if self.bound is None else self.bound.stop


def wording_of(
    strategy: Strategy,
    *,
    context: Context,
    model: str,
    card: ModelCard | None,
    encoder: Encoder | None,
    named: InfillFormat | None = None,
    examples: Sequence[InfillTask] = (),
) -> Wording:
    """How the model is asked by the strategy.

    `fim-*` prompts are always ids and need an encoder and a format: the one named, else the
    card's. Others are ids if there is an encoder, and a card or format that says what a sequence
    begins with; else text for the server to tokenise.

    Raises:
        StrategyRefusedError: the model cannot be asked this way.
        TokenizerError: the tokenizer has not the format's sentinels.
    """
    if strategy not in INFILLING:
        start = None if encoder is None else start_of(card, encoder, named)
        return Wording(
            strategy=strategy,
            context=context,
            card=card,
            encoder=None if start is None else encoder,
            start=start or (),
            examples=examples,
        )
    sentinels = infill_format(model, card, strategy, named)
    if encoder is None:
        raise StrategyRefusedError(
            f"{strategy} for {model}: needs the model's tokenizer.model or tokenizer.json; "
            "name its folder or repository with --tokenizer"
        )
    bound = bind(encoder, sentinels)
    parts = layout(sentinels, strategy)
    return Wording(
        strategy=strategy,
        context=context,
        card=card,
        encoder=encoder,
        bound=bound,
        parts=parts,
        spellable=() if sentinels.text_may_spell_pieces else piece_counts(bound, parts),
    )


Content = str | tuple[int, ...]
"""What is shown to the model: text, for the server to tokenise, or ids."""


def content_of(task: InfillTask, wording: Wording) -> Content:
    """What the model is shown of one task.

    Raises:
        StrategyRefusedError: this task cannot be asked so; ends the run.
    """
    prefix = shown_prefix(task, wording.context)
    encoder, card = wording.encoder, wording.card
    if encoder is not None and wording.bound is not None:
        ids = infill_ids(encoder, wording.bound, wording.parts, prefix, task.suffix)
        for piece, number, times in wording.spellable:
            if ids.count(number) != times:
                raise StrategyRefusedError(
                    f"{task.task_id}: its program spells {piece}, which {encoder.source} reads as "
                    "a sentinel of the model's format; leave this task out, or use --strategy lr"
                )
    else:
        if wording.strategy == "fewshot":
            prefix = fewshot_text(fitting_examples(wording.examples, task), task, wording.context)
        if encoder is None:
            return prefix
        ids = (*wording.start, *encoder.encode(prefix))
    if card is not None and max(ids) >= card.vocabulary:
        raise StrategyRefusedError(
            f"{task.task_id}: its prompt holds id {max(ids)}, but {card.model_id} embeds only ids "
            f"below {card.vocabulary}; take the tokenizer from {card.model_id} itself"
        )
    return ids


def prompt_of(
    task_id: str, content: Content, wording: Wording, *, max_tokens: int, sample_index: int = 0
) -> Prompt:
    """The prompt that shows this content; `lr-rerank` asks what `lr` asks, several times."""
    return Prompt(
        task_id=task_id,
        strategy=wording.strategy,
        sample_index=sample_index,
        text=content if isinstance(content, str) else None,
        token_ids=None if isinstance(content, str) else content,
        stop=wording.stop,
        stop_token_ids=wording.stop_token_ids,
        max_tokens=max_tokens,
    )


def build_prompt(
    task: InfillTask, wording: Wording, *, max_tokens: int, sample_index: int = 0
) -> Prompt:
    """The prompt for one task.

    Raises:
        StrategyRefusedError: as `content_of`.
    """
    content = content_of(task, wording)
    return prompt_of(
        task.task_id, content, wording, max_tokens=max_tokens, sample_index=sample_index
    )


def fitting_examples(examples: Sequence[InfillTask], task: InfillTask) -> list[InfillTask]:
    """Those of the task's kind.

    Raises:
        StrategyRefusedError: there is none.
    """
    fitting = [example for example in examples if example.kind == task.kind]
    if not fitting:
        raise StrategyRefusedError(
            f"{task.task_id}: fewshot has no worked example of a {task.kind} hole to show"
        )
    return fitting
