"""The loop, its options and hooks, and the pipeline around it."""
