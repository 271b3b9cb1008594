"""Every key of a TOML file is found on the line where it was written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import JobError
from antiphon.spec.toml_file import locate, read_toml
from antiphon.spec.validation import Location

SCALARS = [
    "1",
    "-2.5e3",
    "true",
    "inf",
    "1979-05-27 07:32:00",
    '""',
    "''",
    '"x = 1 # no comment"',
    '"a \\" [b] \\\\"',
    "'[table] = \"'",
    '"""\na = 1\n[b]\n"""',
    '"""a "" b \\""" \n c""""',
    '"""two at the end"""""',
    "'''\n'' a = 1 # \n]'''",
    "'''two at the end'''''",
]
QUOTED_KEYS = ['"{}"', "'{}'", '"a.b = {}"', "'[{}] # '", '"\\u0041 \\" {}"']


class Document:
    """A TOML document written at random, and the line of everything in it.

    What is written follows ``entropy``, a byte for each choice, and ends soon after it: drawing
    every choice from Hypothesis would be slow.
    """

    def __init__(self, entropy: bytes) -> None:
        self.entropy = iter(entropy)
        self.text = ""
        self.lines: dict[Location, int] = {}
        self.keys = 0
        self.body(())
        for number in range(self.below(4)):
            if self.below(2):
                self.list_of_tables(f"list{number}")
            else:
                self.table(())

    def below(self, bound: int) -> int:
        return next(self.entropy, 0) % bound

    def note(self, location: Location) -> None:
        self.lines.setdefault(location, self.text.count("\n") + 1)

    def choose(self, *choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def key(self) -> str:
        """Write a key that no other key of the document is like, and return its name."""
        self.keys += 1
        written = self.choose("k{}", "{}", *QUOTED_KEYS).format(self.keys)
        self.text += written
        [name] = tomllib.loads(f"{written} = 0")
        return name

    def blank(self, *, lines: bool) -> None:
        """Whitespace, with comments and line ends where they may stand."""
        choices = ["", " ", "\t"] + ["\n", " # ] } = [x]\n", "\n\n# '''\n "] * lines
        self.text += self.choose(*choices)

    def statement(self, table: Location) -> None:
        start = len(self.text)
        names = [self.key()]
        while self.below(4) == 1:
            self.text += self.choose(".", " . ")
            names.append(self.key())
        for end in range(1, len(names) + 1):
            line = self.text.count("\n", 0, start) + 1
            self.lines.setdefault((*table, *names[:end]), line)
        self.text += self.choose("=", " = ", "\t=")
        self.value((*table, *names), depth=0)

    def value(self, location: Location, depth: int) -> None:
        kind = self.below(6) if depth < 3 else 0
        if kind <= 3:
            self.text += self.choose(*SCALARS)
        elif kind == 4:
            self.text += "["
            for index in range(self.below(4)):
                self.text += "," if index else ""
                self.blank(lines=True)
                self.note((*location, index))
                self.value((*location, index), depth + 1)
                self.blank(lines=True)
            self.text += "]"
        else:
            self.text += "{"
            for index in range(self.below(4)):
                self.text += ", " if index else " "
                self.statement(location)
            self.text += " }"

    def body(self, table: Location) -> None:
        for _ in range(self.below(4)):
            self.blank(lines=True)
            self.statement(table)
            self.text += self.choose("\n", " # = ]\n")

    def table(self, outer: Location) -> None:
        """A table by its header, inside the latest element of a list or at the root."""
        self.blank(lines=True)
        written = f"{outer[0]} ." if outer else ""
        self.text += f"[{written}" + self.choose("", " ")
        name = self.key()
        self.note((*outer, name))
        self.text += self.choose("]", " ]") + self.choose("\n", " # [x]\n")
        self.body((*outer, name))

    def list_of_tables(self, name: str) -> None:
        for index in range(1 + self.below(3)):
            self.blank(lines=True)
            self.note((name,))
            self.note((name, index))
            self.text += f"[[{name}]]\n"
            self.body((name, index))
            if self.below(2):
                self.table((name, index))


documents = st.builds(Document, st.binary(min_size=60, max_size=300))


def paths(value: Any, location: Location = ()) -> Iterator[Location]:
    """The location of everything inside ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, element in inner:
        yield (*location, key)
        if isinstance(element, dict | list):
            yield from paths(element, (*location, key))


@given(documents)
def test_every_key_is_on_its_line(document: Document) -> None:
    found = locate(document.text)
    assert set(found) == set(paths(tomllib.loads(document.text)))
    assert found == document.lines


@given(documents)
def test_windows_line_ends_change_no_line(document: Document) -> None:
    text = document.text.replace("\n", "\r\n")
    assert locate(text) == document.lines


def test_a_table_stands_where_it_is_first_named() -> None:
    text = "[a.b]\nx = 1\n[a]\ny = 2\n[a.c]\n"
    assert locate(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("a", "b", "x"): 2,
        ("a", "y"): 4,
        ("a", "c"): 5,
    }


def test_lists_are_read_as_tuples(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("a = [1, [2]]\nb = {c = [{d = []}]}\n")
    assert read_toml(path).data == {"a": (1, (2,)), "b": {"c": ({"d": ()},)}}


def test_a_place_has_the_line_as_written_or_that_of_the_table_around(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"[a]\r\n  b = 1 # one \r\n")
    file = read_toml(path)
    assert file.place(("a", "b")).line == 2
    assert file.place(("a", "b")).text == "  b = 1 # one"
    assert file.place(("a", "c")).text == "[a]"
    assert (file.place(("d",)).line, file.place(("d",)).path) == (None, str(path))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a = 1\nb\n", 2, "expected '='"),
        ("a = 1\na = 2\n", 2, "cannot overwrite"),
        ("a = 1\n\nb = [1,", 3, ""),
        ('a = """\n\n', 1, ""),
        ("[a]\n[a]\n", 2, "cannot declare"),
    ],
)
def test_wrong_syntax_is_a_mistake_with_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(JobError) as refusal:
        read_toml(path)
    [mistake] = refusal.value.mistakes
    assert (mistake.path, mistake.line, mistake.text) == (
        str(path),
        line,
        text.split("\n")[line - 1],
    )
    assert problem in mistake.problem
    assert "at line" not in mistake.problem


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    for name, problem in {
        "none.toml": "there is no such file",
        "latin.toml": "not UTF-8",
        ".": "cannot be read: is a directory",
    }.items():
        with pytest.raises(JobError, match=problem):
            read_toml(tmp_path / name)
