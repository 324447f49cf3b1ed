"""Parts of `signal_truth`: which signals see wrong forces."""
