"""Who does the units of a run: this process, several of them, or Ray. What is done is the run folder's to say."""
