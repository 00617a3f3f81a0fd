"""SAM and SAM 2 as segmenters of boxes, against the raw output of transformers' classes."""

import json
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_look import SAM_SIDE, sam2_folder, sam_folder
from transformers import Sam2Model, SamModel, SamProcessor

from trueline.boxes import clipped
from trueline.perception import Segmenter, load
from trueline.perception.sam import BOXES, Sam, Sam2

ASKED = [[(0.0, 0.0, 0.5, 0.5), (0.2, 0.3, 0.9, 1.0)], [], [(0.1, 0.6, 0.4, 0.8)]]
KINDS = {"sam": Sam, "sam2": Sam2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("sam")
    return {"sam": sam_folder(made / "tiny-sam"), "sam2": sam2_folder(made / "tiny-sam2")}


@pytest.fixture(scope="module")
def segmenters(folders):
    return {kind: load(f"{kind}={folder}") for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_the_pictures_size_for_each_box(segmenters, pictures, kind):
    segmenter = segmenters[kind]
    assert isinstance(segmenter, Segmenter) and segmenter.name == kind
    assert f"tiny-{kind}" in segmenter.protocol
    masks = segmenter.segment(pictures, ASKED)
    assert [[mask.shape for mask in row] for row in masks] == [[(40, 60)] * 2, [], [(48, 48)]]
    assert all(mask.dtype == np.float32 and set(np.unique(mask)) <= {0, 1} for row in masks for mask in row)
    assert 0 < masks[0][0].mean() < 1
    assert segmenter.segment([], []) == []
    assert segmenter.segment(pictures, [[], [], []]) == [[], [], []]
    assert segmenter.segment([pictures[0].convert("L")], [ASKED[0][:1]])[0][0].shape == (40, 60)


def logits_of_sam(folder, picture, boxes):
    """By transformers' own processor, boxes in pixels, and its own way back to the picture."""
    net, processor = SamModel.from_pretrained(folder).eval(), SamProcessor.from_pretrained(folder)
    width, height = picture.size
    pixels = [[x0 * width, y0 * height, x1 * width, y1 * height] for x0, y0, x1, y1 in boxes]
    inputs = processor(picture, input_boxes=[pixels], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        out = net(**inputs)
    return processor.image_processor.post_process_masks(
        out.pred_masks, *sizes, binarize=False
    ), out.iou_scores[0]


def logits_of_sam2(folder, picture, boxes):
    """By hand: squeezed to the square with PIL, ImageNet's mean and deviation, boxes in pixels of the square."""
    net = Sam2Model.from_pretrained(folder).eval()
    squeezed = np.asarray(picture.resize((SAM_SIDE, SAM_SIDE), 2), dtype=np.float32) / 255
    pixels = (squeezed - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        out = net(
            torch.tensor(pixels).permute(2, 0, 1)[None].float(),
            input_boxes=torch.tensor([boxes]) * SAM_SIDE,
        )
    whole = F.interpolate(out.pred_masks[0], picture.size[::-1], mode="bilinear")
    return [whole], out.iou_scores[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [0, 1])
def test_the_best_of_three_masks_is_that_of_transformers(
    folders, segmenters, pictures, kind, which, monkeypatch
):
    logits, scores = {"sam": logits_of_sam, "sam2": logits_of_sam2}[kind](
        folders[kind], pictures[which], ASKED[0]
    )
    wanted = torch.stack([logits[0][k, scores[k].argmax()] for k in range(2)])
    assert float((wanted[0] - wanted[1]).abs().max()) > 1e-3, "the box matters"
    segmenter = segmenters[kind]
    hard = segmenter.segment([pictures[which]], ASKED[:1])[0]
    monkeypatch.setattr(segmenter, "soft", True)
    soft = segmenter.segment([pictures[which]], ASKED[:1])[0]
    torch.testing.assert_close(torch.tensor(np.stack(soft)), wanted.sigmoid(), atol=1e-4, rtol=0)
    for mask, one in zip(hard, wanted.numpy(), strict=True):
        clear = np.abs(one) > 1e-3
        assert (mask[clear] == (one > 0)[clear]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_encoded_once_and_only_if_it_has_a_box(segmenters, pictures, kind):
    segmenter, rows = segmenters[kind], []
    many = [(0.01 * k, 0.0, 0.5, 0.5 + 0.01 * k) for k in range(BOXES + 3)]
    handle = segmenter.model.vision_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    try:
        together = segmenter.segment([*pictures, pictures[0]], [many, [], ASKED[2], [(0.5, 0.5, 0.5, 0.9)]])
        assert sum(rows) == 2
    finally:
        handle.remove()
    assert [len(row) for row in together] == [len(many), 0, 1, 1]
    assert not together[3][0].any()  # a box without area
    alone = [segmenter.segment(pictures[:1], [[box]])[0][0] for box in (many[0], many[-1])]
    for mask, one in zip((together[0][0], together[0][-1]), alone, strict=True):
        assert (mask != one).mean() < 0.01  # but for rounding, a mask does not depend on the boxes beside it


@pytest.mark.parametrize("kind", KINDS)
def test_the_single_mask_and_the_least_iou_are_settings(folders, segmenters, pictures, kind):
    single = KINDS[kind](folders[kind], multimask=False, soft=True)
    assert "single" in single.protocol
    embedding = single._embed(torch.rand(1, 3, SAM_SIDE, SAM_SIDE))[0]
    box = torch.tensor([[[0.2, 0.3, 0.9, 1.0]]])
    with torch.no_grad():
        shown = single.model(image_embeddings=embedding, input_boxes=box * SAM_SIDE, multimask_output=False)
    assert shown.pred_masks.shape[:3] == (1, 1, 1)
    drawn = single._draw(embedding, box[0].tolist(), (SAM_SIDE, SAM_SIDE))
    torch.testing.assert_close(drawn[0], shown.pred_masks[0, 0, 0])
    single.least = 1e6
    assert not any(mask.any() for mask in single.segment(pictures[:1], ASKED[:1])[0])


@pytest.mark.parametrize(("kind", "dtype"), [("sam", "bfloat16"), ("sam2", "float16")])
def test_half_precision_gives_almost_the_same_masks(folders, segmenters, pictures, kind, dtype):
    half = load(f"{kind}={folders[kind]}", dtype=dtype).segment(pictures, ASKED)
    exact = segmenters[kind].segment(pictures, ASKED)
    for mask, one in zip(chain(*half), chain(*exact), strict=True):
        assert mask.dtype == np.float32 and (mask != one).mean() < 0.1


def test_boxes_are_cut_at_the_pictures_edge_and_checked(segmenters, pictures):
    assert clipped((-1, 0.2, 0.5, 7)) == (0.0, 0.2, 0.5, 1.0)
    assert clipped((0.5, 0.2, 0.5, 0.9)) is None
    assert clipped((0.9, 0.2, 0.5, 0.9)) is None
    assert clipped((1.5, 0.2, 1.7, 0.9)) is None
    for box in ((0.1, 0.2, float("nan"), 0.9), (0.1, 0.2, 0.3)):
        with pytest.raises(ValueError, match="four finite numbers"):
            segmenters["sam"].segment(pictures[:1], [[box]])
    with pytest.raises(ValueError, match="for each picture"):
        segmenters["sam"].segment(pictures, [[]])


def test_masks_that_are_no_numbers_are_an_error(folders, pictures):
    segmenter = load(f"sam={folders['sam']}")
    with torch.no_grad():
        segmenter.model.mask_decoder.mask_tokens.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite; use dtype"):
        segmenter.segment(pictures[:1], ASKED[:1])


def test_another_kind_of_checkpoint_is_refused(folders, clip_folder, tmp_path):
    for name, problem in (
        (f"sam={folders['sam2']}", "is a sam2, not a SAM; give a checkpoint of SAM"),
        (f"sam2={folders['sam']}", "is a sam, not a SAM 2"),
        (f"sam2={clip_folder}", "is a clip, not a SAM 2"),
        (f"sam={tmp_path}", r"config\.json of .* cannot be read"),
        ("sam2", "needs a checkpoint"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            load(name, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_the_picture_half_of_a_video_checkpoint_is_read(folders, segmenters, pictures, tmp_path):
    """The Hub's SAM 2 checkpoints are of the video model: their config says so, and they hold more weights."""
    folder = shutil.copytree(folders["sam2"], tmp_path / "video")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}))
    masks = load(f"sam2={folder}").segment(pictures[:1], ASKED[:1])
    assert all(
        (mask == one).all()
        for mask, one in zip(masks[0], segmenters["sam2"].segment(pictures[:1], ASKED[:1])[0], strict=True)
    )
