"""``make readme``: put the present settings into README's configuration table."""

from __future__ import annotations

import re
from pathlib import Path

from app.cli.settings import markdown_table

README = Path(__file__).parents[2] / "README.md"

if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    table = markdown_table().replace("\\", r"\\")
    README.write_text(
        re.sub(r"(--markdown` -->\n).*?\n?(<!-- /settings -->)", rf"\1{table}\n\2", text, flags=re.DOTALL),
        encoding="utf-8",
    )
