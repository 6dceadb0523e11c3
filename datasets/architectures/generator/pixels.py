"""Networks with an output for every pixel or column: segmentation, text, super-resolution, style transfer."""

from __future__ import annotations

from collections.abc import Iterator

from mobile import V2_STAGES, V3_LARGE, inverted_residual, mobilenet_v2_body
from network import Network, divisible


def crnn() -> Network:
    n = Network(
        "crnn",
        "An End-to-End Trainable Network for Image-based Sequence Recognition, arXiv:1507.05717; convolutions",
        None,
        32,
        100,
        1,
    )
    n.conv(64, 3).pool(2).conv(128, 3).pool(2).conv(256, 3).conv(256, 3).pool((2, 2), (2, 1), padding=(0, 1))
    n.conv(512, 3).conv(512, 3).pool((2, 2), (2, 1), padding=(0, 1))
    return n.conv(512, 2, padding=0).conv(37)


def text_detector() -> Network:
    n = Network(
        "dbnet_mobilenet_v3_640",
        "PP-OCR: A Practical Ultra Lightweight OCR System, arXiv:2009.09941; detector, MobileNetV3-large x0.5",
        None,
        640,
        640,
    )
    n.conv(8, 3, 2)
    levels = []
    for index, (kernel, hidden, out, _, stride) in enumerate(V3_LARGE):
        if stride == 2 and index > 1:
            levels.append(n.branch())
        inverted_residual(n, divisible(hidden / 2), divisible(out / 2), kernel, stride)
    levels.append(n.conv(480).branch())
    for level in levels:
        level.conv(96)
        level.conv(24, 3)
    n.height = n.width = 160
    n.channels = 96
    return n.conv(24, 3)


def fsrcnn() -> Network:
    n = Network(
        "fsrcnn",
        "Accelerating the Super-Resolution CNN, arXiv:1608.00367; 180x320, without the deconvolution",
        None,
        180,
        320,
        1,
    )
    n.conv(56, 5).conv(12)
    for _ in range(4):
        n.conv(12, 3)
    return n.conv(56)


def espcn() -> Network:
    n = Network(
        "espcn_x3",
        "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN, arXiv:1609.05158; 180x320",
        None,
        180,
        320,
        1,
    )
    return n.conv(64, 5).conv(32, 3).conv(9, 3)


def edsr() -> Network:
    n = Network(
        "edsr_baseline_x2",
        "Enhanced Deep Residual Networks for Single Image Super-Resolution, arXiv:1707.02921; 96x96",
        None,
        96,
        96,
    )
    n.conv(64, 3)
    for _ in range(16):
        n.conv(64, 3).conv(64, 3)
    n.conv(64, 3).conv(256, 3)
    n.channels = 64
    return n.resize(2).conv(3, 3)


def style_transfer() -> Network:
    n = Network(
        "style_transfer_256",
        "Perceptual Losses for Real-Time Style Transfer and Super-Resolution, arXiv:1603.08155",
        None,
        256,
        256,
    )
    n.conv(32, 9).conv(64, 3, 2).conv(128, 3, 2)
    for _ in range(5):
        n.conv(128, 3).conv(128, 3)
    return n.resize(2).conv(64, 3).resize(2).conv(32, 3).conv(3, 9)


def unet() -> Network:
    n = Network(
        "unet_32_256",
        "U-Net: Convolutional Networks for Biomedical Image Segmentation, arXiv:1505.04597; half the channels",
        None,
        256,
        256,
        1,
    )
    kept = []
    for width in (32, 64, 128, 256):
        n.conv(width, 3).conv(width, 3)
        kept.append(n.branch())
        n.pool(2)
    n.conv(512, 3).conv(512, 3)
    for side in reversed(kept):
        width = side.channels
        n.resize(2).conv(width, 2, padding=0)
        n.concat(side, side).conv(width, 3).conv(width, 3)
    return n.conv(2)


def deeplab() -> Network:
    n = Network(
        "deeplabv3_mobilenet_v2_513",
        "Rethinking Atrous Convolution for Semantic Segmentation, arXiv:1706.05587; MobileNetV2, stride 16",
        None,
        513,
        513,
    )
    mobilenet_v2_body(n, V2_STAGES[:5])
    for out, count in ((160, 3), (320, 1)):  # dilation in place of the last stride
        for index in range(count):
            inverted_residual(n, n.channels * 6, out, 3, 1, dilation=1 if out == 160 and not index else 2)
    for rate in (6, 12, 18):
        n.branch().conv(256, 3, dilation=rate)
    n.branch().vector().conv(256)
    n.conv(256)
    n.channels = 5 * 256
    return n.conv(256).conv(21)


def erfnet() -> Network:
    n = Network(
        "erfnet_512x256",
        "ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation, Romera et al. 2018",
        None,
        256,
        512,
    )

    def residual(*dilations: int) -> None:
        width = n.channels
        for rate in dilations:
            n.conv(width, (3, 1)).conv(width, (1, 3))
            n.conv(width, (3, 1), dilation=(rate, 1)).conv(width, (1, 3), dilation=(1, rate))

    for out in (16, 64):  # a strided convolution beside a pooling
        n.conv(out - n.channels, 3, 2)
        n.channels = out
    residual(1, 1, 1, 1, 1)
    n.conv(64, 3, 2)
    n.channels = 128
    residual(2, 4, 8, 16, 2, 4, 8, 16)
    for width in (64, 16):  # after transposed convolutions
        n.resize(2)
        n.channels = width
        residual(1, 1)
    return n


def nets() -> Iterator[Network]:
    """All networks of this file."""
    yield from (crnn(), text_detector(), fsrcnn(), espcn(), edsr(), style_transfer(), unet(), deeplab(), erfnet())
