"""`halcyon plan`: what a campaign will cost."""
