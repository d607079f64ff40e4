"""`python -m tests.docs PAGE...`: run pages and put in what they show now."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.session import rewrite_page

for name in sys.argv[1:]:
    page = Path(name)
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        rewrite_page(page, Path(folder))
    print(f"{name} is up to date")
