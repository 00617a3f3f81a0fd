"""The 100 prompts on which ImageReward (Xu et al. 2023) compares text-to-image models."""

from pathlib import Path

from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Source, data_folder
from trueline.files import read_json_list

SOURCE = Source("THUDM/ImageReward", "c1392c6dd0fd", "Apache-2.0")


class ImageRewardPrompts(Benchmark):
    """``truth``: ``prompt_id``, the file's own. Ids: ``imagereward-000012``, by row from 0."""

    name = "imagereward"
    pictures = "{prompt_id}_{k}.png"

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "imagereward" / "benchmark-prompts.json"
        collector = Collector(self.name)
        for number, row in enumerate(read_json_list(path, SOURCE.cure)):
            with row_of(path, f"row {number + 1}", SOURCE.cure):
                collector.add(f"imagereward-{number:06d}", row["prompt"], truth={"prompt_id": row["id"]})
        self.examples, self.left_out = collector.finish()
