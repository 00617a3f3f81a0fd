"""Examples to train on: readers, cached latents, and the endless stream."""
