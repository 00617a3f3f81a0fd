"""What the alignment net reads: shares of captions and labels found, by nets whose answers are known."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trueline.layout import Layout, Region
from trueline.models.alignment import Aligned, AlignmentNet
from trueline.world.language import all_phrases

STUDIES = Path(__file__).parents[2] / "studies"
SCRIPT = STUDIES / "hcma_retrieval.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(STUDIES))
    try:
        yield importlib.import_module(SCRIPT.stem)
    finally:
        sys.path.remove(str(STUDIES))
        for name in (SCRIPT.stem, "_common"):
            sys.modules.pop(name, None)


class Oracle:
    """Each text is a direction of its own; ``answer`` turns the right features into what the net would see."""

    def __init__(self, answer, layouts):
        self.answer, self.layouts, self.known, self.calls = answer, layouts, {}, []

    def text_targets(self, _backbone, texts):
        places = [self.known.setdefault(text, len(self.known)) for text in texts]
        return torch.nn.functional.one_hot(torch.tensor(places), 1024).float()

    def __call__(self, z, t, boxes, present):
        start = sum(len(z) for z, _ in self.calls)
        self.calls.append((z, t))
        own = self.layouts[start : start + len(z)]
        globe = self.text_targets(
            None, [self.answer("caption", i, layout.prompt) for i, layout in enumerate(own)]
        )
        local = torch.zeros(*present.shape, 1024)
        for row, layout in enumerate(own):
            said = [self.answer("label", i, region.phrase) for i, region in enumerate(layout.regions)]
            if said:
                local[row, : len(said)] = self.text_targets(None, said)
        return Aligned(3 * globe, 0.2 * local)


def layouts(count: int) -> list[Layout]:
    """One of three has two boxes, one has one, one has none; their prompts are all different."""
    phrases = all_phrases()
    return [
        Layout(
            f"number {i}",
            [Region(phrases[(7 * i + j) % len(phrases)], (0, 0, 0.5, 0.5)) for j in range(i % 3)],
        )
        for i in range(count)
    ]


def shares(script, answer, some: list[Layout]):
    """The net, and the two shares that were found by it."""
    net, half = Oracle(answer, some), torch.tensor(0.5).sqrt()
    backbone = SimpleNamespace(device="cpu", noise_level=lambda t: (half, half))
    latents = torch.arange(len(some), dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 8, 8)
    return net, script.retrieval(net, backbone, latents, some, 250)


def as_it_is(_what: str, _place: int, text: str) -> str:
    return text


def test_what_the_net_says_is_counted(script):
    """All right; then each 64's second caption, and the second label of each picture with two, is another's."""
    net, (caption, label) = shares(script, as_it_is, layouts(128))
    assert (caption.name, label.name) == ("caption_among_64", "label_among_all")
    assert caption.mean == label.mean == caption.low == label.high == 1
    assert (caption.n, label.n) == (128, sum(len(layout.regions) for layout in layouts(128)))
    assert [len(z) for z, _ in net.calls] == [64, 64] and all((t == 250).all() for _, t in net.calls)
    noise = torch.randn(128, 4, 8, 8, generator=torch.Generator().manual_seed(250))
    assert torch.allclose(
        net.calls[1][0], 0.5**0.5 * (torch.arange(64.0, 128).view(-1, 1, 1, 1) + noise[64:])
    )

    def wrong(what: str, place: int, text: str) -> str:
        if what == "caption":
            return "number 0" if place == 1 else text
        return "a zebra" if place == 1 else text

    _, (caption, label) = shares(script, wrong, layouts(128))
    assert caption.mean == pytest.approx(126 / 128)
    boxes = [len(layout.regions) for layout in layouts(128)]
    assert (
        label.mean == pytest.approx(sum(map(bool, boxes)) / sum(boxes))
        and label.low < label.mean < label.high
    )


def test_captions_that_are_the_same_are_both_right(script):
    some = [Layout("the same", [Region("cat", (0, 0, 1, 1))])] * 64
    _, (caption, label) = shares(script, as_it_is, some)
    assert caption.mean == 1 and label.mean == 0, "a cat is no phrase of the world"


def test_an_untrained_net_finds_hardly_any(script, gated):
    torch.manual_seed(0)
    net = AlignmentNet.for_backbone(gated, patch=2, width=16, depth=1, heads=2).eval()
    latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for found in script.retrieval(net, gated, latents, layouts(64), 500):
        assert 0 <= found.low <= found.mean <= found.high < 0.2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "0"], "--n: must be 64, the captions to choose from, or a multiple of it (got 0)"),
        (["--n", "32"], "--n: must be 64"),
        (["--n", "100"], "--n: must be 64"),
        (["--n", "many"], "--n: invalid int value: 'many'; see hcma_retrieval.py --help"),
        (["--weights", "nowhere"], "nowhere is no alignment net: it has no config.json"),
    ],
)
def test_bad_options_are_one_sentence(script, arguments, said):
    with pytest.raises(ValueError) as raised:
        script.main(arguments)
    assert str(raised.value).startswith(said)


def test_a_net_of_another_model_is_refused(script, tmp_path):
    AlignmentNet(
        sample_size=8, patch=2, text_width=6, text_features=5, width=8, depth=1, heads=2
    ).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"--weights: the net in .* is for latents of 4 x 8 x 8, not 4 x 16 x 16"
    ):
        script.main(["--weights", str(tmp_path)])


def test_as_a_script_it_says_one_line():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--weights", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere is no alignment net")
    assert len(done.stderr.strip().splitlines()) == 1
