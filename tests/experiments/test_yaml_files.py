"""YAML slips and files that ask for too much: one line with file, line and what to write."""

import re
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bszo.errors import ConfigError, printable
from experiments import CONF
from experiments.config.yaml_files import MOST_BYTES, MOST_DEPTH, read_mapping

# content -> what is said after the file's name
SLIPS = {
    "a:\n  prompt: {text} It was\n": ":2: .*; write prompt: '{text} It was'",
    "a:\n  prompt: {text}\n": ":2: braces without quotes are a mapping; write prompt: '{text}'",
    "prompt: Review: {text} x\n": ":1: .*; write prompt: 'Review: {text} x'",
    "prompt: It's: so\n": ":1: .*; write prompt: 'It''s: so'",
    "a:\n- {text} x\n": ":2: .*; write - '{text} x'",
    "a:\n\tprompt: x\n": ":2: a tab; YAML takes blanks alone",
    "a:\n  b:\tx\n\tc: y\n": ":3: a tab",
    "name: a\nversion: 1\nname: b\n": ":3: the key name stands in line 1 already",
    "{1: a, 1: b}\n": ":1: the key 1 stands in line 1 already",
    'name: "abc\nversion: 1\n': ":1: the quote that begins here is not closed",
    "options: [a, b\nname: x\n": ":1: the bracket that begins here is not closed",
    "name: @x\n": ":1: .*; write name: '@x'",
    "options: [*great, b]\n": r":1: \*great .*; write '\*great' in quotes",
    "options: [!great, b]\n": ":1: !great is a YAML tag",
    "options: - a\n": ":1: .*; write options: '- a'",
    "a: !!python/object/apply:os.system [ls]\n": ":1: .*os.system is a YAML tag",
    "a: !!python/object/apply:pathlib.PosixPath [/]\n": ":1: .* is a YAML tag",
    "name: a\n  version: 1\n": ":2: indented below line 1, which has a value of its own",
    "a:\n  b: 1\n c: 2\n": ":3: keys of one level must begin in one column",
    "a: 1\nname b\nversion: 1\n": ":2: not of the form key: value: name b",
    "- a\n- b\n": ":1: not of the form key: value",
    "hello\n": ":1: not of the form key: value",
    "": ": is empty",
    "# a comment\n": ": is empty",
    "a: 1\n---\nb: 2\n": ":2: a second document begins",
    "{text}: a\n": ":1: braces or brackets where a key must be",
    "a: ${b\n": ": a: ",
    f"a: {'9' * 5000}\n": ": Exceeds the limit",
    "a: &a [*a]\n": r":1: \*a refers to no value above it",
}


def said(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_mapping(file)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(file))
    return line.removeprefix(str(file))


@pytest.mark.parametrize("text", SLIPS)
def test_a_slip_is_said_with_its_line_and_what_to_write(tmp_path: Path, text: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert re.match(SLIPS[text], said(file))


@pytest.mark.parametrize("text", [text for text in SLIPS if "write " in SLIPS[text]])
def test_what_is_advised_can_be_read(tmp_path: Path, text: str):
    """The line as the message writes it, in place of the slip, is YAML with the text as it was."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    line = said(file)
    number, advice = int(line.split(":")[1]), line.split("write ")[1]
    if advice.endswith(" in quotes"):
        return
    lines = text.splitlines()
    indent = lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]
    lines[number - 1] = indent + advice
    file.write_text("\n".join(lines))
    read_mapping(file)


def _laughs(depth: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_laughs(12, 10), "more than 20000 values, aliases written out"),
        (_laughs(1000, 1), f"more than {MOST_DEPTH} levels"),
        ("a: " + "[" * 100_000, f"more than {MOST_DEPTH} levels"),
        ("a: " + "{b: " * 50_000, f"more than {MOST_DEPTH} levels"),
        ("".join(" " * i + "a:\n" for i in range(300)), f"more than {MOST_DEPTH} levels"),
        ("a: [" + "1," * 100_000 + "1]", "more than 20000 values"),
        ("a: " + "x" * MOST_BYTES, "has more than 256 kB"),
    ],
)
def test_what_asks_for_too_much_is_refused_soon(tmp_path: Path, text: str, says: str):
    file, began = tmp_path / "mine.yaml", time.process_time()
    file.write_text(text)
    assert says in said(file)
    assert time.process_time() - began < 2


def test_bytes_that_are_no_text(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    assert said(file) == ":2: not UTF-8; save it as UTF-8"
    file.write_bytes(b"a: 1\nb: \0\n")
    assert said(file) == ":2: the character '\\x00', which no YAML may hold"
    file.write_bytes("\ufeffa: 1\n".encode())  # as editors on Windows begin a file
    assert read_mapping(file) == {"a": 1}


def test_anchors_within_the_bounds_are_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: &x {b: 1}\nc:\n  <<: *x\n  d: *x\n")
    assert read_mapping(file) == {"a": {"b": 1}, "c": {"b": 1, "d": {"b": 1}}}


def test_the_project_s_own_files_read_as_omegaconf_reads_them():
    for file in CONF.rglob("*.yaml"):
        assert read_mapping(file) == OmegaConf.load(file)


def test_what_a_terminal_would_obey_is_printed_escaped():
    assert printable("a\x1b[2Jb\nc\u202ed\udcff") == "a\\x1b[2Jb c\\u202ed\\udcff"
    assert str(ConfigError("task=\x1b]0;x\x07")) == "task=\\x1b]0;x\\x07"
