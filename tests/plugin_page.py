"""The plugins that the page `docs/plugins.md` shows."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

__all__ = ["write_plugins"]

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"


def write_plugins(folder: Path) -> dict[str, Path]:
    """Write each file that the page shows in full to `folder`, and return the paths by name without suffix."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", PAGE.read_text("utf-8"), re.MULTILINE)
    texts = [textwrap.dedent(block).strip("\n") + "\n" for block in blocks]
    files = {match[1]: text for text in texts if (match := re.match(r'"""(\w+)\.py: ', text))}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return {name: folder / f"{name}.py" for name in files}
