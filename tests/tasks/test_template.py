"""The template language: fields, conversions, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bszo.errors import ConfigError
from bszo.tasks.template import CONVERSIONS, Template, parse, render


@pytest.mark.parametrize(
    ("conversion", "text", "changed"),
    [
        ("c", "do It", "Do It"),
        ("c", "éa", "Éa"),
        ("c", "", ""),
        ("l", "He HIMself", "he himself"),
        ("f", "The Cat sat.", "the Cat sat."),
        ("f", "I sat.", "I sat."),
        ("f", "NASA", "nasa"),
        ("d", "It sat.", "It sat"),
        ("d", "It sat", "It sat"),
        ("d", "a.b", "a.b"),
        ("q", "is it?", "Is it"),
        ("q", "is it ?", "Is it"),
        ("q", "is it", "Is it"),
        ("t", "A -- b -- c", "b -- c"),
        ("t", "a--b", "a--b"),
        ("b", "the _ fits.", "the "),
        ("a", "the _ fits.", " fits."),
        ("b", "_ fits", ""),
        ("a", "it is _", ""),
    ],
)
def test_conversion(conversion: str, text: str, changed: str) -> None:
    assert render(f"<{{x!{conversion}}}>", {"x": text}) == f"<{changed}>"


def test_every_conversion_has_a_case_above() -> None:
    cases = test_conversion.pytestmark[0].args[1]  # pyright: ignore[reportFunctionMemberAccess]
    assert {case[0] for case in cases} == set(CONVERSIONS)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{x", "expected '}'"),
        ("x}", "Single '}'"),
        ("{}", "must be a column"),
        ("{ x }", "must be a column"),
        ("{x:>9}", "must be a column"),
        ("{x!r}", "conversion !r is not one of !c, !l, !f, !d, !q, !t, !b, !a"),
    ],
)
def test_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^template ") as caught:
        parse(template)
    assert says in str(caught.value)


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}")))
def test_values_pass_through_untouched(value: str, around: str) -> None:
    assert render(around + "{x}" + around, {"x": value}) == around + value + around


def test_doubled_braces_are_braces() -> None:
    assert render("{{{x}}}", {"x": "a"}) == "{a}"


def test_unknown_words() -> None:
    with pytest.raises(ConfigError, match="'as_run': not one of corrected, as-run"):
        Template("{x}", (" a", " b")).words("as_run")  # pyright: ignore[reportArgumentType]


def test_words_as_run_default_to_the_options() -> None:
    assert Template("{x}", ("a", "b")).words("as-run") == ("a", "b")
    assert Template("{x}", ("a", "b"), ("c", "d")).words("as-run") == ("c", "d")
    assert Template("{x}", ("a", "b"), ("c", "d")).words("corrected") == ("a", "b")
