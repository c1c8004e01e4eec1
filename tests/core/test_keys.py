"""Keys: equal in Python means equal bytes, order in Python means order of bytes, and nothing that is stored can harm the reader."""

from __future__ import annotations

import enum
import math
import os
import pickle
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import parkit_async
from parkit_async._core import keys
from parkit_async._core.keys import LONG_PREFIX, MAX_STORED, TAG_OTHER, TAG_STR, decode, encode, encode_with_sidecar, is_long, stored

# ── Kinds of keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = "blue"


class Shade(enum.Enum):
    RED = 1


class Fruit(str, enum.Enum):  # noqa: UP042 (the plain mix-in is what is tested)
    APPLE = "apple"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 300


class Access(enum.Flag, boundary=enum.KEEP):
    READ = enum.auto()
    WRITE = enum.auto()


class Origin(tuple[int, int], enum.Enum):
    ZERO = (0, 0)


class Name(str):
    __slots__ = ()


class Count(int):
    __slots__ = ()


class Blob(bytes):
    __slots__ = ()


class Choosy(str):
    """Equal to its own kind only."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Choosy and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Folded(str):
    """Equal to any spelling, so its hash is not that of the plain string."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.lower())


class Pair(NamedTuple):
    left: object
    right: object


@dataclass(frozen=True)
class Point:
    x: object
    y: object


class Seaside(tzinfo):
    """One hour ahead of UTC in the first half of each year; the clock goes back from 03:00 to 02:00 on July 1 and forward again on January 1."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        wall = moment.replace(tzinfo=None, fold=0)
        end = wall.replace(month=7, day=1, hour=2, minute=0, second=0, microsecond=0)
        folded = end <= wall < end + timedelta(hours=1)
        summer = wall < end or (folded and not moment.fold)
        return timedelta(hours=1 if summer else 0)

    def dst(self, moment: datetime | None) -> timedelta | None:
        return self.utcoffset(moment)

    def tzname(self, moment: datetime | None) -> str:
        return "Seaside"

    def __reduce__(self) -> str:
        return "SEASIDE"


SEASIDE = Seaside()

text = st.text(st.characters(), max_size=6) | st.text(st.sampled_from("\x00\x01\x02aé\ud800\uffff\U00010000"), max_size=5)
blobs = st.binary(max_size=6) | st.lists(st.sampled_from([0, 1, 2, 3, 0xFE, 0xFF]), max_size=5).map(bytes)
integers = (
    st.integers() | st.integers(-300, 300) | st.builds(lambda n, e, d: (n << e) + d, st.integers(-9, 9), st.integers(0, 900), st.integers(-1, 1))
)
floats = st.floats(allow_nan=False) | st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, math.inf, -math.inf, 1.5, 1e300, sys.float_info.max, 2.0**-496, 2.0**-497]
)
decimals = st.builds(lambda s, n, e: Decimal((s, tuple(map(int, str(n))), e)), st.integers(0, 1), st.integers(0, 10**20), st.integers(-400, 400))
fractions = (
    st.fractions()
    | st.builds(Fraction, st.integers(-9, 9), st.integers(1, 9))
    | st.builds(lambda n, d, e: Fraction(n, d << e), st.integers(-99, 99), st.integers(1, 9), st.integers(0, 900))
)
reals = (
    integers
    | floats
    | st.booleans()
    | decimals
    | fractions
    | st.sampled_from([Decimal("Infinity"), Decimal("-Infinity"), Decimal("-0"), Decimal("0.1")])
)
numbers = reals | st.complex_numbers(allow_nan=False, max_magnitude=4) | st.builds(complex, st.integers(-3, 3), st.integers(-1, 1))

zones = st.sampled_from([UTC, SEASIDE]) | st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1439, 1439))
turns = st.builds(lambda m, fold, zone: datetime(2024, 7, 1, tzinfo=zone) + timedelta(minutes=10 * m), st.integers(0, 24), st.integers(0, 1), zones)
folded = st.builds(lambda moment, fold: moment.replace(fold=fold), turns, st.integers(0, 1))
naive = st.datetimes() | st.builds(lambda d: d.replace(tzinfo=None), folded)
aware = st.datetimes(timezones=zones) | folded
times = (
    st.times()
    | st.times(timezones=zones)
    | st.builds(lambda h, z: time(h, 30, tzinfo=timezone(timedelta(hours=z))), st.integers(0, 23), st.integers(-3, 3))
)
plain = st.none() | text | blobs | integers | st.uuids() | st.dates() | st.timedeltas()
named = st.sampled_from(
    [*Colour, *Shade, *Fruit, *Level, *Origin, Access.READ, Access.READ | Access.WRITE, Access(0), Name("apple"), Count(1), Blob(b"a")]
)
pickled = st.builds(Point, st.integers(0, 2), st.frozensets(text, max_size=3))
leaves = plain | numbers | naive | aware | times | named | pickled


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=3).map(tuple) | st.lists(inner, min_size=2, max_size=2).map(Pair._make) | st.frozensets(inner, max_size=3)
        ),
        max_leaves=6,
    )


anything = nested(leaves)
close = st.sampled_from(
    [0, 1, True, 1.0, Fraction(1), Decimal(1), 1 + 0j, "a", Name("a"), "apple", Fruit.APPLE, b"a", None, 0.1, Decimal("0.1"), Fraction(1, 10)]
)


def exact(number: Any) -> tuple[int, Fraction]:
    """Return something of the order of real numbers that leaves nothing to conversions."""
    if number in (math.inf, -math.inf):
        return (1 if number > 0 else -1), Fraction(0)
    return 0, Fraction(number)


def same(one: Any, other: Any) -> bool:
    """Tell whether two keys are equal and of the same types in every part."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, frozenset):
        return all(map(same, sorted(one, key=encode), sorted(other, key=encode)))
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return getattr(one, "tzinfo", None) == getattr(other, "tzinfo", None) and getattr(one, "fold", 0) == getattr(other, "fold", 0)


def agree(one: Any, other: Any) -> None:
    assert (one == other) == (encode(one) == encode(other)), (one, other)


# ── One key, one encoding ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(anything, anything)
def test_equal_keys_and_only_they_have_equal_encodings(one: Any, other: Any) -> None:
    agree(one, other)


@given(nested(close), nested(close))
def test_equality_among_look_alikes(one: Any, other: Any) -> None:
    agree(one, other)


@given(numbers, numbers)
def test_equality_of_numbers(one: Any, other: Any) -> None:
    agree(one, other)


@given(integers)
def test_an_integer_is_one_key_however_it_is_spelled(number: int) -> None:
    assert len({encode(number), encode(Fraction(number)), encode(Count(number)), encode(Fraction(2 * number, 2))}) == 1
    assert encode(Decimal(number)) == encode(number)


@given(floats)
def test_a_float_is_one_key_however_it_is_spelled(number: float) -> None:
    assert len({encode(number), encode(Decimal(number)), encode(complex(number)), encode(np.float64(number))}) == 1
    if math.isfinite(number):
        assert encode(Fraction(number)) == encode(number)


@given(folded | aware, folded | aware)
def test_equality_of_aware_datetimes_in_zones_folds_and_gaps(one: datetime, other: datetime) -> None:
    agree(one, other)


@given(times, times)
def test_equality_of_times(one: time, other: time) -> None:
    agree(one, other)


def test_one_spelling_of_one() -> None:
    spellings = [
        1,
        1.0,
        True,
        Decimal(1),
        Decimal("1.000"),
        Fraction(1),
        1 + 0j,
        Level.LOW,
        Count(1),
        np.int64(1),
        np.uint8(1),
        np.float32(1),
        np.complex64(1),
    ]
    assert len({encode(one) for one in spellings}) == 1
    assert len({encode((one, (one,))) for one in spellings}) == 1


def test_a_decimal_equals_its_fraction_and_not_the_nearest_float() -> None:
    assert encode(Decimal("0.1")) == encode(Fraction(1, 10)) != encode(0.1)
    assert encode(math.nextafter(0.1, 0)) < encode(Decimal("0.1")) < encode(0.1)
    assert encode(-0.1) < encode(Decimal("-0.1")) < encode(-math.nextafter(0.1, 0))


def test_numbers_that_agree_in_all_kept_digits_stay_distinct() -> None:
    third = Fraction(1, 3)
    neighbours = [third, third + Fraction(1, 3 << 4000), third + Fraction(1, 7 << 4000), Fraction((1 << 4000) // 3, 1 << 4000)]
    assert len({encode(number) for number in neighbours}) == 4
    assert all(encode(third - Fraction(1, 1 << 500)) < encode(number) < encode(third + Fraction(1, 1 << 500)) for number in neighbours)


def test_a_subclass_counts_as_the_plain_value_only_if_it_equals_it_and_hashes_alike() -> None:
    assert encode(Name("a")) == encode(Fruit("apple"))[:1] + b"a" == encode("a") == encode(np.str_("a"))
    assert encode(Blob(b"a")) == encode(b"a")
    assert encode(Pair(1, 2)) == encode((1.0, Count(2))) == encode((True, 2))
    assert encode(Origin.ZERO) == encode((0, 0))
    assert encode(Choosy("a"))[0] == TAG_OTHER
    assert encode(Choosy("a")) == encode(Choosy("a")) != encode(Choosy("b"))
    assert encode(Folded("A"))[0] == TAG_OTHER


def test_enum_members_are_known_by_class_and_name() -> None:
    assert encode(Fruit.APPLE) == encode("apple")
    assert encode(Level.HIGH) == encode(300)
    assert encode(Colour.RED) == encode(Colour.CRIMSON)
    members = [
        Colour.RED,
        Colour.BLUE,
        Shade.RED,
        Access.READ,
        Access.WRITE,
        Access.READ | Access.WRITE,
        Access(0),
        Access(64),
        Access(128),
        "blue",
        1,
    ]
    assert len({encode(member) for member in members}) == len(members)


def test_a_fold_is_one_key_within_its_zone_and_another_outside() -> None:
    early = datetime(2024, 7, 1, 2, 30, tzinfo=SEASIDE)
    late = early.replace(fold=1)
    assert early == late
    assert encode(early) == encode(late)
    assert early != early.astimezone(UTC)
    assert encode(early) != encode(early.astimezone(UTC))
    regular = datetime(2024, 3, 1, 12, tzinfo=SEASIDE)
    assert encode(regular) == encode(regular.astimezone(UTC)) == encode(regular.astimezone(timezone(timedelta(hours=-9))))


def test_an_aware_time_is_one_key_in_all_zones() -> None:
    noon = time(12, tzinfo=UTC)
    assert (
        encode(noon)
        == encode(time(14, tzinfo=timezone(timedelta(hours=2))))
        == encode(time(9, 30, tzinfo=timezone(timedelta(hours=-2, minutes=-30))))
    )
    assert decode(encode(time(14, tzinfo=timezone(timedelta(hours=2))))) == noon
    assert encode(noon) != encode(noon.replace(tzinfo=None)) == encode(noon.replace(tzinfo=SEASIDE))
    # Not a time of day in UTC, and in Python no other than itself.
    assert encode(time(1, tzinfo=timezone(timedelta(hours=2)))) != encode(time(23, tzinfo=UTC))


def test_the_ends_of_the_calendar_can_be_keys() -> None:
    behind, ahead = timezone(timedelta(hours=-23, minutes=-59)), timezone(timedelta(hours=23, minutes=59))
    moments = [
        datetime.min.replace(tzinfo=ahead),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=behind),
    ]
    assert sorted(moments, key=encode) == moments
    with pytest.raises(ValueError, match="not the encoding of a key"):
        decode(encode(moments[0]))  # no datetime in UTC can express it: its sidecar gives it back
    assert encode_with_sidecar(moments[0])[1] is not None


def test_equal_objects_have_one_pickle_whatever_is_shared_in_them() -> None:
    word, copy = str(b"shared", "ascii"), str(b"shared", "ascii")
    assert word is not copy
    assert encode(Point(word, word)) == encode(Point(word, copy))
    assert pickle.dumps(Point(word, word), 5) != pickle.dumps(Point(word, copy), 5)


def test_sets_have_one_encoding_whatever_the_hash_seed() -> None:
    program = (
        "import sys; from fractions import Fraction; from types import SimpleNamespace\n"
        "from parkit_async._core.keys import encode\n"
        "class Tagged(SimpleNamespace):\n"
        "    __hash__ = object.__hash__\n"
        "words = frozenset('the quick brown fox jumps over a lazy dog'.split())\n"
        "sys.stdout.write(encode((words, Tagged(words=words, seen=set(words)))).hex())"
    )
    root = str(Path(parkit_async.__file__).parent.parent)
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1
    assert printed != {b""}


# ── Byte order is key order ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(reals, min_size=2, max_size=8))
@example([1, 1 + Fraction(1, 1 << 16), 1 + Fraction(1, 1 << 8), 256, 257, 65536])
@example([Fraction(1, 3), 0.5, Fraction(2, 3), 0.9, 1, Fraction(255, 257), Fraction(257, 255)])
@example([-1, -1 - Fraction(1, 1 << 16), -1 - Fraction(1, 1 << 8), -256, -257, -65536])
@example([2 ** (8 * 61) - 1, 2 ** (8 * 61), 2.0**-496, 2.0**-504, 2.0**-512, Fraction(1, 1 << 5000), 1 << 5000])
def test_order_of_numbers(mixed: list[Any]) -> None:
    assert [exact(number) for number in sorted(mixed, key=encode)] == sorted(map(exact, mixed))


@given(reals.filter(lambda number: abs(number) != math.inf), st.integers(-600, 400), st.sampled_from([-1, 1]))
def test_order_of_neighbours(number: Any, power: int, sign: int) -> None:
    one = Fraction(number)
    other = one + sign * Fraction(2) ** power
    # Rationals that are no finite sum of powers of two are ordered by their first 505 bits only.
    dyadic = one.denominator & (one.denominator - 1) == 0
    assume(dyadic or one.numerator.bit_length() - one.denominator.bit_length() - power < 500)
    assert (encode(one) < encode(other)) == (one < other)
    assert (encode(-one) < encode(-other)) == (other < one)


@given(
    st.sampled_from([text, blobs, st.dates(), naive, st.timedeltas(), st.uuids(), st.times()]).flatmap(
        lambda kind: st.lists(kind, min_size=2, max_size=6)
    )
)
def test_order_within_a_type(keys_of_a_kind: list[Any]) -> None:
    assert [encode(key) for key in sorted(keys_of_a_kind)] == sorted(map(encode, keys_of_a_kind))


@given(st.lists(st.datetimes(timezones=st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1439, 1439))), min_size=2, max_size=6))
def test_order_of_aware_datetimes(moments: list[datetime]) -> None:
    assert [encode(moment) for moment in sorted(moments)] == sorted(map(encode, moments))


@given(st.data())
def test_order_of_tuples(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([text, blobs, integers | floats, naive, st.lists(text, max_size=3).map(tuple)]), max_size=4))
    rows = [tuple(data.draw(kind) for kind in shape[: data.draw(st.integers(0, 4))]) for _ in range(data.draw(st.integers(2, 5)))]
    assert [encode(row) for row in sorted(rows)] == sorted(map(encode, rows))


@given(nested(plain), nested(plain), nested(plain))
def test_what_follows_an_element_does_not_matter_to_its_order(one: Any, other: Any, follower: Any) -> None:
    assume(one != other)
    assert (encode((one,)) < encode((other,))) == (encode((one, follower)) < encode((other,))) == (encode((one,)) < encode((other, follower)))


def test_order_of_the_types() -> None:
    moment = datetime.fromisoformat("2024-01-01")
    ladder: list[Any] = [
        None, -math.inf, -(10**400), -1.5, 0, 0.5, 10**400, math.inf, 1j, "", "a", b"", b"a", date.min, moment, moment.replace(tzinfo=UTC),
        time(), time(tzinfo=UTC), timedelta(), uuid.UUID(int=0), Colour.RED, (), (None,), frozenset(), Point(1, 2),
    ]  # fmt: skip
    assert sorted(ladder[9:] + ladder[:9], key=encode) == ladder


def test_a_top_level_string_is_its_tag_and_utf_8() -> None:
    assert encode("grün\x00") == bytes([TAG_STR]) + "grün\x00".encode()
    assert encode("\udc80") == bytes([TAG_STR]) + "\udc80".encode("utf-8", "surrogatepass")


# ── The way back ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(nested(plain))
def test_plain_keys_come_back_from_their_encoding(key: Any) -> None:
    assume("Pair(" not in repr(key))
    encoded, sidecar = encode_with_sidecar(key)
    assert sidecar is None
    assert same(decode(encoded), key)


@given(anything)
def test_every_key_comes_back_exactly(key: Any) -> None:
    encoded, sidecar = encode_with_sidecar(key)
    assert encoded == encode(key)
    assert same(decode(encoded) if sidecar is None else pickle.loads(sidecar), key)


@given(nested(plain | numbers | st.times() | naive))
def test_decode_gives_an_equal_key(key: Any) -> None:
    assert decode(encode(key)) == key


@given(reals)
@example(Fraction(2**54 - 1, 4))
@example(Fraction(1, 1 << 1074))
@example(Fraction(3, 1 << 1075))
def test_numbers_come_back_in_their_plain_form(number: Any) -> None:
    back = decode(encode(number))
    assert back == number
    assert type(back) in (int, float, Fraction)
    if isinstance(number, float):
        assert type(back) is (int if number.is_integer() else float)


@pytest.mark.parametrize(
    "key",
    [
        *(
            True,
            2.0,
            -0.0,
            Decimal(1),
            Fraction(1, 2),
            1j,
            Name("a"),
            Count(1),
            Pair(1, 2),
            Colour.RED,
            Fruit.APPLE,
            Level.LOW,
            Point(1, 2),
            Choosy("a"),
        ),
        *(datetime.combine(date(2024, 1, 1), time(fold=1)), time(1, fold=1)),
        *(datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "Z")), time(tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_what_the_encoding_cannot_tell_has_a_sidecar(key: Any) -> None:
    for whole in (key, (1, (key,)), frozenset({key})):
        sidecar = encode_with_sidecar(whole)[1]
        assert sidecar is not None
        assert same(pickle.loads(sidecar), whole)


@pytest.mark.parametrize("key", [Colour.RED, Point(1, 2), Choosy("a"), datetime(2024, 7, 1, 2, 30, tzinfo=SEASIDE)])
def test_decode_says_that_the_sidecar_is_needed(key: Any) -> None:
    for whole in (key, ("a", (key,)), frozenset({key})):
        with pytest.raises(ValueError, match="sidecar"):
            decode(encode(whole))


def decodes_to_the_only_key_of_these_bytes_or_fails_cleanly(data: bytes) -> None:
    try:
        key = decode(data)
    except ValueError:
        return
    assert encode(key) == data


@given(st.binary(max_size=40))
def test_random_bytes_are_a_key_or_a_value_error(data: bytes) -> None:
    decodes_to_the_only_key_of_these_bytes_or_fails_cleanly(data)


@given(st.sampled_from([getattr(keys, name) for name in keys.__all__ if name.startswith("TAG_")]), st.binary(max_size=20))
def test_random_payloads_are_a_key_or_a_value_error(tag: int, data: bytes) -> None:
    decodes_to_the_only_key_of_these_bytes_or_fails_cleanly(bytes([tag]) + data)


@given(anything, st.data())
def test_damaged_keys_are_a_key_or_a_value_error(key: Any, data: st.DataObject) -> None:
    encoded = encode(key)
    position = data.draw(st.integers(0, len(encoded)))
    damaged = encoded[:position] + data.draw(st.binary(max_size=2)) + encoded[position + data.draw(st.integers(0, 2)) :]
    decodes_to_the_only_key_of_these_bytes_or_fails_cleanly(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xff",
        bytes([keys.TAG_TUPLE]) * 100_000,
        bytes([keys.TAG_NUMBER, 0xFE]) + b"\xff\xff\xff\xff\x02\x00",  # 256 ** 2147483647
        bytes([keys.TAG_NUMBER, 0xFE]) + b"\x80\x00\x00\x01\x02\x00",  # an exponent that has a shorter form
        bytes([keys.TAG_NUMBER, 0xC2]) + b"\x02\x01\x02\x00",  # a trailing zero digit
        encode(Fraction(1, 3))[:-1],
        bytes([keys.TAG_NUMBER, 0xC2]) + b"\x01\x02\x05\x00",  # a leading zero digit
        bytes([keys.TAG_COMPLEX]) + encode(1)[1:] + encode(0)[1:],
        bytes([keys.TAG_TUPLE, keys.TAG_BYTES]) + b"a\x01\x07\x00",  # no such word
        bytes([keys.TAG_FROZENSET]) + encode(2) + encode(1),
        bytes([keys.TAG_FROZENSET]) + encode(1) + encode(1),
        encode(5) + b"\x00",
        encode(Fraction(1, 3))[:-2] + b"\x04\x00",  # 1/4, which has digits of its own
        encode(Fraction(1, 3))[:-2] + b"\x00",  # 1/0
        encode(timedelta(1))[:-8] + b"\x00\x01\x51\x80" + bytes(4),  # 1 day and 86400 seconds
    ],
)
def test_hostile_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not the encoding of a key"):
        decode(data)


def test_decode_runs_no_pickle() -> None:
    bomb = b"cbuiltins\nexit\n(tR."
    with pytest.raises(ValueError, match="sidecar"):
        decode(bytes([TAG_OTHER]) + bomb)


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "nan", [math.nan, Decimal("NaN"), Decimal("sNaN"), complex(0, math.nan), complex(math.nan, 0), np.float64("nan"), np.float32("nan")]
)
def test_nan_is_refused(nan: Any) -> None:
    for key in (nan, (1, nan)):
        with pytest.raises(ValueError, match="not equal to itself"):
            encode(key)


@pytest.mark.parametrize("unhashable", [[], {}, set(), bytearray()])
def test_unhashable_keys_are_refused_by_name_and_with_a_remedy(unhashable: Any) -> None:
    for key in (unhashable, (1, (unhashable,)), Point(1, unhashable)):
        with pytest.raises(TypeError, match=f"{type(unhashable).__name__}.*use a tuple"):
            encode(key)


def test_numbers_out_of_proportion_are_refused() -> None:
    for number in (Decimal("1E+999999999"), Decimal("1E-999999999"), 1 << (8 << 20), -Fraction(1, 1 << (9 << 20))):
        with pytest.raises(ValueError, match="bytes"):
            encode(number)
    assert encode(Decimal("0E+999999999")) == encode(0)
    assert decode(encode(1 << 8_000_000)) == 1 << 8_000_000


def test_what_pickling_raises_comes_out_unchanged() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        encode(lambda: None)


# ── Long keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(LONG_PREFIX - 3, LONG_PREFIX + 40))
def test_a_stored_key_fits_and_tells_whether_it_is_long(length: int) -> None:
    encoded = encode("x" * (length - 1))
    assert len(encoded) == length
    kept = stored(encoded)
    assert len(kept) <= MAX_STORED
    assert is_long(kept) == (length > LONG_PREFIX)
    assert kept == encoded if length <= LONG_PREFIX else kept[:LONG_PREFIX] == encoded[:LONG_PREFIX]


@given(
    st.lists(
        st.builds(lambda head, tail: b"k" * head + tail, st.sampled_from([0, 470, 480, 481, 482, 500]), st.binary(max_size=9)),
        max_size=8,
        unique=True,
    )
)
def test_stored_keys_are_unique_and_in_order_up_to_the_cut(encodings: list[bytes]) -> None:
    kept = sorted(map(stored, encodings))
    assert len(set(kept)) == len(encodings)
    assert [key[:LONG_PREFIX] for key in kept] == [encoded[:LONG_PREFIX] for encoded in sorted(encodings)]
