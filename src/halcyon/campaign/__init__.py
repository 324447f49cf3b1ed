"""Files, jobs and money of a campaign."""
