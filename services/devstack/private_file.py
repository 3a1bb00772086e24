"""Small files with secrets: readable for their owner alone, never half-written."""

import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` with mode 0600; a reader sees the old or the new text, never a part."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as unfinished:
        unfinished.write(text)
    Path(unfinished.name).replace(path)
