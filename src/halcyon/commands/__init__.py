"""The commands of `halcyon`: a module for each group, which adds itself to the parser.

Each has `register(groups)`; what takes long to import waits until a command runs.

Not for: what the commands compute; that is the library's, without a terminal.
"""
