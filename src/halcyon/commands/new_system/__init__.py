"""`halcyon new-system`: from a molecule to a configuration."""
