"""Training: the loop, a run in a folder, its data, losses, rewards and recipes."""
