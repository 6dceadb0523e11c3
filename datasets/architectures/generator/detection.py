"""Networks that find objects and faces."""

from __future__ import annotations

from collections.abc import Iterator

from mobile import mobilenet_v1_body, mobilenet_v2_body
from network import Network


def yolov3_tiny() -> Network:
    n = Network(
        "yolov3_tiny_416",
        "YOLOv3: An Incremental Improvement, arXiv:1804.02767; yolov3-tiny.cfg of Darknet",
        2.785e9,
        416,
        416,
    )
    for width in (16, 32, 64, 128):
        n.conv(width, 3).pool(2)
    n.conv(256, 3)
    fine = n.branch()
    n.pool(2).conv(512, 3).conv(1024, 3).conv(256)
    n.branch().conv(512, 3).conv(255)
    n.conv(128).resize(2)
    return n.concat(n, fine).conv(256, 3).conv(255)


def yolov5s() -> Network:
    n = Network("yolov5s_640", "YOLOv5 6.0 of Ultralytics", 8.25e9, 640, 640)

    def c3(x: Network, width: int, count: int) -> None:
        x.branch().conv(width // 2)
        x.conv(width // 2)
        for _ in range(count):
            x.conv(width // 2).conv(width // 2, 3)
        x.channels = width
        x.conv(width)

    n.conv(32, 6, 2, padding=2)
    kept = []
    for width, count in ((64, 1), (128, 2), (256, 3), (512, 1)):
        n.conv(width, 3, 2)
        c3(n, width, count)
        kept.append(n.branch())
    n.conv(256)
    n.channels = 1024
    n.conv(512)
    upper = []
    for width, side in ((256, kept[2]), (128, kept[1])):
        n.conv(width)
        upper.append(n.branch())
        n.resize(2).concat(n.branch(), side)
        c3(n, width, 1)
    n.branch().conv(255)
    for width, side in ((256, upper[1]), (512, upper[0])):
        n.conv(n.channels, 3, 2).concat(n.branch(), side)
        c3(n, width, 1)
        n.branch().conv(255)
    return n


def yolov8n() -> Network:
    n = Network("yolov8n_640", "YOLOv8 of Ultralytics", 4.35e9, 640, 640)

    def c2f(x: Network, width: int, count: int) -> None:
        x.conv(width)
        x.channels = width // 2
        for _ in range(count):
            x.conv(width // 2, 3).conv(width // 2, 3)
        x.channels = (2 + count) * width // 2
        x.conv(width)

    n.conv(16, 3, 2)
    kept = []
    for width, count in ((32, 1), (64, 2), (128, 2), (256, 1)):
        n.conv(width, 3, 2)
        c2f(n, width, count)
        kept.append(n.branch())
    n.conv(128)
    n.channels = 512
    n.conv(256)
    coarse = n.branch()
    for width, side in ((128, kept[2]), (64, kept[1])):
        n.resize(2).concat(n.branch(), side)
        c2f(n, width, 1)
        kept.append(n.branch())
    levels = [n.branch()]
    for width, side in ((128, kept[4]), (256, coarse)):
        n.conv(n.channels, 3, 2).concat(n.branch(), side)
        c2f(n, width, 1)
        levels.append(n.branch())
    for level in levels:
        for width in (64, 80):  # boxes, classes
            level.branch().conv(width, 3).conv(width, 3).conv(width)
    return n


def yolox_nano() -> Network:
    n = Network("yolox_nano_416", "YOLOX: Exceeding YOLO Series in 2021, arXiv:2107.08430", None, 416, 416)

    def csp(x: Network, width: int, count: int) -> None:
        x.branch().conv(width // 2)
        x.conv(width // 2)
        for _ in range(count):
            x.conv(width // 2).separable(width // 2)
        x.channels = width
        x.conv(width)

    n.height, n.width, n.channels = 208, 208, 12  # every second pixel, stacked
    n.conv(16, 3)
    kept = []
    for width, count in ((32, 1), (64, 3), (128, 3), (256, 1)):
        n.separable(width, 3, 2)
        if width == 256:
            n.conv(128)
            n.channels = 512
            n.conv(256)
        csp(n, width, count)
        kept.append(n.branch())
    upper = []
    for width, side in ((128, kept[2]), (64, kept[1])):
        n.conv(width)
        upper.append(n.branch())
        n.resize(2).concat(n.branch(), side)
        csp(n, width, 1)
    levels = [n.branch()]
    for width, side in ((128, upper[1]), (256, upper[0])):
        n.separable(n.channels, 3, 2).concat(n.branch(), side)
        csp(n, width, 1)
        levels.append(n.branch())
    for level in levels:
        level.conv(64)
        classes, boxes = (level.branch().separable(64).separable(64) for _ in range(2))
        classes.conv(80)
        boxes.branch().conv(4)
        boxes.conv(1)
    return n


def ssdlite_mobilenet_v2() -> Network:
    n = Network(
        "ssdlite_mobilenet_v2_320",
        "MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381; COCO",
        0.8e9,
        320,
        320,
        3,
        True,
    )
    mobilenet_v2_body(n)
    levels = [n.branch(), n.conv(1280).branch()]
    levels[0].height = levels[0].width = 20
    levels[0].channels = 576  # the expansion of the first block of stride 32
    for squeezed, out in ((256, 512), (128, 256), (128, 256), (64, 128)):
        n.conv(squeezed).separable(out, 3, 2)
        levels.append(n.branch())
    for index, level in enumerate(levels):
        anchors = 6 if index else 3
        level.branch().separable(anchors * 91)
        level.branch().separable(anchors * 4)
    return n


def blazeface() -> Network:
    n = Network(
        "blazeface_128",
        "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, arXiv:1907.05047",
        None,
        128,
        128,
        3,
        True,
    )
    n.conv(24, 5, 2)
    for out, stride in ((24, 1), (24, 1), (48, 2), (48, 1), (48, 1)):
        n.separable(out, 5, stride)
    levels = []
    for _ in range(2):
        for stride in (2, 1, 1):
            n.separable(24, 5, stride).separable(96, 5)
        levels.append(n.branch())
    for level, anchors in zip(levels, (2, 6), strict=True):
        level.branch().conv(anchors)
        level.branch().conv(16 * anchors)
    return n


def retinaface() -> Network:
    n = Network(
        "retinaface_mobilenet_0.25_640",
        "RetinaFace: Single-stage Dense Face Localisation in the Wild, arXiv:1905.00641",
        None,
        640,
        640,
    )
    n.conv(8, 3, 2)
    mobilenet_v1_body(n, 0.25)
    levels = []
    for channels, side in ((64, 80), (128, 40), (256, 20)):
        level = n.branch()
        level.height, level.width, level.channels = side, side, channels
        levels.append(level.conv(64))
    for level in levels[:2]:
        level.conv(64, 3)
    for level in levels:
        level.branch().conv(32, 3)
        context = level.branch().conv(16, 3)
        context.branch().conv(16, 3)
        context.conv(16, 3).conv(16, 3)
        for out in (4, 8, 20):
            level.branch().conv(out)
    return n


def mtcnn() -> Network:
    n = Network(
        "mtcnn",
        "Joint Face Detection and Alignment using Multi-task Cascaded CNNs, arXiv:1604.02878; P-Net on 240x320",
        None,
        240,
        320,
    )
    refine, output = n.branch(), n.branch()
    refine.height = refine.width = 24
    output.height = output.width = 48
    n.conv(10, 3, padding=0).pool(2).conv(16, 3, padding=0).conv(32, 3, padding=0)
    n.branch().conv(2)
    n.conv(4)
    refine.conv(28, 3, padding=0).pool(ceil=True).conv(48, 3, padding=0).pool(ceil=True).conv(64, 2, padding=0)
    refine.flatten().conv(128).conv(4)
    output.conv(32, 3, padding=0).pool(ceil=True).conv(64, 3, padding=0).pool(ceil=True)
    output.conv(64, 3, padding=0).pool(2, ceil=True).conv(128, 2, padding=0).flatten().conv(256).conv(10)
    return n


def nets() -> Iterator[Network]:
    """All networks of this file."""
    yield from (yolov3_tiny(), yolov5s(), yolov8n(), yolox_nano(), ssdlite_mobilenet_v2())
    yield from (blazeface(), retinaface(), mtcnn())
