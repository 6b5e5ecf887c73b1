"""Hostile sweep files and options: accepted, or refused in a message, quickly and in little memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import invoke
from fuzzing import BOUNDED
from hypothesis import given
from hypothesis import strategies as st
from worlds import sweep

from lagvae_core.strategies import CATALOGUE

pytestmark = pytest.mark.slow

SNIPPETS = (
    *("!!bool abc", '!!int ""', "!!timestamp x", "!!python/name:os.system", "!!binary x", "&a [*a]", "*a", "<<: *a"),
    *("no", "off", "~", "=", ".nan", "-.inf", "1e400", "0x", "1_", "1:30", "2020-13-45", "1" * 5000, "x" * 5000),
    *("[" * 200, "{a: " * 200, "? ", "- ", "\t", "\x00", "\x1b[31m", "\ud7ff", "\u2028", "%YAML 3.0\n", "---\n", "#"),
    *("{low: 1, high: 0}", "{low: 1, high: .inf}", "{choices: []}", "{choices: [[1]]}", "default", "converge"),
    *("synthetic", "text", "images", "reinflection", "grid", "nsga2", "train", *CATALOGUE),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2**31, 2**53, 2**63, 10**18, 10**400]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(SNIPPETS),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["kind", "low", "high", "log", "choices"])), inner
        ),
    ),
    max_leaves=12,
)

BASE: dict[str, Any] = sweep(
    arms={
        "vae": [],
        "stack": ["aggressive", {"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 3, "log": True}}],
        "choices": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2]}}, {"kind": "free_bits"}],
    },
    objectives={"nll_iw": "min", "au": "max"},
    resources={"cpus": 1, "gpus": "auto", "concurrent": "auto"},
    stopping="none",
    keep="models",
)


def paths_of(value: Any) -> list[tuple[Any, ...]]:
    """Return the path of every key and item of a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in ((key,), *((key, *rest) for rest in paths_of(inner)))]


PATHS = paths_of(BASE)


numbers = st.sampled_from([0, 1, 2, 10, 0.5, 0.01, -1, 1e400, 10**18])
ranges = st.builds(lambda low, high, log: {"low": low, "high": high, "log": log}, numbers, numbers, st.booleans())
choices = st.builds(lambda members: {"choices": members}, st.lists(numbers, max_size=4))


@st.composite
def plausible_stacks(draw: st.DrawFn) -> list[Any]:
    """Return an arm of known strategies, some with known fields that are fixed or searched."""
    stack: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(list(CATALOGUE)), max_size=3)):
        fields = [field for field in CATALOGUE[kind].model_fields if field != "kind"]
        settled = st.one_of(numbers, ranges, choices, st.just("default"), st.none(), st.booleans())
        chosen = draw(st.dictionaries(st.sampled_from(fields), settled, max_size=3)) if fields else {}
        stack.append({"kind": kind, **chosen} if chosen else kind)
    return stack


@st.composite
def changed_files(draw: st.DrawFn) -> str:
    """Return the text of a valid sweep file in which some values, keys and characters are replaced."""
    content = yaml.safe_load(yaml.safe_dump(BASE))
    content["arms"] |= draw(st.dictionaries(st.sampled_from(["no", "1", "β", "new"]), plausible_stacks(), max_size=2))
    many = draw(st.sampled_from([0, 0, 1, 3]))
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=many, unique=True)):
        place = content
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = draw(values)
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change has replaced the place
    for path in draw(st.lists(st.sampled_from([(), ("trial",), ("arms",), ("search",)]), max_size=many // 3)):
        place = content.get(path[0]) if path else content
        if isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(values)
    text = yaml.dump(content, sort_keys=False, allow_unicode=True)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.sampled_from(SNIPPETS)) + text[start + draw(st.integers(0, 30)) :]
    return text


keys = st.sampled_from(
    [".".join(map(str, path)) for path in PATHS] + ["a", "a" + ".a" * 100, ".", "", "arms.new", "trial"]
)
texts = st.one_of(values.map(lambda v: yaml.dump(v, default_flow_style=True)), st.sampled_from(SNIPPETS), st.text())


@st.composite
def arm_options(draw: st.DrawFn) -> str:
    """Return a text like that of `--arm`, with some parts replaced."""
    stack = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(list(CATALOGUE)))
        fields = [field for field in CATALOGUE[kind].model_fields if field != "kind"]
        chosen = draw(st.lists(st.sampled_from([*fields, "nothing"]), max_size=3))
        stack.append(f"{kind}:{','.join(f'{field}={draw(texts)}' for field in chosen)}")
    text = draw(st.sampled_from(["+", " + ", "++"])).join(stack)
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(st.sampled_from(["", ":", ",", "=", "+", "[", "]", "\x1b", "\n"])) + text[start:]


def check_bounded(folder: Path, *arguments: str, codes: tuple[int, ...] = (0, 2)) -> None:
    """Run a command and check its exit code, its stderr, its processor time and the growth of the process."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = invoke(*arguments, folder=folder)
    assert ended.returncode in codes, ended
    assert (ended.returncode == 0) == (not ended.stderr)
    assert "Traceback" not in ended.stderr
    assert time.process_time() - started < 5
    kilobytes = 1024 if sys.platform == "darwin" else 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / kilobytes < 500_000


@given(changed_files())
@BOUNDED
def test_sweep_files(tmp_path, text):
    (tmp_path / "s.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    check_bounded(tmp_path, "plan", "s.yaml")


@given(st.lists(st.tuples(keys, texts), min_size=1, max_size=3), arm_options(), st.booleans())
@BOUNDED
def test_options(tmp_path, sets, arm, of_trial):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    options = [part for key, text in sets for part in ("--set", f"{key.removeprefix('trial.')}={text}")]
    if of_trial:
        # The folder in place of a checkpoint file is refused after everything else is checked, so nothing is trained.
        check_bounded(tmp_path, "trial", "--arm", arm, *options, "--checkpoint", str(tmp_path), codes=(2,))
    else:
        options = [part for key, text in sets for part in ("--set", f"{key}={text}")]
        check_bounded(tmp_path, "plan", "s.yaml", *options)
