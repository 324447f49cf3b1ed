"""`python -m halcyon` is the command `halcyon`."""

import sys

from halcyon.cli import main

sys.exit(main())
