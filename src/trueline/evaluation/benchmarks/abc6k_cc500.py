"""ABC-6K and CC-500 (Structured Diffusion Guidance, Feng et al. 2023): prompts that bind colours to objects.

Neither has real pictures: no FID.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from trueline.evaluation.benchmarks._collect import Collector
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.observations import Mode, Observations, share
from trueline.files import file_digest, read_lines
from trueline.perception import Detection

SOURCE = Source(
    "weixi-feng/Structured-Diffusion-Guidance",
    "773b2ba068c6",
    "MIT; ABC-6K made from COCO captions, CC BY 4.0",
)
FOLDER = "abc6k_cc500"
SHA256 = {
    "ABC-6K.txt": "47fa3ec1a839e6b74bb4f8e3746b454c8a8fb469cef66effddd172473f0f507b",
    "CC-500.txt": "b36a39e83459508e1676372902f2becdb48f977ed13868600e6e27e26b301777",
}
CC500_LINES = 446  #: of the file's 602, says its README
_CONJUNCTION = re.compile(r"an? (\S+) (.+?) and an? (\S+) (.+?)\.?", re.IGNORECASE)


class ABC6K(Benchmark):
    """6,434 prompts: 3,217 pairs of a caption and the same with its colours swapped, one after the other.

    ``category``: "original" or "swapped". ``truth``: ``pair``, the number of the pair, and ``partner``, the other
    one's id. Ids: ``abc6k-000012``, by line from 0.
    """

    name = "abc-6k"
    needs: ClassVar[Needs] = {"clip_score": ("embedder",), "b_vqa": ("answerer",)}

    def __init__(self, data: str | Path | None = None):
        collector = Collector(self.name)
        self.source = str(SOURCE)
        for number, prompt in enumerate(_lines(data, "ABC-6K.txt", collector)):
            truth = {"pair": number // 2, "partner": f"abc6k-{number ^ 1:06d}"}
            collector.add(f"abc6k-{number:06d}", prompt, ("original", "swapped")[number % 2], truth)
        self.examples, self.left_out = collector.finish()


class CC500(Benchmark):
    """446 prompts "a red book and a yellow vase": the first lines of the file, the others are not CC-500.

    ``truth``: ``objects`` [[name, colour], [name, colour]], for the 444 that are of this form. Ids:
    ``cc500-000012``, by line from 0.
    """

    name = "cc-500"
    needs: ClassVar[Needs] = {"both_objects": ("detector",), "b_vqa": ("answerer",)}

    def __init__(self, data: str | Path | None = None):
        collector = Collector(self.name)
        self.source = f"{SOURCE}, lines 1-{CC500_LINES}"
        for number, prompt in enumerate(_lines(data, "CC-500.txt", collector)[:CC500_LINES]):
            objects = coloured_pair(prompt)
            collector.add(f"cc500-{number:06d}", prompt, truth={"objects": objects} if objects else {})
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        return list(dict.fromkeys(name for name, _ in example.truth.get("objects", ())))

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        """Structured Diffusion's recipe (its issue 9): the share of pictures in which both objects are detected."""
        labels = CC500.labels(example)
        there = {d.label for d in detections if d.score > threshold}
        return {"both_objects": share(all(label in there for label in labels))} if labels else {}


def coloured_pair(prompt: str) -> list[list[str]] | None:
    """[[name, colour], [name, colour]] of "a COLOUR NAME and a COLOUR NAME", in lower case, else None."""
    match = _CONJUNCTION.fullmatch(prompt.lower())
    return [[match[2], match[1]], [match[4], match[3]]] if match else None


def _lines(data: str | Path | None, file: str, collector: Collector) -> list[str]:
    path = data_folder(data, SOURCE) / FOLDER / file
    lines = read_lines(path, SOURCE.cure)
    found = file_digest(path)
    if found != SHA256[file]:
        collector.left_out[
            f"file differs from the official one ({file}: sha256 {found}, not {SHA256[file]})"
        ] += 1
    return lines
