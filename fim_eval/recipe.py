"""How tasks become prompts for one model: what is named, found out or refused before it is asked.

Contacts nobody but the hub, for a tokenizer it must fetch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fim_eval.errors import StrategyRefusedError, TokenizerError
from fim_eval.formats import FORMATS, card_of, format_of, format_of_model, formats_of_tokenizer
from fim_eval.prompt import (
    FILL_END_TOKENS,
    MAX_TOKENS,
    Content,
    Remembering,
    Wording,
    content_of,
    infill_format,
    prompt_of,
    sentinel_ids,
    start_of,
    wording_of,
)
from fim_eval.records import InfillFormat, InfillTask, ModelCard, Prompt, Sampling
from fim_eval.rerank import SAMPLES, SAMPLING
from fim_eval.tokenizer import Tokenizer, open_tokenizer, tokenizer_path
from fim_eval.words import INFILLING, Context, Kind, Strategy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How tasks become prompts for one model."""

    model: str
    """The name the server gives it."""

    strategy: Strategy
    card: str | None = None
    """Name of the model card if it is not the served name."""

    format: str = "auto"
    """Name of a format or path of a `.json` file that holds one; `auto`: by the model's card, its
    name or its tokenizer."""

    context: Context = "text"
    tokenizer: str | None = None
    """Folder or repository; None: the model's own where ids are needed, else the server's."""

    max_tokens: int | None = None
    """None: the default of each kind of hole."""

    samples: int = SAMPLES
    """Candidates for each task, where the strategy asks several."""

    examples: Sequence[InfillTask] = ()
    """Worked examples, where the strategy shows some: see `suite.worked_examples`."""

    @property
    def prompts_per_task(self) -> int:
        """How many completions each task is asked."""
        return self.samples if self.strategy == "lr-rerank" else 1

    @property
    def sampling(self) -> Sampling:
        """The strategy's own: greedy where one answer is asked."""
        return SAMPLING if self.strategy == "lr-rerank" else Sampling()


@dataclass(frozen=True)
class Prepared:
    """How one model is asked: all that holds for every task."""

    recipe: Recipe
    card: ModelCard | None
    tokenizer: Tokenizer | None
    format: InfillFormat | None
    """None where prompts are text, or hold no more than a card says of them."""

    format_from: str | None
    """How it was chosen, for a person."""

    wording: Wording

    @property
    def start(self) -> tuple[int, ...] | None:
        """What every sequence begins with; None where prompts are text."""
        if self.tokenizer is None:
            return None
        return start_of(self.card, self.tokenizer, self.format)

    def max_tokens(self, kind: Kind) -> int:
        """Limit on new tokens in a hole of this kind."""
        more = FILL_END_TOKENS if self.recipe.strategy == "fewshot" else 0
        return self.recipe.max_tokens or MAX_TOKENS[kind] + more

    def content_of(self, task: InfillTask) -> Content:
        """What the model is shown of a task.

        Raises:
            StrategyRefusedError: this task cannot be asked so; ends the run.
        """
        if any(task.problem_id == example.problem_id for example in self.recipe.examples):
            raise StrategyRefusedError(
                f"{self.recipe.strategy}: {task.problem_id} would be a worked example and is "
                "asked, too"
            )
        return content_of(task, self.wording)

    def prompts_with(self, task_id: str, content: Content, max_tokens: int) -> list[Prompt]:
        """The prompts of a task that show this content, by `sample_index`."""
        first = prompt_of(task_id, content, self.wording, max_tokens=max_tokens)
        others = range(1, self.recipe.prompts_per_task)
        return [first, *(first.model_copy(update={"sample_index": index}) for index in others)]

    def prompts_of(self, task: InfillTask) -> list[Prompt]:
        """The prompts of a task; raises as `content_of`."""
        return self.prompts_with(task.task_id, self.content_of(task), self.max_tokens(task.kind))

    def prompt_of(self, task: InfillTask) -> Prompt:
        """The first of them."""
        return self.prompts_of(task)[0]


def prepare(recipe: Recipe) -> Prepared:
    """Find out how the model is asked; contacts nobody but the hub, for a tokenizer it must fetch.

    Raises:
        StrategyRefusedError: the model cannot be asked this way.
        TokenizerError: its tokenizer is missing or not the model's.
    """
    card = model_card(recipe)
    named, origin = named_format(recipe, card)
    encoder = encoder_for(recipe, card, named)
    if encoder is None:
        named = origin = None
    elif named is None and (card is None or card.bos_id is None):
        named, origin = format_of_file(recipe, encoder), "from the tokenizer"
    if encoder is not None and named is not None:
        sentinel_ids(encoder, named)
    wording = wording_of(
        recipe.strategy,
        context=recipe.context,
        model=recipe.model,
        card=card,
        encoder=None if encoder is None else Remembering(encoder),
        named=named,
        examples=recipe.examples,
    )
    return Prepared(recipe, card, encoder, named, origin, wording)


def model_card(recipe: Recipe) -> ModelCard | None:
    """The card of the recipe's model; None if it is not in our table and none is named."""
    card = card_of(recipe.card or recipe.model)
    if recipe.card is not None and card is None:
        raise StrategyRefusedError(
            f"--card {recipe.card}: is not in the table of models (fim_eval/formats.py)"
        )
    return card


def named_format(
    recipe: Recipe, card: ModelCard | None
) -> tuple[InfillFormat, str] | tuple[None, None]:
    """The format that can be known without the tokenizer, and from what; None: none can.

    Raises:
        StrategyRefusedError: `--format` names none, or a file that holds none.
    """
    if recipe.format.endswith(".json"):
        return read_format(Path(recipe.format)), f"from {recipe.format}"
    if recipe.format != "auto":
        found = format_of(recipe.format)
        if found is None:
            raise StrategyRefusedError(
                f"--format {recipe.format}: is none of "
                f"{', '.join(each.name for each in FORMATS)}, nor the name of a .json file"
            )
        return found, "from --format"
    if card is not None:
        return (card.format, "from the model's card") if card.format else (None, None)
    met = format_of_model(recipe.model)
    return (met, "from the model's name") if met else (None, None)


def read_format(path: Path) -> InfillFormat:
    """The format that a file holds as JSON (docs/families.md).

    Raises:
        StrategyRefusedError: it cannot be read, or holds none.
    """
    try:
        return InfillFormat.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StrategyRefusedError(f"--format {path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise StrategyRefusedError(
            f"--format {path}: holds no format ({place}: {first['msg']}); docs/families.md has an "
            "example"
        ) from error


def format_of_file(recipe: Recipe, encoder: Tokenizer) -> InfillFormat:
    """The format whose sentinels the tokenizer has.

    Raises:
        TokenizerError: none is, or several are, which only the user can decide.
    """
    found = formats_of_tokenizer(lambda piece: encoder.piece_id(piece) is not None)
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in found)
    raise TokenizerError(
        f"{encoder.source}: "
        + (
            f"has the sentinels of several formats ({names}); name the one with --format"
            if found
            else f"has the sentinels of no format that is known, and nothing is known of how "
            f"{recipe.model} begins a sequence; name its format with --format, or the model it is "
            "with --card, or leave --tokenizer out: then its prompts are sent as text, left to "
            "right"
        )
    )


def encoder_for(
    recipe: Recipe, card: ModelCard | None, named: InfillFormat | None
) -> Tokenizer | None:
    """The tokenizer that the recipe needs or names; None where the server tokenises."""
    wanted = recipe.tokenizer
    if recipe.strategy in INFILLING:
        if card is not None or named is not None or wanted is None:
            infill_format(recipe.model, card, recipe.strategy, named)
        wanted = wanted or (card.model_id if card else recipe.model)
    if wanted is None:
        return None
    if card is not None and card.infills == "no" and card.bos_id is None:
        raise TokenizerError(
            f"--tokenizer {wanted}: nothing is known of how {recipe.model} begins a sequence, so "
            "its prompts are sent as text; leave --tokenizer out"
        )
    owner = card_of(wanted)
    marks = {piece for each in (*FORMATS, *((named,) if named else ())) for piece in marks_of(each)}
    return open_tokenizer(tokenizer_path(wanted, owner.revision if owner else None), marks)


def marks_of(sentinels: InfillFormat) -> tuple[str, ...]:
    """The pieces of a format that a program's text must never become."""
    return (*sentinels.sentinels, *sentinels.ends)
