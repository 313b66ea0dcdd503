"""`python -m workers`: the worker's own commands, which `pacs-node` hands over to (they need the worker extra)."""

from __future__ import annotations

from workers.cli import main

if __name__ == "__main__":  # the inference child imports this module too, and must not start a worker
    main()
