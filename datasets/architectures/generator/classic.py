"""Networks for large images and large machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from network import Network


def alexnet() -> Network:
    n = Network(
        "alexnet", "One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997", 714e6, 224, 224
    )
    n.conv(64, 11, 4, padding=2).pool().conv(192, 5).pool().conv(384, 3).conv(256, 3).conv(256, 3).pool()
    return n.flatten().conv(4096).conv(4096).conv(1000)


def vgg16() -> Network:
    n = Network(
        "vgg16",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556",
        15.47e9,
        224,
        224,
    )
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            n.conv(channels, 3)
        n.pool(2)
    return n.flatten().conv(4096).conv(4096).conv(1000)


def _inception(n: Network, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int) -> None:
    n.concat(
        n.branch().conv(one),
        n.branch().conv(reduce3).conv(three, 3),
        n.branch().conv(reduce5).conv(five, 5),
        n.branch().conv(pooled),
    )


def googlenet() -> Network:
    n = Network("googlenet", "Going Deeper with Convolutions, arXiv:1409.4842", 1.55e9, 224, 224)
    n.conv(64, 7, 2).pool(ceil=True).conv(64).conv(192, 3).pool(ceil=True)
    _inception(n, 64, 96, 128, 16, 32, 32)
    _inception(n, 128, 128, 192, 32, 96, 64)
    n.pool(ceil=True)
    _inception(n, 192, 96, 208, 16, 48, 64)
    _inception(n, 160, 112, 224, 24, 64, 64)
    _inception(n, 128, 128, 256, 24, 64, 64)
    _inception(n, 112, 144, 288, 32, 64, 64)
    _inception(n, 256, 160, 320, 32, 128, 128)
    n.pool(ceil=True)
    _inception(n, 256, 160, 320, 32, 128, 128)
    _inception(n, 384, 192, 384, 48, 128, 128)
    return n.classifier()


def inception_v3() -> Network:
    n = Network(
        "inception_v3", "Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567", 5.71e9, 299, 299
    )
    n.conv(32, 3, 2, padding=0).conv(32, 3, padding=0).conv(64, 3).pool().conv(80).conv(192, 3, padding=0).pool()
    for pooled in (32, 64, 64):
        n.concat(
            n.branch().conv(64),
            n.branch().conv(48).conv(64, 5),
            n.branch().conv(64).conv(96, 3).conv(96, 3),
            n.branch().conv(pooled),
        )
    n.concat(
        n.branch().conv(384, 3, 2, padding=0),
        n.branch().conv(64).conv(96, 3).conv(96, 3, 2, padding=0),
        n.branch().pool(),
    )
    for c in (128, 160, 160, 192):
        n.concat(
            n.branch().conv(192),
            n.branch().conv(c).conv(c, (1, 7)).conv(192, (7, 1)),
            n.branch().conv(c).conv(c, (7, 1)).conv(c, (1, 7)).conv(c, (7, 1)).conv(192, (1, 7)),
            n.branch().conv(192),
        )
    n.concat(
        n.branch().conv(192).conv(320, 3, 2, padding=0),
        n.branch().conv(192).conv(192, (1, 7)).conv(192, (7, 1)).conv(192, 3, 2, padding=0),
        n.branch().pool(),
    )
    for _ in range(2):
        three, twice = n.branch().conv(384), n.branch().conv(448).conv(384, 3)
        n.concat(
            n.branch().conv(320),
            *(path.branch().conv(384, kernel) for path in (three, twice) for kernel in ((1, 3), (3, 1))),
            n.branch().conv(192),
        )
    return n.classifier()


def _stages(
    n: Network, block: Callable[[Network, int, int], None], repeats: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    for stage, (count, width) in enumerate(zip(repeats, widths, strict=True)):
        for index in range(count):
            block(n, width, 2 if stage and not index else 1)


def _basic(n: Network, width: int, stride: int) -> None:
    if stride > 1 or n.channels != width:
        n.branch().conv(width, 1, stride)
    n.conv(width, 3, stride).conv(width, 3)


def _bottleneck(inner: float = 1, groups: int = 1) -> Callable[[Network, int, int], None]:
    def block(n: Network, width: int, stride: int) -> None:
        if stride > 1 or n.channels != 4 * width:
            n.branch().conv(4 * width, 1, stride)
        n.conv(int(width * inner)).conv(int(width * inner), 3, stride, groups=groups).conv(4 * width)

    return block


def resnets() -> Iterator[Network]:
    paper = "Deep Residual Learning for Image Recognition, arXiv:1512.03385"
    widths = (64, 128, 256, 512)
    for name, source, macs, block, repeats in (
        ("resnet18", paper, 1.814e9, _basic, (2, 2, 2, 2)),
        ("resnet34", paper, 3.664e9, _basic, (3, 4, 6, 3)),
        ("resnet50", f"{paper}; stride in the 3x3 as in torchvision", 4.089e9, _bottleneck(), (3, 4, 6, 3)),
        (
            "resnext50_32x4d",
            "Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431",
            4.23e9,
            _bottleneck(2, 32),
            (3, 4, 6, 3),
        ),
        ("wide_resnet50_2", "Wide Residual Networks, arXiv:1605.07146", 11.40e9, _bottleneck(2), (3, 4, 6, 3)),
    ):
        n = Network(name, source, macs, 224, 224)
        n.conv(64, 7, 2).pool(padding=1)
        _stages(n, block, repeats, widths)
        yield n.classifier()


def resnet20_cifar() -> Network:
    n = Network(
        "resnet20_cifar", "Deep Residual Learning for Image Recognition, arXiv:1512.03385; CIFAR-10", 40.8e6, 32, 32
    )
    n.conv(16, 3)
    for width in (16, 32, 64):
        for _ in range(3):
            n.conv(width, 3, 1 if n.channels == width else 2).conv(width, 3)
    return n.classifier(10)


def densenet121() -> Network:
    n = Network("densenet121", "Densely Connected Convolutional Networks, arXiv:1608.06993", 2.83e9, 224, 224)
    n.conv(64, 7, 2).pool(padding=1)
    for stage, repeats in enumerate((6, 12, 24, 16)):
        if stage:
            n.conv(n.channels // 2).pool(2)
        for _ in range(repeats):
            n.branch().conv(128).conv(32, 3)
            n.channels += 32
    return n.classifier()


def xception() -> Network:
    n = Network(
        "xception", "Xception: Deep Learning with Depthwise Separable Convolutions, arXiv:1610.02357", 8.4e9, 299, 299
    )
    n.conv(32, 3, 2, padding=0).conv(64, 3, padding=0)
    for width in (128, 256, 728):
        n.branch().conv(width, 1, 2)
        n.separable(width).separable(width).pool(padding=1)
    for _ in range(8):
        n.separable(728).separable(728).separable(728)
    n.branch().conv(1024, 1, 2)
    n.separable(728).separable(1024).pool(padding=1)
    return n.separable(1536).separable(2048).classifier()


def regnets() -> Iterator[Network]:
    paper = "Designing Network Design Spaces, arXiv:2003.13678"
    for name, macs, widths, repeats, group_width, excite in (
        ("regnet_x_400mf", 0.41e9, (32, 64, 160, 400), (1, 2, 7, 12), 16, False),
        ("regnet_y_800mf", 0.83e9, (64, 144, 320, 784), (1, 3, 8, 2), 16, True),
    ):
        n = Network(name, paper, macs, 224, 224)
        n.conv(32, 3, 2)
        for width, count in zip(widths, repeats, strict=True):
            for index in range(count):
                stride = 1 if index else 2
                entering = n.channels
                if not index:
                    n.branch().conv(width, 1, 2)
                n.conv(width).conv(width, 3, stride, groups=width // group_width)
                if excite:
                    n.squeeze_excite(round(entering / 4))
                n.conv(width)
        yield n.classifier()


def repvgg_a0() -> Network:
    n = Network(
        "repvgg_a0",
        "RepVGG: Making VGG-style ConvNets Great Again, arXiv:2101.03697; branches merged",
        1.36e9,
        224,
        224,
    )
    n.conv(48, 3, 2)
    for width, count in ((48, 2), (96, 4), (192, 14), (1280, 1)):
        for index in range(count):
            n.conv(width, 3, 1 if index else 2)
    return n.classifier()


def convnext_tiny() -> Network:
    n = Network("convnext_tiny", "A ConvNet for the 2020s, arXiv:2201.03545", 4.46e9, 224, 224)
    n.conv(96, 4, 4, padding=0)
    for stage, (width, count) in enumerate(((96, 3), (192, 3), (384, 9), (768, 3))):
        if stage:
            n.conv(width, 2, 2, padding=0)
        for _ in range(count):
            n.depthwise(7).conv(4 * width).conv(width)
    return n.classifier()


def nets() -> Iterator[Network]:
    """All networks of this file."""
    yield from (alexnet(), vgg16(), googlenet(), inception_v3(), densenet121(), xception(), resnet20_cifar())
    yield from resnets()
    yield from regnets()
    yield from (repvgg_a0(), convnext_tiny())
