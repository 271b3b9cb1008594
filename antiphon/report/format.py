"""Quantities as people read them: three significant digits and a unit that fits."""

from __future__ import annotations

from math import isfinite

NOTHING = "-"  # where there is no figure

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def seconds(value: float | None) -> str:
    """``0.0853`` as ``85.3 ms``, ``130`` as ``2 min 10 s``. Not negative."""
    if value is None or not isfinite(value):
        return NOTHING
    rounded = _three_digits(value)
    if rounded < 1e-3:
        return f"{_digits(rounded * 1e6)} µs"
    if rounded < 1:
        return f"{_digits(rounded * 1e3)} ms"
    if rounded < _MINUTE:
        return f"{_digits(rounded)} s"
    for larger, smaller, names in ((_MINUTE, 1, "min s"), (_HOUR, _MINUTE, "h min")):
        whole, rest = divmod(round(value / smaller), larger // smaller)
        if value < larger * 60 and whole < 60:
            return _pair(whole, rest, names)
    return _pair(*divmod(round(value / _HOUR), _DAY // _HOUR), "d h")


def nbytes(value: float | None) -> str:
    """``5_242_880`` as ``5.24 MB``: powers of ten, as in datasheets."""
    text = _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))
    return NOTHING if text is None else text


def count(value: float | None) -> str:
    """``70_553_706_496`` as ``70.6B``, the way parameters and tokens are counted."""
    text = _scaled(value, ("", "k", "M", "B", "T"))
    return NOTHING if text is None else text


def percent(part: float | None) -> str:
    """``0.412`` as ``41.2%``."""
    if part is None or not isfinite(part):
        return NOTHING
    return f"{_digits(_three_digits(part * 100))}%"


def difference(measured: float, predicted: float) -> str:
    """By how much a prediction was off, as a part of what was measured: ``+3.5%`` is too high."""
    if measured == predicted:
        return "0.0%"
    if not measured or not isfinite(measured) or not isfinite(predicted):
        return NOTHING
    return f"{predicted / measured - 1:+.1%}"


def clock(value: float) -> str:
    """Time that is left, to the second: ``1:05``, ``2:00:00``."""
    minutes, second = divmod(round(value), _MINUTE)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _scaled(value: float | None, units: tuple[str, ...]) -> str | None:
    if value is None or not isfinite(value):
        return None
    rounded, power = _three_digits(value), 0
    while abs(rounded) >= 1000 and power < len(units) - 1:
        rounded, power = rounded / 1000, power + 1
    whole = power == 0 and float(value).is_integer()
    return f"{value:.0f}{units[0]}" if whole else f"{_digits(rounded)}{units[power]}"


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _digits(value: float) -> str:
    """``value``, of three significant digits, without an exponent and with its last zeros."""
    size = abs(value)
    decimals = 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{decimals}f}"


def _pair(whole: int, rest: int, names: str) -> str:
    larger, smaller = names.split()
    return f"{whole} {larger} {rest:02} {smaller}"
