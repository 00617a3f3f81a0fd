"""English for planners, scorers and taggers: plurals, noun phrases, and which words name a thing. No torch."""
