"""PartiPrompts (Yu et al. 2022): 1,632 prompts without a metric of their own."""

from pathlib import Path

from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Source, data_folder
from trueline.files import read_table

SOURCE = Source("google-research/parti", "5a6579781343", "Apache-2.0")


class PartiPrompts(Benchmark):
    """``category``: one of 12 ("Animals"). ``truth``: ``challenge``, one of 11, and ``note``. Ids:
    ``parti-000012``, by row from 0."""

    name = "partiprompts"

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "partiprompts" / "PartiPrompts.tsv"
        rows = read_table(path, SOURCE.cure, ("Prompt", "Category", "Challenge", "Note"), tabs=True)
        collector = Collector(self.name)
        for number, (line, row) in enumerate(rows):
            with row_of(path, line, SOURCE.cure):
                truth = {"challenge": row["Challenge"], "note": row["Note"]}
                collector.add(f"parti-{number:06d}", row["Prompt"], row["Category"], truth)
        self.examples, self.left_out = collector.finish()
