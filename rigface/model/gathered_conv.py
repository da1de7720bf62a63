"""Wide convolutions over few pixels as one matrix product, which is faster on a CPU in the depth of a large UNet.

Path: `RigFacePipeline` on a CPU -> `gather(model)` -> the same layers, the same weights, the same numbers.

At 8 x 8 latent pixels a layer of 1280 to 1280 channels has 230,000 weights per pixel: loading them is the cost, and
torch's convolution rearranges all of them at every call. Nine shifted copies of the few pixels need no rearranging of
weights: in channels-last order a weight tensor is the matrix already. Measured by benchmarks/convolution.py; the whole
step by benchmarks/model_step.py. At 32 x 32 pixels torch's convolution is faster and stays.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS_PER_PIXEL = 40_000
"""From here on gathering pixels is cheaper than rearranging weights (float32, bfloat16; 8 to 32 px; 1 and 2 rows)."""

_PLAIN = ((3, 3), (1, 1), (1, 1), (1, 1), 1)  # kernel, stride, padding, dilation and groups
MIN_PIXELS = 64
"""8 x 8, the depth of a UNet at 512 px. Layers that would not gather even there stay as they are: single layers in
channels-last order took up to a seventh longer."""


class GatheredConv2d(nn.Conv2d):
    """A 3 x 3 convolution that is a matrix product if its input is small."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w), as `nn.Conv2d` would."""
        pixels = input.shape[0] * input.shape[2] * input.shape[3]
        if torch.is_grad_enabled() or input.device.type != "cpu" or self.weight.numel() < WEIGHTS_PER_PIXEL * pixels:
            return super().forward(input)
        rows, _, height, width = input.shape
        padded = F.pad(input, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        matrix = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)  # no copy in channels-last order
        out = F.linear(torch.cat(shifted, dim=-1).reshape(pixels, -1), matrix, self.bias)
        return out.reshape(rows, height, width, -1).permute(0, 3, 1, 2)


def gather(network: nn.Module) -> None:
    """Replace the wide 3 x 3 convolutions of a network by `GatheredConv2d`, in place."""
    for layer in network.modules():
        if type(layer) is not nn.Conv2d:
            continue
        shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        if shape == _PLAIN and layer.weight.numel() >= WEIGHTS_PER_PIXEL * MIN_PIXELS:
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
            layer.__class__ = GatheredConv2d  # names, weights and hooks stay; so do checkpoints
