"""What the model knows, and judging a step of dynamics against it."""
