"""``python -m nnaccel_core.cli``: the command line where the script is not on PATH."""

import sys

from nnaccel_core.cli.main import main

sys.exit(main())
