"""Encoders for the tests of fleets, as python:FILE:FACTORY: good ones, and such as misbehave in a fleet's midst."""

from __future__ import annotations

import os
import sys
import time

import torch
from torch import Tensor, nn


class Good(nn.Module):
    input_shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.trouble(self.layer(x.flatten(1)).relu())

    def trouble(self, features: Tensor) -> Tensor:
        return features


class NotANumber(Good):
    def trouble(self, features: Tensor) -> Tensor:
        return features / 0 * 0 if self.calls > 2 else features


class Width(Good):
    def trouble(self, features: Tensor) -> Tensor:
        return features[:, : 9 - min(self.calls, 4)]


class Hangs(Good):
    def trouble(self, features: Tensor) -> Tensor:
        if self.calls > 2:
            time.sleep(1000)
        return features


class Exits(Good):
    def trouble(self, features: Tensor) -> Tensor:
        if self.calls > 2:
            os._exit(5)
        return features


class Leaves(Good):
    def trouble(self, features: Tensor) -> Tensor:
        if self.calls > 2:
            sys.exit("enough")
        return features


class Hungry(Good):
    """Has no room for more than 16 samples."""

    def trouble(self, features: Tensor) -> Tensor:
        if len(features) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return features


class Talks(Good):
    def trouble(self, features: Tensor) -> Tensor:
        print("an encoder talks")
        return features
