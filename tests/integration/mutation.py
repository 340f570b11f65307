"""Programs with one small fault, as a model might leave one. Seeded: the same each time.

Few hang: nothing is changed within a `while`, where most endless loops come from.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from fim_eval.syntax import parse


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program, and which kind of change made it."""

    change: str
    program: str


def mutants(program: str, seed: str, most: int) -> list[Mutant]:
    """At most so many distinct programs, each one change away, every kind of change in turn."""
    random = Random(seed)  # noqa: S311  no secret
    whole = parse(program)
    places: dict[str, list[int]] = {}
    for place, node in enumerate(_nodes(whole)):
        for change, (fits, _) in CHANGES.items():
            if fits(node):
                places.setdefault(change, []).append(place)
    turns = [(change, random.sample(found, len(found))) for change, found in places.items()]
    random.shuffle(turns)
    programs = {ast.unparse(whole) + "\n"}
    found: list[Mutant] = []
    while turns and len(found) < most:
        change, left = turns.pop(0)
        tree = parse(program)
        CHANGES[change][1](list(_nodes(tree))[left.pop()], random)
        changed = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        if left:
            turns.append((change, left))
        if changed not in programs and _compiles(changed):
            programs.add(changed)
            found.append(Mutant(change, changed))
    return found


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those in a `while`, in an order that depends on the program alone."""
    yield tree
    if not isinstance(tree, ast.While):
        for child in ast.iter_child_nodes(tree):
            yield from _nodes(child)


def _compiles(program: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(program, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
    return True


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _off_by_one(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int | float)
    if isinstance(node.value, bool):
        node.value = not node.value
    else:
        node.value += random.choice([-1, 1])


def _other_text(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, str)
    node.value = random.choice([node.value.swapcase(), node.value + " ", node.value[1:]])


def _other_comparison(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.Compare)
    others: list[type[ast.cmpop]] = [ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE]
    node.ops[random.randrange(len(node.ops))] = random.choice(others)()


def _other_arithmetic(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.BinOp | ast.AugAssign)
    # No powers and no shifts: `9 ** 9 ** 9` is a program that hangs.
    others: list[type[ast.operator]] = [
        ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr,
    ]  # fmt: skip
    node.op = random.choice(others)()


def _other_logic(node: ast.AST, _: Random) -> None:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _negated(node: ast.AST, _: Random) -> None:
    assert isinstance(node, ast.If | ast.IfExp)
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _statement_deleted(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.FunctionDef | ast.For | ast.If)
    node.body[random.randrange(len(node.body))] = ast.Pass()


def _returned_none(node: ast.AST, _: Random) -> None:
    assert isinstance(node, ast.Return)
    node.value = None


RETURNED = (
    "list({})", "tuple({})", "set({})", "frozenset({})", "sorted({})", "iter({})", "int({})",
    "float({})", "complex({})", "bool({})", "str({})", "repr({})", "bytes({})", "dict({})",
    "[{}]", "({},)", "-({})", "({}) + 1", "not ({})", "({})[::-1]", "({}) or None", "len({})",
    "round({}, 1)", "(yield {})", "lambda: {}", "print({})", "max({}, 3)", "({}) * 1.0",
    "__import__('collections').deque({})", "__import__('collections').Counter({})",
    "__import__('collections').OrderedDict({})", "__import__('collections').UserList({})",
    "__import__('collections').UserString({})", "__import__('fractions').Fraction({})",
    "__import__('decimal').Decimal({})", "__import__('types').MappingProxyType({})",
    "dict.fromkeys({}).keys()", "memoryview({})", "range({})",
)  # fmt: skip


def _returned_other(node: ast.AST, random: Random) -> None:
    assert isinstance(node, ast.Return)
    assert node.value is not None
    source = random.choice(RETURNED).format(ast.unparse(node.value))
    node.value = ast.parse(source, mode="eval").body


def _is_sorted(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("sorted", "reversed", "set", "max", "min")
    )


def _unsorted(node: ast.AST, _: Random) -> None:
    assert isinstance(node, ast.Call)
    node.func, node.keywords = ast.Name("list", ast.Load()), []


def _locals(node: ast.AST) -> list[str]:
    if not isinstance(node, ast.FunctionDef):
        return []
    stored = {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }
    return sorted(stored | {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)})


def _variable_renamed(node: ast.AST, random: Random) -> None:
    old = random.choice(_locals(node))
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id == old:
            part.id = old + "_"
        elif isinstance(part, ast.arg) and part.arg == old:
            part.arg = old + "_"


def _other_variable(node: ast.AST, random: Random) -> None:
    names = _locals(node)
    reads = [part for part in _nodes(node) if isinstance(part, ast.Name) and part.id in names]
    if reads:
        random.choice(reads).id = random.choice([*names, "forgotten"])


CHANGES: dict[str, tuple[Callable[[ast.AST], bool], Callable[[ast.AST, Random], None]]] = {
    "off by one": (_is_number, _off_by_one),
    "other text": (
        lambda node: isinstance(node, ast.Constant) and isinstance(node.value, str),
        _other_text,
    ),
    "other comparison": (lambda node: isinstance(node, ast.Compare), _other_comparison),
    "other arithmetic": (
        lambda node: isinstance(node, ast.BinOp | ast.AugAssign),
        _other_arithmetic,
    ),
    "other logic": (lambda node: isinstance(node, ast.BoolOp), _other_logic),
    "negated": (lambda node: isinstance(node, ast.If | ast.IfExp), _negated),
    "statement deleted": (
        lambda node: isinstance(node, ast.FunctionDef | ast.For | ast.If),
        _statement_deleted,
    ),
    "returned none": (lambda node: isinstance(node, ast.Return), _returned_none),
    "returned other": (
        lambda node: isinstance(node, ast.Return) and node.value is not None,
        _returned_other,
    ),
    "returned another": (
        lambda node: isinstance(node, ast.Return) and node.value is not None,
        _returned_other,
    ),
    "unsorted": (_is_sorted, _unsorted),
    "variable renamed": (lambda node: bool(_locals(node)), _variable_renamed),
    "other variable": (lambda node: bool(_locals(node)), _other_variable),
}
"""By name: what a change fits, and the change. The type of what is returned has two turns."""
