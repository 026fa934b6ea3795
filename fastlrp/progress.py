"""Progress bars on standard error."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from .shapes import as_flag

DELAY = 2  # seconds before a bar shows that was not asked for


def progress_bar(progress: bool | None, total: int, what: str, unit: str) -> Any:
    """A bar over `total` units. progress: True shows it, False none; None: on a terminal, once DELAY has passed."""
    hidden = None if progress is None else not as_flag(progress, "progress")  # None: where stderr is no terminal
    return tqdm(total=total, desc=what, unit=unit, disable=hidden, delay=0 if progress else DELAY)
