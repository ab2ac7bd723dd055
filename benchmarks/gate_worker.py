"""One side of benchmarks/gate.py: runs the cases of the tree that it is given, as standard input asks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(tree: Path) -> None:
    # Answers have the first standard output for themselves; what a case prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # An editable installation would serve its own tree, whatever the path says.
    sys.meta_path[:] = [one for one in sys.meta_path if "ScikitBuild" not in type(one).__name__]
    sys.path[:] = [
        str(tree),
        str(tree / "benchmarks"),
        *(p for p in sys.path if p != str(Path(__file__).parent)),
    ]
    import cases
    from harness import Case, _seconds

    import synbench_fast

    if tree not in Path(synbench_fast.__file__).resolve().parents:
        sys.exit(f"error: {tree}: expected its own package, got {synbench_fast.__file__}")
    known = cases.cases()
    one: Case | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if request["what"] == "list":
            answer = list(known)
        elif request["what"] == "prepare":
            one = None  # frees the last case's memory before the next one's
            one = known[request["case"]]()
            error, tolerance = one.parity()
            answer = {
                "unit": one.unit,
                "work": one.work,
                "note": one.note,
                "error": error,
                "tolerance": tolerance,
                "seconds": min(_seconds(one.ours) for _ in range(2)) if error <= tolerance else 0.0,
            }
        else:
            assert one is not None
            answer = {"seconds": sum(_seconds(one.ours) for _ in range(request["runs"]))}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
