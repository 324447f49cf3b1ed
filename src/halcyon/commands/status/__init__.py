"""`halcyon status`: where a campaign stands."""
