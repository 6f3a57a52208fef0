"""`python -m actionrec` is the command line."""

import sys

from actionrec.cli.main import main

sys.exit(main())
