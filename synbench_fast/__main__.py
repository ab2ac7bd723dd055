"""`python -m synbench_fast` is `synbench-fast`."""

import sys

from synbench_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
