"""Draw what a benchmark asks for, look at it, and write down what was seen: ``trueline evaluate``."""
