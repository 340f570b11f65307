from __future__ import annotations

import enum
import json
import math
import operator
import pickle
import sys
from collections import (
    ChainMap,
    Counter,
    OrderedDict,
    UserDict,
    UserList,
    UserString,
    defaultdict,
    deque,
    namedtuple,
)
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fim_eval.judge import Check
from fim_eval.sandbox import zygote
from fim_eval.values import MOST_COLLISIONS, MalformedValueError, Opaque, decode, parse_line


def through(value: object) -> Any:
    """A value as it arrives outside: encoded, written by the zygote's own writer, read, decoded."""
    line = "".join(zygote._json([0, zygote.encode(value)], 0)).encode()
    _, encoded = parse_line(line)
    return decode(encoded)


# Recipes: a value can be made of one more than once, of other types, and with small changes

Recipe = tuple[str, tuple[Any, ...]]
"""A kind and its parts: recipes for a container, the one plain value for an atom."""


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(str, enum.Enum):  # noqa: UP042  what programs write
    RED = "red"


class Whole(int):
    pass


class Real(float):
    pass


class Text(str):
    __slots__ = ()


class Row(list[Any]):
    pass


class Table(dict[Any, Any]):
    def __missing__(self, key: object) -> int:
        return 0


def named(parts: list[Any]) -> Any:
    return namedtuple("named", [f"part{number}" for number in range(len(parts))])(*parts)


def again(value: object) -> Any:
    """An equal object that is not the same one, so that no NaN is equal by being itself."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301  our own


Makers = dict[str, Callable[[list[Any]], Any]]

LITERAL: Makers = {
    "plain": lambda parts: again(parts[0]),
    "pair": tuple,
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda parts: Counter(dict(parts)),
}
"""What a test's expected value can be made of."""

SENT: Makers = LITERAL | {
    "Whole": lambda parts: Whole(parts[0]),
    "Real": lambda parts: Real(parts[0]),
    "Level": lambda parts: Level(parts[0]),
    "Text": lambda parts: Text(parts[0]),
    "Colour": lambda parts: Colour(parts[0]),
    "UserString": lambda parts: UserString(parts[0]),
    "bytearray": lambda parts: bytearray(parts[0]),
    "memoryview": lambda parts: memoryview(parts[0]),
    "named": named,
    "Row": Row,
    "UserList": UserList,
    "keys": lambda parts: dict.fromkeys(parts).keys(),
    "items": lambda parts: dict(parts).items(),
    "odict_keys": lambda parts: OrderedDict.fromkeys(parts).keys(),
    "defaultdict": lambda parts: defaultdict(int, dict(parts)),
    "Table": Table,
    "UserDict": lambda parts: UserDict(dict(parts)),
    "ChainMap": lambda parts: ChainMap(dict(parts)),
    "proxy": lambda parts: MappingProxyType(dict(parts)),
}
"""What a program can return."""

ARRIVES_AS = {
    "Whole": "plain",
    "Real": "plain",
    "Level": "plain",
    "Text": "plain",
    "Colour": "plain",
    "UserString": "plain",
    "memoryview": "plain",
    "named": "tuple",
    "Row": "list",
    "UserList": "list",
    "odict_keys": "keys",
    "defaultdict": "dict",
    "Table": "dict",
    "UserDict": "dict",
    "ChainMap": "dict",
    "proxy": "dict",
}
EXPECTED_AS = ARRIVES_AS | {
    "bytearray": "plain",
    "keys": "set",
    "odict_keys": "set",
    "items": "set",
}

SEQUENCES = ("list", "tuple", "deque", "named", "Row", "UserList")
SETS = ("set", "frozenset", "keys", "odict_keys", "items")
MAPPINGS = (
    "dict", "OrderedDict", "Counter", "defaultdict", "Table", "UserDict", "ChainMap", "proxy",
)  # fmt: skip


def made(recipe: Recipe, makers: Makers, instead: Mapping[str, str]) -> Any:
    kind, parts = recipe
    if not parts or not isinstance(parts[0], tuple):
        content = list(parts)
    else:
        content = [made(part, makers, instead) for part in parts]
    return makers[instead.get(kind, kind)](content)


def made_or_rejected(
    recipe: Recipe, makers: Makers, instead: Mapping[str, str] = MappingProxyType({})
) -> Any:
    try:
        return made(recipe, makers, instead)
    except TypeError:  # a member that cannot be hashed
        reject()


def is_atom(recipe: Recipe) -> bool:
    return recipe[0] not in {*SEQUENCES, *SETS, *MAPPINGS, "pair"}


texts = st.text(max_size=5) | st.text(st.sampled_from("a\n\0\x7fé\u2028😀\ud800\udfff"), max_size=3)
integers = st.one_of(
    st.integers(-2, 2),
    st.integers(),
    st.builds(operator.lshift, st.integers(), st.integers(0, 20_000)),
)
floats = st.sampled_from([0.0, -0.0, 1.0, 0.5, math.nan, math.inf, -math.inf]) | st.floats()
blobs = st.binary(max_size=4)
small = st.integers(-4, 4)
plain = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    floats,
    st.complex_numbers(),
    texts,
    blobs,
    st.builds(range, small, small, small.filter(bool)),
    st.builds(Fraction, small, st.integers(1, 4)) | st.fractions(),
    st.sampled_from(["0", "-0", "1", "1.0", "1E+3", "0.5", "NaN", "-Infinity"]).map(Decimal)
    | st.decimals().filter(lambda number: not number.is_snan()),
)


def atoms(kind: str, content: st.SearchStrategy[Any]) -> st.SearchStrategy[Recipe]:
    return content.map(lambda value: (kind, (value,)))


hashable_atoms = st.one_of(
    atoms("plain", plain),
    atoms("Whole", integers),
    atoms("Real", floats),
    atoms("Level", st.sampled_from([1, 2])),
    atoms("Text", texts),
    atoms("Colour", st.just("red")),
    atoms("UserString", texts),
    atoms("memoryview", blobs),
)
any_atoms = hashable_atoms | atoms("bytearray", blobs)


def several(kinds: tuple[str, ...], parts: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    return st.tuples(st.sampled_from(kinds), st.lists(parts, min_size=1, max_size=3).map(tuple))


def pairs(
    keys: st.SearchStrategy[Recipe], values: st.SearchStrategy[Recipe]
) -> st.SearchStrategy[Recipe]:
    return st.tuples(st.just("pair"), st.tuples(keys, values))


hashable = st.recursive(
    # No NaN: see test_two_nans_arrive_as_two.
    hashable_atoms.filter(
        lambda atom: not (isinstance(atom[1][0], float) and atom[1][0] != atom[1][0])
    ),
    lambda parts: several(("tuple", "named"), parts) | several(("frozenset",), parts),
    max_leaves=3,
)
recipes = st.recursive(
    any_atoms,
    lambda parts: st.one_of(
        several(SEQUENCES, parts),
        several(SETS[:-1], hashable),
        several(("items",), pairs(hashable, parts)),
        several(MAPPINGS, pairs(hashable, parts)),
    ),
    max_leaves=6,
)


def neighbours(value: Any) -> list[Any]:
    """Values of other types that are equal to this one, or nearly."""
    changes: list[Callable[[Any], Any]] = [
        bool, int, float, complex, Fraction, Decimal, str, list, tuple, repr,
        lambda found: found + 1, lambda found: -found, lambda found: found[1:],
        lambda found: found.encode(), lambda found: found.decode(),
        lambda found: found.encode("utf-16", "surrogatepass").decode("utf-16"),
        lambda _found: None,
    ]  # fmt: skip
    found = []
    for change in changes:
        try:
            found.append(change(value))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            continue
    return [other for other in found if not isinstance(other, list | tuple)]


@st.composite
def changed(draw: st.DrawFn, recipe: Recipe) -> Recipe:
    """The recipe with one small change somewhere, which may make no difference."""
    kind, parts = recipe
    if is_atom(recipe):
        return "plain", (draw(st.sampled_from(neighbours(parts[0]))),)
    place = draw(st.integers(0, len(parts) - 1)) if parts else None
    if place is not None and (kind == "pair" or draw(st.booleans())):
        part = draw(changed(parts[place]))
        return kind, (*parts[:place], part, *parts[place + 1 :])
    if kind == "pair":
        return recipe
    change = draw(st.sampled_from(["kind", "less", "more", "order"]))
    if change == "kind":
        family = next(one for one in (SEQUENCES, MAPPINGS, SETS) if kind in one)
        return draw(st.sampled_from([other for other in family if other != "items"])), parts
    if change == "less":
        return kind, parts[1:]
    if change == "more":
        return kind, (*parts, *parts[:1])
    return kind, parts[::-1]


@st.composite
def found_and_expected(draw: st.DrawFn, recipes: st.SearchStrategy[Recipe]) -> tuple[Any, Any]:
    recipe = draw(recipes)
    other = recipe
    for _ in range(draw(st.integers(0, 2))):
        other = draw(changed(other))
    return made_or_rejected(recipe, SENT), made_or_rejected(other, LITERAL, EXPECTED_AS)


def plainly(compare: Callable[[Any, Any], Any], found: object, expected: object) -> bool:
    """Whether a plain assert accepts: it does not if the comparison raises."""
    try:
        return bool(compare(found, expected))
    except (TypeError, ValueError, ArithmeticError):
        return False


def is_in(value: object, container: Any) -> bool:
    return value in container


def is_not_in(value: object, container: Any) -> bool:
    return value not in container


def shape(value: Any) -> Any:
    """Type and content all the way down: equal for values that nothing can tell apart."""
    kind = type(value)
    content: Any = value
    if isinstance(value, float):
        content = value.hex()
    elif isinstance(value, complex):
        content = value.real.hex(), value.imag.hex()
    elif isinstance(value, int):
        content = hex(value)
    elif isinstance(value, Decimal):
        content = str(value)
    elif isinstance(value, OrderedDict):
        content = [shape(part) for part in value.items()]
    elif isinstance(value, list | tuple | deque):
        content = [shape(part) for part in value]
    elif isinstance(value, dict):
        content = sorted(map(shape, value.items()), key=repr)
    elif isinstance(value, set | frozenset | type({}.keys()) | type({}.items())):
        content = sorted(map(shape, value), key=repr)
    return kind, content


@settings(max_examples=150)
@given(recipes)
def test_a_value_arrives_as_itself_or_as_the_builtin_whose_equality_it_has(recipe: Recipe) -> None:
    assert shape(through(made_or_rejected(recipe, SENT))) == shape(
        made_or_rejected(recipe, SENT, ARRIVES_AS)
    )


@settings(max_examples=300)
@given(found_and_expected(recipes))
def test_a_value_equals_what_is_expected_outside_exactly_if_it_does_inside(
    both: tuple[Any, Any],
) -> None:
    found, expected = both
    arrived = through(found)
    for relation, compare in (("==", operator.eq), ("!=", operator.ne)):
        check = Check("value", "", relation, expected)
        assert check.holds(arrived) == plainly(compare, found, expected)
    for container in ([expected], (0, expected)):
        check = Check("value", "", "in", container)
        assert check.holds(arrived) == plainly(is_in, found, container)
        check = Check("value", "", "not in", container)
        assert check.holds(arrived) == plainly(is_not_in, found, container)


def without(kinds: set[str]) -> Callable[[Recipe], bool]:
    def accepts(recipe: Recipe) -> bool:
        kind, parts = recipe
        return kind not in kinds and (is_atom(recipe) or all(map(accepts, parts)))

    return accepts


@settings(max_examples=150)
@given(
    # Equal to `bytes` and `str`, but neither ordered against them nor searched for in them.
    found_and_expected(recipes.filter(without({"memoryview", "UserString"})))
)
def test_order_membership_and_closeness_hold_outside_exactly_if_they_do_inside(
    both: tuple[Any, Any],
) -> None:
    found, expected = both
    arrived = through(found)
    comparisons: dict[str, Callable[[Any, Any], Any]] = {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "in": is_in,
        "not in": is_not_in,
        "isclose": math.isclose,
    }
    for relation, compare in comparisons.items():
        check = Check("value", "", relation, expected)
        assert check.holds(arrived) == plainly(compare, found, expected), relation


def test_a_comparison_with_a_signalling_nan_does_not_hold_as_it_raises_inside() -> None:
    signalling = through(Decimal("sNaN"))
    for relation, compare in (("==", operator.eq), ("!=", operator.ne), ("<", operator.lt)):
        assert not Check("value", "", relation, 1).holds(signalling)
        assert not plainly(compare, Decimal("sNaN"), 1)


@pytest.mark.parametrize("text", ["\ud800\udc00", "a\udbff\udfffb"])
def test_a_pair_of_surrogates_arrives_as_two_characters(text: str) -> None:
    assert through(text) == text


def test_two_nans_arrive_as_two() -> None:
    assert len(through({float("nan"), float("nan")})) == 2


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (OrderedDict([(1, 2), (3, 4)]), OrderedDict([(3, 4), (1, 2)])),
        (Counter(a=0), Counter()),
    ],
)
def test_a_mapping_proxy_equals_what_its_mapping_equals(shown: Any, expected: Any) -> None:
    proxy = MappingProxyType(shown)
    assert (through(proxy) == expected) == (proxy == expected)


@pytest.mark.parametrize("bits", [62, 63, 64, 20_000])
def test_an_integer_of_any_size_arrives_as_itself(bits: int) -> None:
    for number in (2**bits - 1, 2**bits, -(2**bits), -(2**bits) - 1):
        assert through([number, {number}]) == [number, {number}]


def test_values_of_many_parts_arrive_up_to_the_limit() -> None:
    most = [0] * (zygote.MOST_NODES - 1)
    assert through(most) == most
    with pytest.raises(zygote.Large):
        zygote.encode([*most, 0])
    with pytest.raises(zygote.Large):
        zygote.encode([[0] * 300] * 400)


def test_sets_and_dicts_of_many_members_arrive() -> None:
    many = range(zygote.MOST_NODES // 2 - 1)
    assert through(set(many)) == set(many)
    assert through(dict.fromkeys(many)) == dict.fromkeys(many)
    assert through({-1, -2}) == {-1, -2}


HASHED = ("set", "frozenset", "keys", "dict", "OrderedDict", "Counter", "items")


@pytest.mark.parametrize("tag", HASHED)
def test_members_that_were_chosen_to_collide_are_malformed(tag: str) -> None:
    step = 1 if tag in HASHED[:3] else 2
    members = [
        part
        for number in range(2 * MOST_COLLISIONS)
        for part in (["int", hex(number * sys.hash_info.modulus)], 1)[:step]
    ]
    with pytest.raises(MalformedValueError):
        decode([tag, *members])
    assert decode([tag, *members[: step * MOST_COLLISIONS // 2]])


def test_powers_of_two_are_not_taken_for_an_attack() -> None:
    powers = {2**exponent: exponent for exponent in range(122)}
    assert through(powers) == powers


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_values_as_deep_as_a_literal_arrive_and_deeper_ones_equal_nothing() -> None:
    assert through(nested(200)) == nested(200)
    assert through(nested(zygote.DEEPEST)) == nested(zygote.DEEPEST)
    deeper = nested(zygote.DEEPEST + 1)
    assert through(deeper) != deeper


def test_a_list_within_itself_arrives_as_one_that_equals_nothing() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert through(endless) != nested(200)
    wide: list[Any] = []
    wide.extend((wide, wide))
    with pytest.raises(zygote.Large):
        zygote.encode(wide)


# Types with an equality of their own


def returned(source: str) -> Any:
    """The value of `x` in a program, as the zygote runs it."""
    world: dict[str, Any] = {"__name__": zygote.MODULE}
    exec(compile(source, zygote.MODULE, "exec", dont_inherit=True), world)  # noqa: S102  ours
    return world["x"]


EQUAL = """\
    def __eq__(self, other):
        return True
    __hash__ = None
"""


@pytest.mark.parametrize(
    ("base", "value"),
    [
        pytest.param("object", "Yes()", id="plain class"),
        pytest.param("int", "Yes(3)", id="int"),
        pytest.param("str", "Yes('a')", id="str"),
        pytest.param("float", "Yes(1)", id="float"),
        pytest.param("list", "Yes()", id="list"),
        pytest.param("tuple", "Yes()", id="tuple"),
        pytest.param("dict", "Yes()", id="dict"),
        pytest.param("set", "Yes()", id="set"),
        pytest.param("collections.Counter", "Yes()", id="Counter"),
        pytest.param("collections.UserList", "Yes()", id="UserList"),
        pytest.param("object", "type('Heir', (Yes,), {})()", id="inherited"),
        pytest.param("object", "type('Heir', (Yes, int), {})(3)", id="before a built-in"),
        pytest.param("type", "Yes('A', (), {})", id="class of a class"),
        pytest.param("object", "[Yes()]", id="in a list"),
        pytest.param("object", "{1: (Yes(),)}", id="in a dict"),
    ],
)
def test_a_type_whose_equality_the_program_wrote_is_foreign(base: str, value: str) -> None:
    with pytest.raises(zygote.Foreign):
        zygote.encode(returned(f"import collections\nclass Yes({base}):\n{EQUAL}\nx = {value}"))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("class Yes:\n    __eq__ = None\nx = Yes()", id="no equality"),
        pytest.param(f"class Yes:\n{EQUAL}    __class__ = int\nx = Yes()", id="another class"),
        pytest.param(
            "import dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: int\nx = Point(1)",
            id="dataclass",
        ),
    ],
)
def test_a_type_is_foreign_however_it_came_to_its_equality(source: str) -> None:
    with pytest.raises(zygote.Foreign):
        zygote.encode(returned(source))


@pytest.mark.parametrize(
    ("base", "body", "argument"),
    [
        ("int", "pass", 3),
        ("int", "__index__ = __int__ = __pos__ = lambda self: 4", 3),
        ("float", "__pos__ = __float__ = lambda self: 4.0", 3.0),
        ("str", "__getitem__ = __str__ = lambda *_: 'b'", "a"),
        ("bytes", "hex = lambda _: '00'", b"a"),
        ("list", "__iter__ = lambda _: iter([4])", [3]),
        ("tuple", "__iter__ = None", (3,)),
        ("dict", "items = __iter__ = lambda _: [(4, 4)]", {3: 3}),
        ("set", "__iter__ = lambda _: iter([4])", {3}),
        ("frozenset", "__len__ = lambda _: 4", frozenset({3})),
    ],
)
def test_a_subclass_without_an_equality_of_its_own_goes_as_what_it_holds(
    base: str, body: str, argument: object
) -> None:
    value = returned(f"class A({base}):\n    {body}\nx = A({argument!r})")
    assert value == argument
    assert through(value) == argument


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("import enum; x = enum.IntFlag('A', ['B', 'C'])(3)", 3),
        ("import typing; x = typing.NamedTuple('A', [('b', int)])(3)", (3,)),
        ("import time; x = time.gmtime(0)[:3]", (1970, 1, 1)),
        ("import time; x = time.gmtime(0)", (1970, 1, 1, 0, 0, 0, 3, 1, 0)),
        ("import http; x = http.HTTPStatus.OK", 200),
        ("import signal; x = signal.SIGKILL", 9),
    ],
)
def test_a_value_of_a_library_goes_as_the_builtin_it_equals(source: str, value: object) -> None:
    assert through(returned(source)) == value == returned(source)


@pytest.mark.parametrize(
    "source",
    [
        "x = lambda: 3",
        "x = len",
        "x = int",
        "x = [].append",
        "import math as x",
        "x = object()",
        "class A:\n    pass\nx = A()",
        "class A:\n    __hash__ = lambda self: 3\nx = A()",
        "import dataclasses\n@dataclasses.dataclass(eq=False)\nclass A:\n    b: int\nx = A(3)",
        "x = (value for value in [3])",
        "x = iter([3])",
        "x = map(int, '3')",
        "x = zip([3])",
        "x = enumerate([3])",
        "x = reversed([3])",
        "x = {3: 3}.values()",
        "x = ...",
        "x = NotImplemented",
        "x = slice(3)",
        "x = ValueError(3)",
        "import enum\nclass A(enum.Enum):\n    B = 3\nx = A.B",
        "import array\nx = array.array('i', [3])",
        "import datetime\nx = datetime.date(2000, 1, 1)",
        "import types\nx = types.SimpleNamespace(a=3)",
        "import re\nx = re.match('3', '3')",
        "import unittest.mock\nx = unittest.mock.ANY",
        f"class A:\n{EQUAL}A.__module__ = 'builtins'\nx = A()",
    ],
)
def test_a_value_that_equals_no_literal_arrives_as_one_that_equals_nothing(source: str) -> None:
    arrived = through([returned(source)])[0]
    assert type(arrived) is Opaque
    for other in (None, True, 3, 3.0, "3", [3], (3,), {3}, {3: 3}, Opaque(), [arrived]):
        assert arrived != other


# Messages that no encoder wrote

TAGS = [
    "object", "int", "bytes", "bytearray", "complex", "list", "tuple", "deque", "range", "Fraction",
    "Decimal", "set", "frozenset", "dict", "OrderedDict", "Counter", "keys", "items", "str", "eval",
]  # fmt: skip
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([*TAGS, "0x1f", "ff", "1/3", "-0", "NaN", "sNaN", "inf", "1e3"]),
)
forged = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=4),
        st.builds(
            lambda tag, rest: [tag, *rest], st.sampled_from(TAGS), st.lists(parts, max_size=4)
        ),
        st.dictionaries(st.text(max_size=3), parts, max_size=2),
    ),
    max_leaves=8,
)
ATOMS: tuple[type[Any], ...] = (
    type(None), bool, int, float, str, complex, bytes, bytearray, range, Fraction, Decimal, Opaque,
)  # fmt: skip
CONTAINERS: tuple[type[Any], ...] = (
    list, tuple, deque, set, frozenset, dict, OrderedDict, Counter, type({}.keys()),
    type({}.items()),
)  # fmt: skip


def assert_is_of_the_known_types(value: Any) -> None:
    assert type(value) in (*ATOMS, *CONTAINERS)
    if type(value) in CONTAINERS:
        for part in value.items() if isinstance(value, dict) else value:
            assert_is_of_the_known_types(part)


@settings(max_examples=300)
@given(forged)
def test_whatever_is_sent_a_known_type_arrives_or_it_is_malformed(message: Any) -> None:
    try:
        value = decode(message)
    except MalformedValueError:
        return
    assert_is_of_the_known_types(value)


@given(
    st.binary()
    | st.text().map(str.encode)
    | forged.map(lambda message: json.dumps(message).encode())
)
def test_whatever_is_sent_a_line_is_a_json_array_or_malformed(line: bytes) -> None:
    try:
        message = parse_line(line)
    except MalformedValueError:
        return
    assert message == json.loads(line) or "NaN" in line.decode()
    assert isinstance(message, list)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param([], id="nothing"),
        pytest.param({}, id="an object"),
        pytest.param(["list", {"a": 1}], id="an object within"),
        pytest.param([1, 2], id="no tag"),
        pytest.param([["list"], 2], id="a list for a tag"),
        pytest.param([None], id="null for a tag"),
        pytest.param(["eval", "1"], id="an unknown tag"),
        pytest.param(["__class__"], id="a name of Python's"),
        pytest.param(["int"], id="an integer without digits"),
        pytest.param(["int", "xyz"], id="an integer of letters"),
        pytest.param(["int", 3], id="an integer of an integer"),
        pytest.param(["bytes", "f"], id="half a byte"),
        pytest.param(["complex", 1.0], id="half a complex number"),
        pytest.param(["complex", "x", 1.0], id="a complex number of letters"),
        pytest.param(["range"], id="a range without end"),
        pytest.param(["range", 0, 9, 0], id="a range without step"),
        pytest.param(["range", 0, 1.5], id="a range to a fraction"),
        pytest.param(["Fraction", 1, 0], id="a fraction by zero"),
        pytest.param(["Fraction", 1.5, 2], id="a fraction of floats"),
        pytest.param(["Decimal", "x"], id="a decimal of letters"),
        pytest.param(["Decimal"], id="a decimal without digits"),
        pytest.param(["set", ["list"]], id="a set of lists"),
        pytest.param(["dict", 1], id="a key without value"),
        pytest.param(["dict", ["dict"], 1], id="a dict as key"),
        pytest.param(["keys", ["set"]], id="keys of sets"),
        pytest.param(["set", ["Decimal", "sNaN"]], id="a member that refuses to be hashed"),
    ],
)
def test_what_no_encoder_writes_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedValueError):
        decode(message)


def test_what_is_nested_too_deep_to_be_read_is_malformed() -> None:
    deep: list[Any] = ["list"]
    for _ in range(5_000):
        deep = ["list", deep]
    with pytest.raises(MalformedValueError):
        decode(deep)
    with pytest.raises(MalformedValueError):
        parse_line(b"[" * 100_000)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("1e3", id="text"),
        pytest.param(1.5, id="float"),
        pytest.param(["Decimal", "1e3"], id="Decimal"),
        pytest.param(["Fraction", 1, 3], id="Fraction"),
    ],
)
def test_only_integers_are_computed_with(part: Any) -> None:
    """A text such as "1e999999999" would be computed here, for minutes and in gigabytes."""
    for message in (["Fraction", part], ["Fraction", 1, part], ["range", part]):
        with pytest.raises(MalformedValueError):
            decode(message)
