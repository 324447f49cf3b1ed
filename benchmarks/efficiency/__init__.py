"""Parts of `label_efficiency`: how many labels until a model passes the same exam."""
