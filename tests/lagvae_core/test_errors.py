import pytest

from lagvae_core.errors import (
    MAX_SHOWN_ISSUES,
    ConfigError,
    DataError,
    ValidationIssue,
    collect_issues,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("issue", "text"),
    [
        (ValidationIssue("a.b", "must be less than 1", value=2), "a.b: must be less than 1, got 2."),
        (ValidationIssue("a.b", "unknown key", "Did you mean a.c?"), "a.b: unknown key. Did you mean a.c?"),
        (ValidationIssue("a", "not valid", "Remove it.", None, "E1"), "a: not valid [E1], got None. Remove it."),
    ],
)
def test_the_text_of_an_issue(issue, text):
    assert str(issue) == text


def test_long_values_are_cut():
    text = str(ValidationIssue("a", "must be short", value="x" * 1000))
    assert len(text) < 250
    assert text.endswith("....")


def test_an_error_shows_its_source_and_every_issue():
    issues = [ValidationIssue("a", "must be 1"), ValidationIssue("b", "must be 2")]
    assert str(ConfigError(issues[:1], "x.yaml")) == "x.yaml: a: must be 1."
    assert str(ConfigError(issues, "x.yaml")) == "x.yaml: 2 problems.\n  a: must be 1.\n  b: must be 2."
    assert ConfigError(issues).issues == tuple(issues)


def test_issues_of_several_checks_are_collected():
    issues = []
    for where in ("a", "b"):
        with collect_issues(issues):
            raise DataError([ValidationIssue(where, "not valid")])
    assert [issue.where for issue in issues] == ["a", "b"]
    with pytest.raises(ZeroDivisionError), collect_issues(issues):
        _ = 1 / 0


def test_suggestions_are_similar_known_words():
    assert did_you_mean("epochss", ["batch_size", "epochs"]) == "Did you mean epochs?"
    assert did_you_mean("zzz", ["batch_size", "epochs"]) == ""
    assert did_you_mean("beta", ["beta_a", "beta_b"], count=2) == "Did you mean beta_b or beta_a?"


def test_a_message_shows_the_first_issues_and_the_number_of_the_others():
    error = ConfigError([ValidationIssue(f"key {number}", "not valid") for number in range(MAX_SHOWN_ISSUES + 1234)])
    lines = str(error).splitlines()
    assert len(lines) == MAX_SHOWN_ISSUES + 2
    assert lines[-1].strip() == "and 1,234 more."
    assert len(error.issues) == MAX_SHOWN_ISSUES + 1234
