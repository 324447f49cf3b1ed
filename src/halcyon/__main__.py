"""`python -m halcyon` is the command `halcyon`."""

import sys

from halcyon.commands.main import main

sys.exit(main())
