"""TOML files with the line of every key: values by tomllib, lines by a small scanner beside it."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.errors import JobError
from antiphon.spec.validation import Location, Place, read_text


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file that was read. ``lines`` has the line, from 1, of every key and element of a list."""

    path: Path
    data: dict[str, Any]  # lists are tuples
    text: str
    lines: Mapping[Location, int]

    @property
    def folder(self) -> Path:
        """What relative paths in the file start from."""
        return self.path.parent

    def place(self, location: Location) -> Place:
        """Where ``location`` was written, or the innermost table around it."""
        while location and location not in self.lines:
            location = location[:-1]
        if not location:
            return Place(str(self.path))
        line = self.lines[location]
        return Place(str(self.path), line, _line(self.text, line))


def read_toml(path: str | Path) -> TomlFile:
    """Read a TOML file. Raises JobError where it cannot be read, or is not TOML."""
    path = Path(path)
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(_syntax_place(path, text, error).mistake(*_syntax(path, error))) from None
    return TomlFile(path, frozen(data), text, locate(text))


def frozen(value: Any) -> Any:
    """``value`` with every list made a tuple, as frozen data holds them."""
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def locate(text: str) -> dict[Location, int]:
    """The line of every key and every element of a list in ``text``, which must be valid TOML.

    A table that several headers or dotted keys share stands at the first of them.
    """
    return _Scanner(text).scan()


def _syntax(path: Path, error: tomllib.TOMLDecodeError) -> tuple[str, str, str]:
    reason = re.sub(r" \(at [^)]*\)$", "", str(error))
    return path.name, f"is not TOML: {reason[0].lower()}{reason[1:]}", "mend the line"


def _syntax_place(path: Path, text: str, error: tomllib.TOMLDecodeError) -> Place:
    at = re.search(r"\(at line (\d+), column \d+\)$", str(error))
    line = int(at[1]) if at else len(text.rstrip().split("\n"))  # else "at end of document"
    return Place(str(path), line, _line(text, line))


def _line(text: str, line: int) -> str:
    return text.split("\n")[line - 1].rstrip()


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[^"'=\]])+""")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:'{0,2})|"(?:\\.|[^"\\])*"|'[^']*\'''',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")  # numbers, booleans and dates


class _Scanner:
    """Walks a valid document once, so it need only know where things end, not what they mean."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line_starts = [0] + [match.end() for match in re.finditer("\n", text)]
        self.lines: dict[Location, int] = {}
        self.elements: dict[Location, int] = {}  # elements so far of each array of tables

    def scan(self) -> dict[Location, int]:
        table: Location = ()
        self._skip(_BLANK)
        while self.position < len(self.text):
            if self.text[self.position] == "[":
                table = self._header()
            else:
                self._key_and_value(table)
            self._skip(_BLANK)
        return self.lines

    def _header(self) -> Location:
        line = self._line()
        is_element = self.text.startswith("[[", self.position)
        self.position += 2 if is_element else 1
        *outer, last = self._key()
        self.position += 2 if is_element else 1
        table: Location = ()
        for part in outer:  # a header reaches into the latest element of an array of tables
            table = self._latest((*table, part), line)
        table = (*table, last)
        if is_element:
            self.lines.setdefault(table, line)
            self.elements[table] = self.elements.get(table, -1) + 1
            table = (*table, self.elements[table])
        self.lines.setdefault(table, line)
        return table

    def _latest(self, table: Location, line: int) -> Location:
        self.lines.setdefault(table, line)
        return (*table, self.elements[table]) if table in self.elements else table

    def _key_and_value(self, table: Location) -> None:
        line = self._line()
        for part in self._key():
            table = (*table, part)
            self.lines.setdefault(table, line)
        self.position += 1  # the equals sign
        self._value(table)

    def _key(self) -> list[str]:
        """The parts of the dotted key that stands here, unquoted."""
        nested = tomllib.loads(f"{self._skip(_KEY)} = 0")
        parts = []
        while isinstance(nested, dict):
            [(part, nested)] = nested.items()
            parts.append(part)
        return parts

    def _value(self, location: Location) -> None:
        self._skip(_BLANK)
        match self.text[self.position]:
            case "[":
                self._sequence(location, "]")
            case "{":
                self._sequence(location, "}")
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_SCALAR)

    def _sequence(self, location: Location, end: str) -> None:
        """The elements of a list, or the keys of an inline table."""
        self.position += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text[self.position] == end:
                self.position += 1
                return
            if self.text[self.position] == ",":
                self.position += 1
            elif end == "}":
                self._key_and_value(location)
            else:
                self.lines[(*location, index)] = self._line()
                self._value((*location, index))
                index += 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.position)
        assert found is not None, "the document was read by tomllib before"
        self.position = found.end()
        return found[0]

    def _line(self) -> int:
        return bisect_right(self.line_starts, self.position)
