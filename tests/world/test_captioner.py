"""The world's captioner: what a caption says, what the loss asks, and that the rewards read what is packed."""

import numpy as np
import pytest
import torch
from transformers import BlipForConditionalGeneration

from trueline.english.plurals import plural
from trueline.perception import load
from trueline.perception.caption_nets import load_captioner
from trueline.world import captioner, language, pack
from trueline.world.captions import caption
from trueline.world.scenes import make_scene, render
from trueline.world.training_pictures import FIRST, SHARE, Trips, disturbed
from trueline.world.vae import to_tensor
from trueline.world.workspace import Workspace


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("two red apples and a car", [("apple", "red")] * 2 + [("car", None)]),
        (
            "There are three blue striped fish, one cat in the picture",
            [("fish", "blue")] * 3 + [("cat", None)],
        ),
        ("a photo of a white book to the left of a black couch", [("book", "white"), ("couch", "black")]),
        ("an orange orange", []),
        ("two zebras and a red hat", [("hat", "red")]),
        ("a red and a blue key", [("key", "blue")]),
        ("red red , , the in", []),
        ("", []),
    ],
)
def test_what_a_caption_says(text, things):
    assert captioner.things_named(text) == things


def test_every_caption_of_the_world_is_understood():
    for i in range(60):
        scene = make_scene("test", i)
        said = caption(scene, i % 6)
        bare = said.groups[0].colour is None
        true = sorted((t.name, "" if bare else t.colour) for t in scene.things)
        assert sorted((n, c or "") for n, c in captioner.things_named(said.text)) == true, said.text


def test_captions_are_measured_by_names_colours_and_inventions():
    scene = next(
        s for s in (make_scene("test", i, 2) for i in range(99)) if s.things[0].name != s.things[1].name
    )
    first, second = scene.things
    right = caption(scene, 0).text
    other = "red" if first.colour != "red" else "blue"
    wrong = f"a {other} {first.name} and a {second.colour} {second.name}"
    much = f"two {first.colour} {plural(first.name)}"
    assert captioner.caption_accuracy([f"{first.phrase} and {second.phrase}"], [scene]) == {
        "named": 1,
        "named_and_coloured": 1,
        "invented": 0,
        "wrong": 0,
    }
    assert captioner.caption_accuracy([right], [scene])["named"] == 1
    assert captioner.caption_accuracy([wrong], [scene])["named_and_coloured"] == 0.5
    assert captioner.caption_accuracy([wrong], [scene])["named"] == 1
    assert captioner.caption_accuracy([much], [scene]) == {
        "named": 0.5,
        "named_and_coloured": 0.5,
        "invented": 0.5,
        "wrong": 0.5,
    }
    assert captioner.caption_accuracy([""], [scene])["invented"] == 1 - 0 / 1


def test_the_captions_that_teach_say_the_colours():
    rng = np.random.default_rng(0)
    silent = [
        any(g.colour is None for g in captioner.training_caption(make_scene("test", i), rng).groups)
        for i in range(200)
    ]
    assert np.mean(silent) < 0.04, "one in ten of all captions is silent"


def test_the_loss_ends_with_the_end(tokenizer):
    """Tokens behind the first end, and only those, do not count; the end itself does."""
    torch.manual_seed(0)
    net = captioner.make_captioner(tokenizer).eval()
    end = tokenizer.eos_token_id
    seen = net.vision_model(pixel_values=torch.randn(1, 3, 128, 128)).last_hidden_state
    ids = torch.tensor([[tokenizer.bos_token_id, 7, 9, end]])
    longer = torch.cat([ids, torch.full((1, 3), end)], 1)
    whole = captioner.words_loss(net, seen, ids, end)
    assert torch.allclose(captioner.words_loss(net, seen, longer, end), whole, atol=1e-6)
    logits = net.text_decoder(input_ids=ids[:, :-1], encoder_hidden_states=seen).logits[0].log_softmax(-1)
    assert torch.allclose(whole, -(logits[0, 7] + logits[1, 9] + logits[2, end]) / 3, atol=1e-6)


def test_batches_mix_renders_and_trips_and_are_the_same_again(trips):
    scenes, pictures = trips.batch(3, 120, 5)
    again = trips.batch(3, 120, 5)
    assert scenes == again[0] and np.array_equal(pictures, again[1])
    share = np.mean([s.index >= FIRST for s in scenes])
    assert abs(share - SHARE) < 0.15
    kinds = {(t.name, t.colour) for s in scenes for t in s.things}
    assert len(kinds) > 80, "of 192 names with colours"
    for scene, picture in list(zip(scenes, pictures, strict=True))[:8]:
        kept = trips.pictures[scene.index - FIRST] if scene.index >= FIRST else render(scene)
        assert np.array_equal(picture, kept)


def test_disturbed_pictures_keep_their_colours():
    pictures = to_tensor(np.stack([render(make_scene("test", i)) for i in range(40)]))
    changed = disturbed(pictures, torch.Generator().manual_seed(0))
    off = (changed - pictures).abs().mean((1, 2, 3))
    assert 8 < int((off > 0).sum()) < 32
    assert changed.abs().max() <= 1
    assert float(off.max()) < 0.15


def test_trips_are_saved_whole(trips, tmp_path):
    trips.save(tmp_path / "trips.safetensors")
    assert np.array_equal(Trips.load(tmp_path / "trips.safetensors").pictures, trips.pictures)
    assert [f.name for f in tmp_path.iterdir()] == ["trips.safetensors"]


def test_the_packed_captioner_speaks_with_and_without_gradient(tokenizer, tmp_path):
    """The same folder makes a captioner and a reward's captioner, and both see pictures alike."""
    build = Workspace(tmp_path / "build", torch.device("cpu"), smoke=True)
    tokenizer.save_pretrained(build.stage("tokenizer"))
    torch.manual_seed(0)
    made = captioner.make_captioner(tokenizer)
    assert sum(p.numel() for p in made.parameters()) < 3e6
    made.save_pretrained(build.stage("captioner") / "final")
    assert pack.pack_perception(build, tmp_path / "packed") == ["captioner"]
    folder = tmp_path / "packed" / "captioner"
    assert (folder / "model.safetensors").stat().st_size < 5e6

    reward = load_captioner(folder, longest=language.LENGTH)
    pictures = [render(make_scene("test", i)) for i in range(2)]
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures]).requires_grad_()
    said = reward.log_prob(images, ["a red apple", "a blue car and a cat"])
    ids = tokenizer("a red apple", return_tensors="pt").input_ids
    net = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    seen = net.vision_model(pixel_values=to_tensor(np.stack(pictures[:1]))).last_hidden_state
    wanted = captioner.words_loss(net, seen, ids, tokenizer.eos_token_id)
    assert said.total[0].item() == pytest.approx(-wanted.item() * (ids.shape[1] - 1), rel=1e-4)
    said.total.sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 1e-6

    from PIL import Image

    speaker = load(f"world-captioner={folder}")
    shown = [Image.fromarray(p) for p in pictures]
    pixels = to_tensor(np.stack(pictures))
    assert speaker.caption(shown) == [
        " ".join(text.split()) for text in captioner.captions_of(net, tokenizer, pixels)
    ]
    assert speaker.name == "world-captioner"


def test_a_missing_captioner_says_how_to_make_it(tmp_path):
    with pytest.raises(ValueError, match="no captioner of the world; run `trueline world build`"):
        load(f"world-captioner={tmp_path}")
