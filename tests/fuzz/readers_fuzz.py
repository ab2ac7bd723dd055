"""Coverage-guided fuzzing of everything that reads a file: bytes in, a document or one SynbenchError out.

    python tests/fuzz/readers_fuzz.py CORPUS -max_total_time=60       (options of libFuzzer, by way of atheris)
    python tests/fuzz/readers_fuzz.py --seeds CORPUS                  (write the first inputs)
    python tests/fuzz/readers_fuzz.py --run FILE ...                  (one input each, without atheris)

The first byte of an input chooses the reader (see `readers.READERS`), the rest is the file.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any


def one(data: bytes, folder: Path) -> Any:
    """What the reader that the first byte names makes of the rest; None if it is refused."""
    from readers import READERS

    from synbench_fast.errors import SynbenchError

    if not data:
        return None
    try:
        return list(READERS.values())[data[0] % len(READERS)](data[1:], folder)
    except SynbenchError as error:
        assert str(error).isprintable() and str(error), repr(str(error))
    return None


def write_seeds(folder: Path) -> None:
    from readers import seeds

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, files) in enumerate(seeds().items()):
        for place, content in enumerate(files):
            (folder / f"{name}-{place}").write_bytes(bytes([number]) + content)


def main() -> None:
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent), str(here.parent.parent)]
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:2] == ["--run"]:
            for path in sys.argv[2:]:
                one(Path(path).read_bytes(), Path(folder))
            return
        import atheris
        import torch  # noqa: F401  (with all that it imports: none of it is to be instrumented)

        with atheris.instrument_imports(include=["synbench_fast"]):
            import readers  # noqa: F401
        warnings.simplefilter("ignore")
        atheris.Setup(sys.argv, lambda data: one(data, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
