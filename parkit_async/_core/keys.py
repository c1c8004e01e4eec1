"""Encode Python dict keys into bytes, so that an ordered store of bytes can serve as a dict with ordered keys.

Two properties make that work, and everything here serves them:

1. **One key, one encoding.** Keys that are equal in Python have the same bytes (``1 == 1.0 == True == Decimal(1)``), and keys that are not,
   have not. A lookup therefore never has to compare Python objects.
2. **Byte order is key order** within a type: ``sorted(keys) == sorted(keys, key=encode)``.

The idea is that of FoundationDB's tuple layer; the format is this module's own. An encoding is a tag, which settles the order of the types, and
a payload::

    None < numbers < complex < str < bytes < date < naive datetime < aware datetime < time < timedelta < UUID < enum < tuple < frozenset < other

    number              sign and exponent · base-256 digits · 00                    (below)
    complex             number · number                                             only where the imaginary part is not zero
    str, bytes, other   UTF-8, the bytes, a pickle                                  open-ended: as they are, nothing behind them
    date, time, ...     fixed width, big-endian
    tuple, frozenset    the elements, each delimited; those of a frozenset sorted   open-ended

Inside a tuple every element must end by itself, and its end must sort below any continuation, or ``("a", 2)`` would not stand before
``("aa", 1)``. Open-ended elements are therefore written in an alphabet of prefix-free words that keeps their order, and closed by its lowest
one: *end* ``00`` < *mark* ``01 01`` < byte 0 ``01 02`` < byte 1 ``01 03`` < byte 2 ``02`` < ... ``00`` occurs nowhere but at the end.

A number other than 0 and the infinities is ``0.d1 d2 ... dn * 256**exponent`` with ``d1`` and ``dn`` not zero, which is the same for an int, a
float, a Decimal or a Fraction of that value, however large or small. The digits are written in the same alphabet; a negative number is the
complement of its magnitude. A rational that is no such finite sum (``Decimal("0.1")``, ``Fraction(1, 3)``) has its first 64 digits, a mark, and
then, to tell it from its neighbours, its exact numerator and denominator. **The order of numbers is exact** but for one bound: a rational of
that kind and another number that agree in their first 64 digits (at least 505 bits) are distinct keys in a fixed, arbitrary order.

Keys of other types are known by their pickle, so equal objects are one key where their pickles are equal. The pickle is taken without a
memo and with its sets sorted: which strings happen to be one object, and the hash seed of the process, must not matter. An instance of a
subclass of a type above, or of another class of numbers (numpy's scalars), counts as the plain value if it equals it and hashes alike, otherwise
as such a pickled key. Aware datetimes are ordered by their instant; in Python one in a fold or gap of its zone equals nothing outside that
zone, nor does it here.

What an encoding cannot tell is which of several equal objects was meant. :func:`encode_with_sidecar` gives a pickle of the key where
:func:`decode` would give another one.

LMDB limits the length of its keys. :func:`stored` cuts a long encoding and puts a digest behind the cut, so a *stored* long key is unique but
in order only up to the cut. Stored keys that share a prefix of ``LONG_PREFIX`` bytes are neighbours, all of them long and above the short key
that is that prefix: an iterator collects this cluster and sorts it by the full encodings, which are kept beside the values.

Everything here is a pure function: any thread may call it, and nothing is left behind.
"""

from __future__ import annotations

import io
import math
import numbers
import operator
import pickle
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import blake2b
from typing import Any, Final, NoReturn
from uuid import UUID

__all__ = [
    "LONG_PREFIX",
    "MAX_STORED",
    "TAG_AWARE_DATETIME",
    "TAG_BYTES",
    "TAG_COMPLEX",
    "TAG_DATE",
    "TAG_DATETIME",
    "TAG_ENUM",
    "TAG_FROZENSET",
    "TAG_NONE",
    "TAG_NUMBER",
    "TAG_OTHER",
    "TAG_STR",
    "TAG_TIME",
    "TAG_TIMEDELTA",
    "TAG_TUPLE",
    "TAG_UUID",
    "decode",
    "encode",
    "encode_with_sidecar",
    "is_long",
    "stored",
]

# Part of the file format. The gaps leave room for types to come; 00 and 01 belong to the alphabet above.
TAG_NONE: Final = 0x08
TAG_NUMBER: Final = 0x10
TAG_COMPLEX: Final = 0x18
TAG_STR: Final = 0x20
TAG_BYTES: Final = 0x28
TAG_DATE: Final = 0x30
TAG_DATETIME: Final = 0x34
TAG_AWARE_DATETIME: Final = 0x38
TAG_TIME: Final = 0x3C
TAG_TIMEDELTA: Final = 0x40
TAG_UUID: Final = 0x48
TAG_ENUM: Final = 0x50
TAG_TUPLE: Final = 0x60
TAG_FROZENSET: Final = 0x68
TAG_OTHER: Final = 0x70

MAX_STORED: Final = 502
"""Longest stored key in bytes: LMDB's 511 less the 9 of object id and space."""

LONG_PREFIX: Final = MAX_STORED - 20
"""Longest encoding in bytes that is stored as it is, and the length of the part of a longer one that stands before its digest."""

_MAX_EXPONENT: Final = 1 << 20
"""Numbers lie between ``256 ** -_MAX_EXPONENT`` and its inverse, so that decoding ten hostile bytes cannot ask for gigabytes."""

_MAX_DECIMAL_EXPONENT: Final = 2_600_000  # decimal digits, just beyond the bound above: a Decimal past it is refused before it is expanded

_RATIONAL_DIGITS: Final = 64

_END: Final = b"\x00"
_MARK: Final = b"\x01\x01"
_COMPLEMENT: Final = bytes(range(255, -1, -1))

# The first byte of a number. Exponents between the two extended forms are in the byte itself; the extended forms carry four more bytes.
_ZERO: Final = 0x80
_TINY: Final = 0x81
_EXPONENT_ZERO: Final = 0xC0
_HUGE: Final = 0xFE
_INFINITE: Final = 0xFF
_EXPONENT_BIAS: Final = 1 << 31

_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_TIMEDELTA: Final = struct.Struct(">III")
_DAY: Final = 86_400_000_000  # microseconds

# fmt: off
(
    _NONE_KEY, _NUMBER_PREFIX, _COMPLEX_PREFIX, _STR_PREFIX, _BYTES_PREFIX, _DATE_PREFIX, _DATETIME_PREFIX, _AWARE_DATETIME_PREFIX,
    _TIME_PREFIX, _TIMEDELTA_PREFIX, _UUID_PREFIX, _ENUM_PREFIX, _TUPLE_PREFIX, _FROZENSET_PREFIX, _OTHER_PREFIX,
) = (
    bytes([tag]) for tag in (
        TAG_NONE, TAG_NUMBER, TAG_COMPLEX, TAG_STR, TAG_BYTES, TAG_DATE, TAG_DATETIME, TAG_AWARE_DATETIME,
        TAG_TIME, TAG_TIMEDELTA, TAG_UUID, TAG_ENUM, TAG_TUPLE, TAG_FROZENSET, TAG_OTHER,
    )
)
# fmt: on
_OPEN_ENDED: Final = frozenset({TAG_STR, TAG_BYTES, TAG_OTHER})
_COMPOUND: Final = frozenset({TAG_TUPLE, TAG_FROZENSET})

_ZERO_KEY: Final = bytes([TAG_NUMBER, _ZERO])
_INFINITY_KEY: Final = bytes([TAG_NUMBER, _INFINITE])
_MINUS_INFINITY_KEY: Final = bytes([TAG_NUMBER, _INFINITE ^ 0xFF])
_INT_PREFIXES: Final = tuple(bytes([TAG_NUMBER, _EXPONENT_ZERO + size]) for size in range(9))


def encode(key: object) -> bytes:
    """Return the one encoding of a key and of everything that equals it.

    Args:
        key: Any hashable object.

    Raises:
        TypeError: The key, or a part of it, is not hashable.
        ValueError: The key, or a part of it, is not equal to itself (NaN), or is a number of more than 2**20 bytes.
        Exception: Whatever pickling raises, for a key of a type that is known by its pickle.
    """
    return _ENCODERS.get(type(key), _encode_unusual)(key)


def encode_with_sidecar(key: object) -> tuple[bytes, bytes | None]:
    """Return the encoding of a key, and its pickle if the encoding alone does not give back an equal object of the same type in every part.

    A sidecar is needed for a bool, an integral float, a subclass, an enum member, an aware time that is not in ``timezone.utc``, whatever is
    known by its pickle, and for the tuples and frozensets that contain one. Raises what :func:`encode` raises.
    """
    encoded = encode(key)
    return encoded, None if type(key) in _RESTORABLE or _is_restorable(key) else pickle.dumps(key, 5)


def decode(data: bytes) -> object:
    """Return the plain key of an encoding.

    A number comes back as an int if it is integral, as a float if one holds it exactly, else as a Fraction; an aware time comes back in UTC.
    Safe on any bytes: none of them is run as code, no number takes more than a megabyte or two, and those of a tuple no more than 64 MiB together.

    Args:
        data: What :func:`encode` returned.

    Raises:
        ValueError: The bytes are no encoding, or one of a key that only its sidecar can give back (an enum member, a pickled key, a time in a zone).
    """
    try:
        tag = data[0]
        if tag == TAG_STR:
            return data[1:].decode("utf-8", "surrogatepass")
        if tag == TAG_BYTES:
            return data[1:]
        # Give a compound the end that it has inside a tuple.
        key, position = _READERS[tag](_Compound(data + _END) if tag in _COMPOUND else data, 1)
        if position != len(data) + (tag in _COMPOUND):
            raise ValueError(f"it goes on behind its end at byte {position}")
    except _OpaqueError:
        raise
    except (ValueError, LookupError, OverflowError, RecursionError, struct.error) as error:
        raise ValueError(f"{_quote(data)} is not the encoding of a key ({error}): it was damaged, or written by something else") from error
    return key


def stored(encoded: bytes) -> bytes:
    """Return the bytes under which an encoding is stored: itself, or its prefix and its digest if it is longer than ``LONG_PREFIX``."""
    if len(encoded) <= LONG_PREFIX:
        return encoded
    return encoded[:LONG_PREFIX] + blake2b(encoded, digest_size=MAX_STORED - LONG_PREFIX).digest()


def is_long(stored: bytes) -> bool:
    """Tell whether a stored key stands for a longer encoding, which is to be found beside the value."""
    return len(stored) == MAX_STORED


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _escape(raw: bytes) -> bytes:
    if 1 in raw:
        raw = raw.replace(b"\x01", b"\x01\x03")
    if 0 in raw:
        raw = raw.replace(b"\x00", b"\x01\x02")
    return raw


def _encode_int(key: int) -> bytes:
    if 0 <= key < 256:
        return _BYTE_KEYS[key]
    magnitude = abs(key)
    size = (magnitude.bit_length() + 7) >> 3
    if size > 8:
        return _number(key < 0, size, _escape(magnitude.to_bytes(size, "big").rstrip(b"\0")))
    encoded = _INT_PREFIXES[size] + _escape(_U64.pack(magnitude).strip(b"\0")) + _END
    return encoded if key > 0 else _NUMBER_PREFIX + encoded[1:].translate(_COMPLEMENT)


_BYTE_KEYS: Final = (_ZERO_KEY, *(_INT_PREFIXES[1] + _escape(bytes([number])) + _END for number in range(1, 256)))


def _number(negative: bool, exponent: int, escaped_digits: bytes) -> bytes:
    lead = _EXPONENT_ZERO + exponent
    if _TINY < lead < _HUGE:
        body = bytes([lead]) + escaped_digits + _END
    elif abs(exponent) <= _MAX_EXPONENT:
        body = bytes([_TINY if exponent < 0 else _HUGE]) + _U32.pack(_EXPONENT_BIAS + exponent) + escaped_digits + _END
    else:
        _refuse_size()
    return _NUMBER_PREFIX + (body.translate(_COMPLEMENT) if negative else body)


def _encode_ratio(numerator: int, denominator: int) -> bytes:
    """Encode a fraction in lowest terms."""
    if denominator == 1:
        return _encode_int(numerator)
    magnitude = abs(numerator)
    if denominator & (denominator - 1) == 0:
        halvings = denominator.bit_length() - 1
        places = (halvings + 7) >> 3
        magnitude <<= 8 * places - halvings
        size = (magnitude.bit_length() + 7) >> 3
        return _number(numerator < 0, size - places, _escape(magnitude.to_bytes(size, "big")))
    # The quotient lies below 2 ** (difference of the bit lengths + 1): this exponent is the right one, or one too large.
    exponent = (magnitude.bit_length() - denominator.bit_length() + 8) >> 3
    digits = _leading_digits(magnitude, denominator, exponent)
    if digits[0] == 0:
        exponent -= 1
        digits = _leading_digits(magnitude, denominator, exponent)
    exact = (part.to_bytes((part.bit_length() + 7) >> 3, "big") for part in (magnitude, denominator))
    return _number(numerator < 0, exponent, _MARK.join(map(_escape, (digits, *exact))))


def _leading_digits(numerator: int, denominator: int, exponent: int) -> bytes:
    shift = 8 * (_RATIONAL_DIGITS - exponent)
    quotient = (numerator << shift) // denominator if shift >= 0 else numerator // (denominator << -shift)
    return quotient.to_bytes(_RATIONAL_DIGITS, "big")


def _encode_float(key: float) -> bytes:
    if math.isfinite(key):
        return _encode_ratio(*key.as_integer_ratio())
    if key != key:
        _refuse_unequal(key)
    return _INFINITY_KEY if key > 0 else _MINUS_INFINITY_KEY


def _encode_decimal(key: Decimal) -> bytes:
    if key.is_finite():
        if key and abs(key.adjusted()) > _MAX_DECIMAL_EXPONENT:
            _refuse_size()
        return _encode_ratio(*key.as_integer_ratio())
    if key.is_nan():
        _refuse_unequal(key)
    return _INFINITY_KEY if key > 0 else _MINUS_INFINITY_KEY


def _encode_fraction(key: Fraction) -> bytes:
    return _encode_ratio(key.numerator, key.denominator)


def _encode_complex(key: complex) -> bytes:
    real = _encode_float(key.real)
    return _COMPLEX_PREFIX + real[1:] + _encode_float(key.imag)[1:] if key.imag else real


def _encode_str(key: str) -> bytes:
    try:
        return _STR_PREFIX + key.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        return _STR_PREFIX + key.encode("utf-8", "surrogatepass")


def _wall(key: datetime | time) -> int:
    return ((key.hour * 60 + key.minute) * 60 + key.second) * 1_000_000 + key.microsecond


def _microseconds(offset: timedelta) -> int:
    return (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds


def _encode_datetime(key: datetime) -> bytes:
    # Ordinals begin with 1 and offsets stay below a day, so this cannot become negative.
    wall = key.toordinal() * _DAY + _wall(key)
    # Equality and hash of datetimes look at the reading of fold=0 alone.
    offset = key.replace(fold=0).utcoffset()
    if offset is None:
        return _DATETIME_PREFIX + _U64.pack(wall)
    encoded = _AWARE_DATETIME_PREFIX + _U64.pack(wall - _microseconds(offset))
    if type(key.tzinfo) is timezone or offset == key.replace(fold=1).utcoffset():
        return encoded + b"\x00"
    return encoded + b"\x01" + _escape(_canonical_pickle(key.tzinfo)) + _END


def _encode_time(key: time) -> bytes:
    offset = key.utcoffset()
    if offset is None:
        return _TIME_PREFIX + b"\x00" + _U64.pack(_wall(key))
    return _TIME_PREFIX + b"\x01" + _U64.pack(_DAY + _wall(key) - _microseconds(offset))


def _encode_timedelta(key: timedelta) -> bytes:
    return _TIMEDELTA_PREFIX + _TIMEDELTA.pack(_EXPONENT_BIAS + key.days, key.seconds, key.microseconds)


def _elements(keys: Iterable[object]) -> list[bytes]:
    """Encode keys so that each ends by itself."""
    elements = []
    for key in keys:
        encoded = _ENCODERS.get(type(key), _encode_unusual)(key)
        tag = encoded[0]
        if tag in _OPEN_ENDED:
            encoded = _escape(encoded) + _END
        elif tag in _COMPOUND:
            encoded += _END
        elements.append(encoded)
    return elements


def _encode_tuple(key: tuple[object, ...]) -> bytes:
    return _TUPLE_PREFIX + b"".join(_elements(key))


def _encode_frozenset(key: Iterable[object]) -> bytes:
    return _FROZENSET_PREFIX + b"".join(sorted(_elements(key)))


def _encode_enum(key: Enum) -> bytes:
    # A combination of flags has no name of its own.
    member = key.name if key.name in type(key).__members__ else key.value
    return _ENUM_PREFIX + b"".join(_elements((type(key).__module__, type(key).__qualname__, member)))


class _CanonicalPickler(pickle.Pickler):
    """Pickle equal states alike: no memo, which shows what is one object, and sets in the order of their encodings, not of their hashes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.fast = True

    def persistent_id(self, obj: object) -> bytes | None:
        return _encode_frozenset(obj) if isinstance(obj, (frozenset, set)) and type(obj) in (frozenset, set) else None


def _canonical_pickle(obj: object) -> bytes:
    file = io.BytesIO()
    _CanonicalPickler(file).dump(obj)
    return file.getvalue()


def _encode_unusual(key: object) -> bytes:
    """Encode a key whose class is none of those above: an instance of a subclass, an enum member, a foreign number, or anything else."""
    try:
        digest = hash(key)
    except TypeError as error:
        raise TypeError(
            f"cannot use a {type(key).__qualname__} as a key: it is not hashable ({error}), and a key must not change while it is stored; "
            f"use a tuple in place of a list, a frozenset in place of a set, bytes in place of a bytearray"
        ) from error
    if key != key:
        _refuse_unequal(key)
    for base, plain_value in _PLAIN_VALUES:
        if isinstance(key, base):
            plain = plain_value(key)
            if hash(plain) == digest and key == plain:
                return _ENCODERS[type(plain)](plain)
            break
    if isinstance(key, Enum) and type(key).__eq__ is object.__eq__ and type(key).__hash__ is Enum.__hash__:
        return _encode_enum(key)
    return _OTHER_PREFIX + _canonical_pickle(key)


def _refuse_unequal(key: object) -> NoReturn:
    raise ValueError(f"cannot use {key!r} as a key: it is not equal to itself, so it could never be found again; use None in its place")


def _refuse_size() -> NoReturn:
    raise ValueError(f"cannot use a number of more than {_MAX_EXPONENT} bytes, before or behind the point, as a key; use a string in its place")


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    str: _encode_str,
    int: _encode_int,
    bytes: _BYTES_PREFIX.__add__,
    tuple: _encode_tuple,
    type(None): lambda key: _NONE_KEY,
    bool: _encode_int,
    float: _encode_float,
    UUID: lambda key: _UUID_PREFIX + key.bytes,
    datetime: _encode_datetime,
    date: lambda key: _DATE_PREFIX + _U32.pack(key.toordinal()),
    time: _encode_time,
    timedelta: _encode_timedelta,
    frozenset: _encode_frozenset,
    Decimal: _encode_decimal,
    Fraction: _encode_fraction,
    complex: _encode_complex,
}

# How to see the plain value in an instance of a subclass, past whatever it overrides. Subclasses stand before their bases.
_PLAIN_VALUES: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (str, str.__str__),
    (bytes, lambda key: bytes(memoryview(key))),
    (tuple, tuple),
    (frozenset, frozenset),
    (UUID, lambda key: UUID(int=key.int)),
    (datetime, lambda key: datetime.combine(datetime.date(key), datetime.timetz(key))),
    (date, lambda key: date.fromordinal(date.toordinal(key))),
    (time, lambda key: time(key.hour, key.minute, key.second, key.microsecond, key.tzinfo, fold=key.fold)),
    (timedelta, lambda key: timedelta(key.days, key.seconds, key.microseconds)),
    (Decimal, Decimal),
    (numbers.Integral, operator.index),
    (numbers.Rational, lambda key: Fraction(int(key.numerator), int(key.denominator))),
    (numbers.Real, float),
    (numbers.Complex, complex),
)

_RESTORABLE: Final = frozenset({str, int, bytes, type(None), UUID, date, timedelta})


def _is_restorable(key: object) -> bool:
    if type(key) in _RESTORABLE:
        return True
    if type(key) is tuple or type(key) is frozenset:
        return all(map(_is_restorable, key))
    if type(key) is float:
        return not key.is_integer()
    if type(key) is datetime or type(key) is time:
        return not key.fold and (key.tzinfo is None or key.tzinfo is UTC)
    return False


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
# A reader is given the position behind the tag, and returns the key and the position behind it. Only what encode() writes is accepted.


def _quote(data: bytes) -> str:
    return repr(data) if len(data) <= 40 else f"{data[:40]!r}... ({len(data)} bytes)"


class _OpaqueError(ValueError):
    pass


class _Compound(bytes):
    """The encoding of a tuple or frozenset while it is read. A number of eight bytes may stand for a megabyte, and there may be many.

    Attributes:
        room: Bytes that its numbers may still take.
    """

    room = 64 << 20


def _refuse_to_rebuild(data: bytes, position: int) -> NoReturn:
    raise _OpaqueError(f"{_quote(data)} encodes a key that cannot be rebuilt from it: load the sidecar that is stored beside the value")


def _unescape(escaped: bytes) -> bytes:
    if 1 not in escaped:
        return escaped
    raw = escaped.replace(b"\x01\x02", b"\x00").replace(b"\x01\x03", b"\x01")
    if _escape(raw) != escaped:
        raise ValueError("a word that does not exist")
    return raw


def _read_number(data: bytes, start: int) -> tuple[object, int]:
    lead = data[start]
    position = start + 1
    if lead == _ZERO:
        return 0, position
    negative = lead < _ZERO
    if negative:
        lead ^= 0xFF
    exponent = lead - _EXPONENT_ZERO
    if not _TINY < lead < _HUGE:
        if lead == _INFINITE:
            return (-math.inf if negative else math.inf), position
        exponent = _read_exponent(data, position, negative, lead)
        position += 4
    end = data.index(0xFF if negative else 0x00, position)
    digits = data[position:end]
    end += 1
    if negative:
        digits = digits.translate(_COMPLEMENT)
    if 1 in digits:
        if _MARK in digits:
            return _read_ratio(data[start:end], negative, digits), end
        digits = _unescape(digits)
    if not digits or not digits[0] or not digits[-1]:
        raise ValueError("digits that are not normalized")
    number = int.from_bytes(digits, "big")
    if negative:
        number = -number
    places = len(digits) - exponent
    if places <= 0:
        return number << -8 * places, end
    return _dyadic(number, 8 * places), end


def _read_exponent(data: bytes, position: int, negative: bool, lead: int) -> int:
    biased = data[position : position + 4]
    exponent: int = _U32.unpack(biased.translate(_COMPLEMENT) if negative else biased)[0] - _EXPONENT_BIAS
    shortest = _EXPONENT_ZERO + exponent
    if abs(exponent) > _MAX_EXPONENT or not (shortest <= _TINY if lead == _TINY else lead == _HUGE and shortest >= _HUGE):
        raise ValueError("an exponent out of range")
    if isinstance(data, _Compound):
        data.room -= abs(exponent)
        if data.room < 0:
            raise ValueError("numbers that take too much memory together")
    return exponent


def _dyadic(numerator: int, halvings: int) -> float | Fraction:
    trailing = (numerator & -numerator).bit_length() - 1
    numerator >>= trailing
    halvings -= trailing
    if numerator.bit_length() <= 53 and halvings <= 1074:  # then a float holds it exactly
        return math.ldexp(numerator, -halvings)
    return Fraction(numerator, 1 << halvings)


def _read_ratio(body: bytes, negative: bool, digits: bytes) -> Fraction:
    _, numerator, denominator = (int.from_bytes(_unescape(part), "big") for part in digits.split(_MARK))
    if denominator & (denominator - 1) == 0:
        raise ValueError("a fraction that is a finite sum")
    ratio = Fraction(-numerator if negative else numerator, denominator)
    if _encode_fraction(ratio)[1:] != body:
        raise ValueError("digits that contradict their fraction")
    return ratio


def _read_complex(data: bytes, position: int) -> tuple[object, int]:
    real, end = _read_number(data, position)
    imaginary, end = _read_number(data, end)
    key = complex(float(real), float(imaginary))  # type: ignore[arg-type]
    if _encode_complex(key)[1:] != data[position:end]:
        raise ValueError("parts that are no floats")
    return key, end


def _read_chunk(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.index(0x00, position)
    return _unescape(data[position:end]), end + 1


def _read_str(data: bytes, position: int) -> tuple[object, int]:
    chunk, end = _read_chunk(data, position)
    return chunk.decode("utf-8", "surrogatepass"), end


def _read_date(data: bytes, position: int) -> tuple[object, int]:
    return date.fromordinal(*_U32.unpack_from(data, position)), position + 4


def _read_wall(data: bytes, position: int) -> datetime:
    (wall,) = _U64.unpack_from(data, position)
    ordinal, microseconds = divmod(wall, _DAY)
    return datetime.fromordinal(ordinal) + timedelta(microseconds=microseconds)


def _read_datetime(data: bytes, position: int) -> tuple[object, int]:
    return _read_wall(data, position), position + 8


def _read_aware_datetime(data: bytes, position: int) -> tuple[object, int]:
    if data[position + 8]:
        _refuse_to_rebuild(data, position)
    return _read_wall(data, position).replace(tzinfo=UTC), position + 9


def _read_time(data: bytes, position: int) -> tuple[object, int]:
    zone = (None, UTC)[data[position]]
    (microseconds,) = _U64.unpack_from(data, position + 1)
    if zone is not None:
        microseconds -= _DAY
    if not 0 <= microseconds < _DAY:
        raise ValueError("a time outside the day")
    return (datetime.fromordinal(1) + timedelta(microseconds=microseconds)).time().replace(tzinfo=zone), position + 9


def _read_timedelta(data: bytes, position: int) -> tuple[object, int]:
    days, seconds, microseconds = _TIMEDELTA.unpack_from(data, position)
    key = timedelta(days - _EXPONENT_BIAS, seconds, microseconds)
    if seconds != key.seconds or microseconds != key.microseconds:
        raise ValueError("a duration that is not normalized")
    return key, position + 12


def _read_uuid(data: bytes, position: int) -> tuple[object, int]:
    return UUID(bytes=data[position : position + 16]), position + 16


def _read_tuple(data: bytes, position: int) -> tuple[object, int]:
    elements = []
    while data[position]:
        element, position = _READERS[data[position]](data, position + 1)
        elements.append(element)
    return tuple(elements), position + 1


def _read_frozenset(data: bytes, position: int) -> tuple[object, int]:
    elements = []
    last = b""
    while data[position]:
        start = position
        element, position = _READERS[data[start]](data, start + 1)
        elements.append(element)
        if data[start:position] <= last:
            raise ValueError("elements of a set out of order")
        last = data[start:position]
    return frozenset(elements), position + 1


_READERS: Final[dict[int, Callable[[bytes, int], tuple[object, int]]]] = {
    TAG_NONE: lambda data, position: (None, position),
    TAG_NUMBER: _read_number,
    TAG_COMPLEX: _read_complex,
    TAG_STR: _read_str,
    TAG_BYTES: _read_chunk,
    TAG_DATE: _read_date,
    TAG_DATETIME: _read_datetime,
    TAG_AWARE_DATETIME: _read_aware_datetime,
    TAG_TIME: _read_time,
    TAG_TIMEDELTA: _read_timedelta,
    TAG_UUID: _read_uuid,
    TAG_ENUM: _refuse_to_rebuild,
    TAG_TUPLE: _read_tuple,
    TAG_FROZENSET: _read_frozenset,
    TAG_OTHER: _refuse_to_rebuild,
}
