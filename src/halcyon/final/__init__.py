"""The product of a campaign, and its use."""
