"""The terminal of every command: what others sent cannot move its cursor, colour it, or hide in it."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.errors import MarkupError
from rich.text import Text

from app.untrusted import visible


class Console(rich.console.Console):
    """Rich's console, with control characters in any text (table cells too) shown instead of sent."""

    def render_str(self, text: str, **options: Any) -> Text:
        """All plain text passes here before it is styled."""
        text = visible(text, keep="\n\t")
        try:
            return super().render_str(text, **options)
        except MarkupError:
            # square brackets of someone else's, not escaped
            return super().render_str(text, **options | {"markup": False})
