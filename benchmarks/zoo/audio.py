"""Audio networks: waveforms [B, 1, length] of any offset and scale to features [B, F]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo import onnx_graph
from zoo.fetch import one_file
from zoo.graph import Conv, pooled
from zoo.networks import state_dict


def standardised(x: Tensor) -> Tensor:
    """Each waveform less its mean, in units of its deviation; zeros where it is constant."""
    x = x - x.mean(-1, keepdim=True)
    return x / x.std(-1, keepdim=True).clamp_min(1e-10)


class Crepe(nn.Module):
    """CREPE (Kim et al., arXiv 1802.06182): 1 024 samples at 16 kHz; its sixth layer, mean over positions."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(1, 7):
            weight = weights[f"conv{number}.weight"]
            stride, padding = ((4, 1), (0, 0, 254, 254)) if number == 1 else ((1, 1), (0, 0, 31, 32))
            norm = nn.BatchNorm2d(len(weight), eps=0.0010000000474974513)
            norm.load_state_dict(
                {key: weights[f"conv{number}_BN.{key}"] for key in norm.state_dict() if key in ("weight", "bias", "running_mean", "running_var")},
                strict=False,
            )  # fmt: skip
            convolution = Conv(weight, weights[f"conv{number}.bias"], stride=stride, padding=padding)
            self.layers.append(nn.Sequential(convolution, nn.ReLU(), norm, nn.MaxPool2d((2, 1))))

    def forward(self, x: Tensor) -> Tensor:
        x = standardised(x)[..., None]
        for layer in self.layers:
            x = layer(x)
        return pooled(x)


def crepe(file: Path) -> nn.Module:
    return Crepe(state_dict(file))


class SpeechEmbedding(nn.Module):
    """Google's speech embedding (Lin et al., arXiv 2002.01322): 12 512 samples at 16 kHz to 96 features.

    76 frames of a mel spectrogram in 32 bands, in decibels and at most 80 below their largest, then a convolutional
    network. A waveform is brought to a tenth of the full scale of 16 bits first.
    """

    def __init__(self, spectrogram: Path, network: Path) -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        held = {
            one.name: np.array(numpy_helper.to_array(one))
            for one in onnx.load(str(spectrogram)).graph.initializer
        }
        waves = np.concatenate([held["0.stft.conv_real.weight"], held["0.stft.conv_imag.weight"]])
        self.register_buffer("waves", torch.from_numpy(waves))
        self.register_buffer("bands", torch.from_numpy(held["1.melW"]))
        self.network = onnx_graph.load(network, "conv2d_19", pool=False)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.nn.functional.conv1d(standardised(x) * 3276.8, self.waves, stride=160).square()
        power = (spectrum[:, :257] + spectrum[:, 257:]).transpose(1, 2) @ self.bands
        decibels = 10 * power.clamp_min(1e-10).log10()
        decibels = torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - 80)
        return self.network(decibels[..., None] / 10 + 2).flatten(1)


def speech_embedding(cache: Path) -> nn.Module:
    spectrogram, network = (one_file("openwakeword", cache, f"{one}.onnx") for one in ("melspectrogram", "embedding_model"))  # fmt: skip
    return SpeechEmbedding(spectrogram, network)
