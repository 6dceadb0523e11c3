"""Networks for phones and smaller machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from network import Network, divisible


def mobilenet_v1(name: str, macs: float, scale: float, size: int, channels: int = 3, classes: int = 1000) -> Network:
    n = Network(
        name,
        "MobileNets: Efficient CNNs for Mobile Vision Applications, arXiv:1704.04861",
        macs,
        size,
        size,
        channels,
        True,
    )
    n.conv(int(32 * scale), 3, 2)
    mobilenet_v1_body(n, scale)
    return n.classifier(classes)


def mobilenet_v1_body(n: Network, scale: float) -> None:
    for out, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        n.separable(int(out * scale), 3, stride)


V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def inverted_residual(
    n: Network, hidden: int, out: int, kernel: int, stride: int, squeezed: int = 0, dilation: int = 1
) -> None:
    """1×1 up, depthwise, squeeze-excite if any, 1×1 down."""
    if hidden != n.channels:
        n.conv(hidden)
    n.depthwise(kernel, stride, dilation=dilation)
    if squeezed:
        n.squeeze_excite(squeezed)
    n.conv(out)


def mobilenet_v2_body(n: Network, stages: Sequence[tuple[int, int, int, int]] = V2_STAGES) -> None:
    n.conv(32, 3, 2)
    for expansion, out, count, stride in stages:
        for index in range(count):
            inverted_residual(n, n.channels * expansion, out, 3, 1 if index else stride)


def mobilenet_v2() -> Network:
    n = Network(
        "mobilenet_v2", "MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381", 300e6, 224, 224
    )
    mobilenet_v2_body(n)
    return n.conv(1280).classifier()


V3_LARGE = (  # kernel, hidden, out, squeeze-excite, stride
    (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
)  # fmt: skip
V3_SMALL = (
    (3, 16, 16, 1, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 1, 2), (5, 240, 40, 1, 1), (5, 240, 40, 1, 1),
    (5, 120, 48, 1, 1), (5, 144, 48, 1, 1), (5, 288, 96, 1, 2), (5, 576, 96, 1, 1), (5, 576, 96, 1, 1),
)  # fmt: skip


def mobilenet_v3(name: str, macs: float, rows: Sequence[tuple[int, ...]], last: int, dense: int) -> Network:
    n = Network(name, "Searching for MobileNetV3, arXiv:1905.02244", macs, 224, 224)
    n.conv(16, 3, 2)
    for kernel, hidden, out, excite, stride in rows:
        inverted_residual(n, hidden, out, kernel, stride, divisible(hidden / 4) if excite else 0)
    return n.conv(last).vector().conv(dense).conv(1000)


EFFICIENT = (  # expansion, out, count, stride, kernel
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip


def efficientnet(
    name: str, macs: float | None, size: int, width: float = 1, depth: float = 1, lite: bool = False
) -> Network:
    source = "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946"
    n = Network(name, source + ("; the Lite variant of its repository" if lite else ""), macs, size, size, 3, True)
    n.conv(divisible(32 * width), 3, 2)
    efficientnet_body(n, width, depth, lite)
    return n.conv(divisible(1280 * width)).classifier()


def efficientnet_body(n: Network, width: float, depth: float, lite: bool) -> None:
    for stage, (expansion, out, count, stride, kernel) in enumerate(EFFICIENT):
        fixed = lite and stage in (0, len(EFFICIENT) - 1)
        for index in range(count if fixed else math.ceil(count * depth)):
            squeezed = 0 if lite else max(1, n.channels // 4)
            inverted_residual(
                n, n.channels * expansion, divisible(out * width), kernel, 1 if index else stride, squeezed
            )


def mnasnet() -> Network:
    n = Network(
        "mnasnet1_0",
        "MnasNet: Platform-Aware Neural Architecture Search for Mobile, arXiv:1807.11626; B1",
        315e6,
        224,
        224,
    )
    n.conv(32, 3, 2).separable(16)
    for kernel, expansion, out, count, stride in (
        (3, 3, 24, 3, 2), (5, 3, 40, 3, 2), (5, 6, 80, 3, 2), (3, 6, 96, 2, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1)
    ):  # fmt: skip
        for index in range(count):
            inverted_residual(n, n.channels * expansion, out, kernel, 1 if index else stride)
    return n.conv(1280).classifier()


def proxylessnas() -> Network:
    n = Network(
        "proxylessnas_mobile", "ProxylessNAS: Direct Neural Architecture Search, arXiv:1812.00332", 320e6, 224, 224
    )
    n.conv(32, 3, 2)
    for kernel, expansion, out, stride in (
        (3, 1, 16, 1), (5, 3, 32, 2), (3, 3, 32, 1), (7, 3, 40, 2), (3, 3, 40, 1), (5, 3, 40, 1), (5, 3, 40, 1),
        (7, 6, 80, 2), (5, 3, 80, 1), (5, 3, 80, 1), (5, 3, 80, 1), (5, 6, 96, 1), (5, 3, 96, 1), (5, 3, 96, 1),
        (5, 3, 96, 1), (7, 6, 192, 2), (7, 6, 192, 1), (7, 3, 192, 1), (7, 3, 192, 1), (7, 6, 320, 1),
    ):  # fmt: skip
        inverted_residual(n, n.channels * expansion, out, kernel, stride)
    return n.conv(1280).classifier()


def squeezenet(version: str, macs: float) -> Network:
    n = Network(
        f"squeezenet{version.replace('.', '_')}",
        "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, arXiv:1602.07360",
        macs,
        224,
        224,
    )
    old = version == "1.0"
    n.conv(96 if old else 64, 7 if old else 3, 2, padding=0).pool(ceil=True)
    for index, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        n.conv(squeezed)
        n.concat(n.branch().conv(4 * squeezed), n.branch().conv(4 * squeezed, 3))
        if index in ((4, 8) if old else (3, 5)):
            n.pool(ceil=True)
    return n.conv(1000)


def shufflenet_v1() -> Network:
    n = Network(
        "shufflenet_v1_g3",
        "ShuffleNet: An Extremely Efficient CNN for Mobile Devices, arXiv:1707.01083",
        137e6,
        224,
        224,
    )
    n.conv(24, 3, 2).pool(padding=1)
    for stage, (out, count) in enumerate(((240, 4), (480, 8), (960, 4))):
        for index in range(count):
            entering = n.channels if not index else 0  # concatenated with the pooled input
            n.conv(out // 4, groups=1 if stage == index == 0 else 3).depthwise(3, 1 if index else 2)
            n.conv(out - entering, groups=3)
            n.channels = out
    return n.classifier()


def shufflenet_v2(name: str, macs: float, widths: tuple[int, int, int]) -> Network:
    n = Network(
        name,
        "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv:1807.11164",
        macs,
        224,
        224,
    )
    n.conv(24, 3, 2).pool(padding=1)
    for width, count in zip(widths, (4, 8, 4), strict=True):
        half = width // 2
        n.concat(n.branch().separable(half, 3, 2), n.branch().conv(half).separable(half, 3, 2))
        for _ in range(count - 1):
            path = n.branch()
            path.channels = half
            path.conv(half).separable(half)
    return n.conv(1024).classifier()


GHOST = (  # kernel, hidden, out, squeeze-excite, stride
    (3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1),
    (5, 672, 160, 1, 2), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1),
)  # fmt: skip


def ghostnet() -> Network:
    def ghost(n: Network, out: int) -> None:
        """Half of the channels by 1×1, the other half from those by a cheap depthwise 3×3."""
        n.conv(math.ceil(out / 2)).depthwise(3)
        n.channels = out

    n = Network("ghostnet", "GhostNet: More Features from Cheap Operations, arXiv:1911.11907", 141e6, 224, 224)
    n.conv(16, 3, 2)
    for kernel, hidden, out, excite, stride in GHOST:
        if stride > 1 or n.channels != out:
            n.branch().separable(out, kernel, stride)
        ghost(n, hidden)
        if stride > 1:
            n.depthwise(kernel, stride)
        if excite:
            n.squeeze_excite(divisible(hidden / 4, 4))
        ghost(n, out)
    return n.conv(960).vector().conv(1280).conv(1000)


def mobileone_s0() -> Network:
    n = Network(
        "mobileone_s0",
        "MobileOne: An Improved One millisecond Mobile Backbone, arXiv:2206.04040; branches merged",
        275e6,
        224,
        224,
    )
    n.conv(48, 3, 2)
    for out, count in ((48, 2), (128, 8), (256, 10), (1024, 1)):
        for index in range(count):
            n.separable(out, 3, 1 if index else 2)
    return n.classifier()


def mobilefacenet() -> Network:
    n = Network(
        "mobilefacenet",
        "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification, arXiv:1804.07573",
        221e6,
        112,
        112,
    )
    n.conv(64, 3, 2).depthwise(3)
    for expansion, out, count, stride in (
        (2, 64, 5, 2),
        (4, 128, 1, 2),
        (2, 128, 6, 1),
        (4, 128, 1, 2),
        (2, 128, 2, 1),
    ):
        for index in range(count):
            inverted_residual(n, n.channels * expansion, out, 3, 1 if index else stride)
    return n.conv(512).depthwise(7, padding=0).conv(128)


def nasnet_mobile() -> Network:
    n = Network(
        "nasnet_a_mobile",
        "Learning Transferable Architectures for Scalable Image Recognition, arXiv:1707.07012",
        564e6,
        224,
        224,
    )

    def separable(x: Network, out: int, kernel: int, stride: int = 1) -> None:
        x.branch().separable(out, kernel, stride).separable(out, kernel)

    def cell(previous: Network, width: int, reduction: bool) -> Network:
        """One cell; returns its input, which the cell after the next one reads."""
        given = n.branch()
        if (previous.height, previous.width) != (n.height, n.width):
            # factorized reduction: two strided 1×1, half of the channels each
            previous = previous.branch()
            for out in (width // 2, width - width // 2):
                half = previous.branch().conv(out, 1, 2)
            previous.height, previous.width = half.height, half.width
        else:
            previous.branch().conv(width)
        left, right = previous.branch(), n.branch().conv(width)
        left.channels = width
        if reduction:
            separable(right, width, 5, 2)
            for kernel in (7, 7, 5):
                separable(left, width, kernel, 2)
            after = right.branch()
            after.height, after.width = math.ceil(right.height / 2), math.ceil(right.width / 2)
            separable(after, width, 3)
            n.height, n.width, n.channels = after.height, after.width, 4 * width
        else:
            for tensor, kernel in ((right, 5), (left, 3), (left, 5), (left, 3), (right, 3)):
                separable(tensor, width, kernel)
            n.channels = 6 * width
        return given

    n.conv(32, 3, 2, padding=0)
    previous = cell(n.branch(), 11, True)
    previous = cell(previous, 22, True)
    for stage, width in enumerate((44, 88, 176)):
        if stage:
            previous = cell(previous, width, True)
        for _ in range(4):
            previous = cell(previous, width, False)
    return n.classifier()


def ds_cnn(name: str, macs: float, width: int, blocks: int) -> Network:
    n = Network(name, "Hello Edge: Keyword Spotting on Microcontrollers, arXiv:1711.07128", macs, 49, 10, 1, True)
    n.conv(width, (10, 4), (2, 2) if width < 100 else (2, 1))
    for index in range(blocks):
        n.separable(width, 3, 2 if width > 100 and not index else 1)
    return n.classifier(12)


def tc_resnet8() -> Network:
    n = Network(
        "tc_resnet8",
        "Temporal Convolution for Real-time Keyword Spotting on Mobile Devices, arXiv:1904.03814",
        None,
        1,
        98,
        40,
    )
    n.conv(16, (1, 3))
    for width in (24, 32, 48):
        n.branch().conv(width, 1, (1, 2))
        n.conv(width, (1, 9), (1, 2)).conv(width, (1, 9))
    return n.classifier(12)


def nets() -> Iterator[Network]:
    """All networks of this file."""
    yield mobilenet_v1("mobilenet_v1", 569e6, 1.0, 224)
    yield mobilenet_v1("mobilenet_v1_0.25_96", 7.5e6, 0.25, 96, 3, 2)
    yield mobilenet_v2()
    yield mobilenet_v3("mobilenet_v3_large", 219e6, V3_LARGE, 960, 1280)
    yield mobilenet_v3("mobilenet_v3_small", 56e6, V3_SMALL, 576, 1024)
    yield efficientnet("efficientnet_b0", 390e6, 224)
    yield efficientnet("efficientnet_b2", 1.0e9, 260, 1.1, 1.2)
    yield efficientnet("efficientnet_lite0", None, 224, lite=True)
    yield from (mnasnet(), proxylessnas(), ghostnet(), mobileone_s0(), mobilefacenet(), nasnet_mobile())
    yield squeezenet("1.0", 819e6)
    yield squeezenet("1.1", 349e6)
    yield shufflenet_v1()
    yield shufflenet_v2("shufflenet_v2_x0_5", 41e6, (48, 96, 192))
    yield shufflenet_v2("shufflenet_v2_x1_0", 146e6, (116, 232, 464))
    yield shufflenet_v2("shufflenet_v2_x1_5", 299e6, (176, 352, 704))
    yield ds_cnn("ds_cnn_small", 2.7e6, 64, 4)
    yield ds_cnn("ds_cnn_large", 28.45e6, 276, 5)
    yield tc_resnet8()
