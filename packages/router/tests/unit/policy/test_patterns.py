"""The policy's own patterns: what may be written, and what is told of what may not."""

import json

import pytest
from jsonschema_rs import validator_for
from stratmaster_router.policy.parse import parse
from stratmaster_router.policy.patterns import compiled
from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.schema import json_schema

PLACE = "line 2: redaction.patterns.mine"
UNBOUNDED = "a match may have at most 256 characters; write a bound such as {1,40} instead of + or *"


def policy(pattern: str, name: str = "mine") -> str:
    """A policy with one pattern."""
    return f"tenants: {{}}\nredaction: {{patterns: {{{name}: {json.dumps(pattern)}}}}}\n"


@pytest.mark.parametrize(
    "pattern", [r"E\d{6}", r"\bE\d{6}\b", "(?i)case-[0-9]{1,10}(-[a-z]{2})?", r"[A-Z]{2}(?:\.\d{3}){2,3}", "x{256}"]
)
def test_pattern_is_kept_as_it_is_written(pattern: str) -> None:
    """What has a beginning and a bound is taken, here and by an editor with the schema."""
    text = policy(pattern)

    assert parse(text).redaction.patterns == {"mine": pattern}
    assert compiled(pattern).pattern == pattern.encode()
    assert validator_for(json_schema()).is_valid({"tenants": {}, "redaction": {"patterns": {"mine": pattern}}})


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("E[0-9]+", UNBOUNDED),
        ("(a*)*b", UNBOUNDED),
        ("E.{3,}", UNBOUNDED),
        ("x{257}", UNBOUNDED),
        ("(?:a{1,20}b{1,20}){1,9}", UNBOUNDED),
        ("a?", "this pattern matches an empty text, which is everywhere"),
        ("|x", "this pattern matches an empty text, which is everywhere"),
        (r"(a)\1", r"RE2 does not take this pattern: invalid escape sequence: \1"),
        ("(?=a)b", "RE2 does not take this pattern: invalid perl operator: (?="),
        ("(?<!a)b", "RE2 does not take this pattern: invalid perl operator: (?<!"),
        ("(", "RE2 does not take this pattern: missing ): ("),
        ("a{1001}", "RE2 does not take this pattern: invalid repetition size: {1001}"),
        (r"\pL", r"this pattern is not read alike everywhere: bad escape \p at position 0; write it in simpler terms"),
        ("é", "expected a regular expression of ASCII characters (at most 512), got 'é'"),
        ("", "expected a regular expression of ASCII characters (at most 512), got ''"),
    ],
)
def test_pattern_that_cannot_be_used_is_a_problem_at_its_line(pattern: str, problem: str) -> None:
    """The policy is refused when it is loaded, and says what would be right."""
    with pytest.raises(PolicyInvalid) as refused:
        parse(policy(pattern))

    assert [str(one) for one in refused.value.problems] == [f"{PLACE}: {problem}"]


def test_pattern_that_is_no_text_is_a_problem() -> None:
    """A number is no regular expression, though it reads like one."""
    with pytest.raises(PolicyInvalid) as refused:
        parse("tenants: {}\nredaction: {patterns: {mine: 123}}\n")

    assert [str(one) for one in refused.value.problems] == [
        f"{PLACE}: expected a regular expression of ASCII characters (at most 512), got the number 123"
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("email", "'email' is found without a pattern; choose another name"),
        (
            "Employee",
            "expected a name of lower-case letters, digits and '_' (at most 32, beginning with a letter), "
            "got 'Employee'",
        ),
    ],
)
def test_name_is_a_word_that_is_not_taken(name: str, problem: str) -> None:
    """The name stands in marks, and is no kind that is found anyway."""
    with pytest.raises(PolicyInvalid) as refused:
        parse(policy("E[0-9]{6}", name))

    assert [str(one) for one in refused.value.problems] == [f"line 2: redaction.patterns.{name}: {problem}"]


def test_field_that_does_not_exist_is_a_problem() -> None:
    """A misspelt field is not left out silently."""
    with pytest.raises(PolicyInvalid) as refused:
        parse("tenants: {}\nredaction: {pattern: {}}\n")

    assert [str(one) for one in refused.value.problems] == [
        "line 2: redaction.pattern: unknown field, did you mean 'patterns'?"
    ]
