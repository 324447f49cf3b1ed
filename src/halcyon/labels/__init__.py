"""From a frame to a label that can be trusted."""
