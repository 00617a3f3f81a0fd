"""Inception-v3 features for FID and KID: the network that TensorFlow's FID used, as torch-fidelity carries it.

Two protocols that differ in how a picture becomes 299 x 299, and whose distances must not be compared:

* ``inception-tf``: TensorFlow 1's bilinear resize, on the tensor, without antialiasing (pytorch-fid comes close).
* ``clean``: PIL's bicubic resize with antialiasing first (Parmar et al., "On Aliased Resizing", 2022). The network
  takes whole numbers here, so the resized picture is rounded to 0..255; clean-fid keeps the fractions.

Both need the extra ``fid`` and the weights as a file (``weights-inception-2015-12-05-6726825d.pth`` of
torch-fidelity's release v0.2.0). clean-fid's own weights are TorchScript, which is code, and are refused.
"""

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trueline.models.pretrained import Dtype, batched, rgb

SIDE = 299
BATCH = 32


class Inception:
    """2048 features of the last pooling layer: ``features`` is (n, 2048), always computed in float32."""

    def __init__(
        self,
        weights: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        resize: Literal["tf", "clean"] = "tf",
        **files: Any,
    ):
        del dtype, files  # published distances are those of float32, and the weights are a file
        self.model = _network(_weights(Path(weights))).to(device)
        self.device, self.resize = device, resize
        self.name = "clean" if resize == "clean" else "inception-tf"
        how = "PIL bicubic, rounded" if resize == "clean" else "TensorFlow 1 bilinear"
        self.protocol = f"{Path(weights).name}, {how} to {SIDE} x {SIDE}"

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        # One at a time if sizes differ: the network resizes whole batches.
        one_size = self.resize == "clean" or len({image.size for image in images}) <= 1
        return batched(self._features, images, size=BATCH if one_size else 1)

    @torch.inference_mode()
    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        pictures = rgb(images)
        if self.resize == "clean":
            pictures = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in pictures]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in pictures])).permute(0, 3, 1, 2)
        return self.model(pixels.to(self.device))[0]


def clean(weights: str, *settings: Any, **more: Any) -> Inception:
    return Inception(weights, *settings, resize="clean", **more)


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a .pth that holds nothing but tensors.

    Raises:
        ValueError: the file is missing, TorchScript, or holds more than tensors.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; give torch-fidelity's weights-inception-2015-12-05-6726825d.pth (its GitHub "
            "release v0.2.0) or a safetensors copy of it"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        raise ValueError(f"{path} is TorchScript, which is code; give torch-fidelity's weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors have no common base
        raise ValueError(
            f"{path} holds more than tensors or is damaged; fetch torch-fidelity's weights"
        ) from error


def _network(state: dict[str, Tensor]) -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(
            'Inception features need the package torch-fidelity; install it with pip install "trueline[fid]"'
        ) from None
    # torch-fidelity unpickles the file it is given; it gets one that was written here, from checked tensors.
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, checked := str(Path(folder) / "inception.pth"))
        try:
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=checked
            )
        except RuntimeError as error:
            raise ValueError(
                "the weights are not those of TensorFlow's Inception-v3; give torch-fidelity's file "
                f"({str(error).splitlines()[0]})"
            ) from error
