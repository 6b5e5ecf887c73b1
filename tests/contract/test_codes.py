"""The codes of incompatibilities and warnings: one table, the sources and the page agree."""

import ast
import re
from pathlib import Path

import lagvae_core
from lagvae_core.strategies.rules import CODES, ConfigWarning

CODE = re.compile(r"E\d\d|E-[A-Z]+|W\d+")
PAGE = Path(__file__).parents[2] / "docs" / "messages.md"


def codes_in_sources():
    """The string literals of the core that are codes, without the keys of the table itself."""
    codes = set()
    for path in Path(lagvae_core.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
        codes |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and CODE.fullmatch(node.value)
            and id(node) not in keys
        }
    return codes


def test_the_table_contains_exactly_the_codes_in_the_sources():
    assert codes_in_sources() == set(CODES)


def test_every_meaning_is_one_sentence():
    for code, meaning in CODES.items():
        assert meaning[0].isupper(), code
        assert meaning.endswith("."), code
        assert "\n" not in meaning, code


def test_the_page_explains_every_code():
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {code: meaning for code, meaning, _ in rows} == CODES
    assert [code for code, _, _ in rows] == list(CODES)
    assert all(action.endswith(".") for _, _, action in rows)


def test_a_warning_is_shown_with_its_code():
    assert str(ConfigWarning("W4", "Some advice.")) == "W4: Some advice."
    assert str(ConfigWarning(None, "Some advice.")) == "Some advice."
