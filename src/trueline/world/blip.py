"""What the world's two BLIPs, captioner and matcher, share: their size, and the head that helps to train them."""

from typing import Any

from torch import Tensor, nn
from transformers import BlipConfig, CLIPTokenizer

from trueline.world.clip import CLASSES, PATCH
from trueline.world.scenes import SIZE

WIDTH = 128
VARIANTS = 6  #: captions of one scene
POSITIONS = 80  #: of the text: more than captions have, since users may score longer texts


def blip_config(tokenizer: CLIPTokenizer) -> BlipConfig:
    """The size of the world's BLIPs, whose words are ``tokenizer``'s; ``<|endoftext|>`` is what BERT's call [SEP]."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    end = tokenizer.eos_token_id
    text = {
        **shape,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": WIDTH,
        "max_position_embeddings": POSITIONS,
        "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        **dict.fromkeys(("eos_token_id", "sep_token_id", "pad_token_id"), end),
    }
    # BLIP's own start for the vision half, 1e-10, is for weights read from elsewhere: no gradient would pass.
    vision = {"num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH, "initializer_range": 0.02}
    return BlipConfig(
        text_config=text, vision_config=shape | vision, projection_dim=WIDTH, image_text_hidden_size=WIDTH
    )


def picture_states(net: Any, pixels: Tensor) -> Tensor:
    """The vision half's states of ``pixels`` (batch, 3, SIZE, SIZE) in -1..1: (batch, patches + 1, WIDTH)."""
    return net.vision_model(pixel_values=pixels).last_hidden_state


class BlipWithHeads(nn.Module):
    """A BLIP and a head that says what covers each patch; the head is thrown away after training.

    As for the world's CLIP, supervision of every patch teaches a small vision transformer in minutes.
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        self.patch = nn.Linear(WIDTH, sum(CLASSES))
