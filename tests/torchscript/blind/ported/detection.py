"""Detectors: hand-written NMS, anchors by size, RoI pooling in a Python loop."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import ConvBNAct, build, rn, ru


def iou_one_to_many(box, boxes):
    lt = torch.max(box[:2], boxes[:, :2])
    rb = torch.min(box[2:], boxes[:, 2:])
    wh = (rb - lt).clamp(min=0)
    inter = wh[:, 0] * wh[:, 1]
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return inter / (area + areas - inter + 1e-9)


class GreedyNMSDetector(nn.Module):
    """One image in, the surviving boxes out (YOLO-like decode, while-loop NMS)."""

    def __init__(self, num_classes=3, iou_thres=0.45, max_det=12):
        super().__init__()
        self.iou_thres, self.max_det = iou_thres, max_det
        self.stem = nn.Sequential(ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 16, 3, 2))
        self.head = nn.Conv2d(16, 5 + num_classes, 1)
        with torch.no_grad():
            self.head.weight.mul_(5.0)
        self.stride = 4

    def decode(self, p):
        _, c, h, w = p.shape
        gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        p = p[0].permute(1, 2, 0)
        cx = (p[..., 0].sigmoid() * 2 - 0.5 + gx) * self.stride
        cy = (p[..., 1].sigmoid() * 2 - 0.5 + gy) * self.stride
        bw = (p[..., 2].sigmoid() * 2) ** 2 * 8
        bh = (p[..., 3].sigmoid() * 2) ** 2 * 8
        boxes = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        cls, label = p[..., 5:].softmax(-1).max(-1)
        return boxes.view(-1, 4), (p[..., 4].sigmoid() * cls).view(-1), label.view(-1)

    def forward(self, image, score_thres):
        boxes, scores, labels = self.decode(self.head(self.stem(image)))
        cand = scores > score_thres
        boxes, scores, labels = boxes[cand], scores[cand], labels[cand]
        order = scores.argsort(descending=True)
        # classes are kept apart by an offset, as in torchvision.batched_nms
        shifted = boxes + (labels * 1000.0).unsqueeze(1)
        picked = []
        while order.numel() > 0:
            i = order[0]
            picked.append(i)
            if order.numel() == 1 or len(picked) >= self.max_det:
                break
            rest = order[1:]
            order = rest[iou_one_to_many(shifted[i], shifted[rest]) <= self.iou_thres]
        if len(picked) == 0:
            return boxes.new_zeros(0, 4), scores.new_zeros(0), labels.new_zeros(0)
        keep = torch.stack(picked)
        return boxes[keep], scores[keep], labels[keep]


class AnchorPyramidHead(nn.Module):
    """RetinaNet-like: anchors from Python lists, per-level top-k, clip to the image."""

    def __init__(self, topk=20):
        super().__init__()
        self.topk = topk
        self.c1 = ConvBNAct(3, 8, 3, 2)
        self.c2 = ConvBNAct(8, 12, 3, 2)
        self.c3 = ConvBNAct(12, 12, 3, 2)
        self.lat = nn.ModuleList([nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1)])
        self.cls = nn.Conv2d(8, 2, 3, padding=1)
        self.reg = nn.Conv2d(8, 8, 3, padding=1)
        self.ratios = (0.5, 2.0)

    def anchors(self, h, w, stride):
        out = []
        for y, x in itertools.product(range(h), range(w)):
            for r in self.ratios:
                out.append(
                    [(x + 0.5) * stride, (y + 0.5) * stride, 3 * stride * math.sqrt(r), 3 * stride / math.sqrt(r)]
                )
        return torch.tensor(out)

    def forward(self, images):
        H, W = images.shape[-2:]
        c2 = self.c2(self.c1(images))
        c3 = self.c3(c2)
        p3 = self.lat[1](c3)
        p2 = self.lat[0](c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        boxes, scores = [], []
        for stride, p in zip((4, 8), (p2, p3)):
            n, _, h, w = p.shape
            score = self.cls(p).permute(0, 2, 3, 1).reshape(n, -1).sigmoid()
            delta = self.reg(p).permute(0, 2, 3, 1).reshape(n, -1, 4)
            a = self.anchors(h, w, stride)
            k = min(self.topk, score.shape[1])
            score, idx = score.topk(k)
            delta = delta.gather(1, idx.unsqueeze(-1).expand(-1, -1, 4))
            a = a[idx]
            xy = a[..., :2] + delta[..., :2] * 0.1 * a[..., 2:]
            wh = a[..., 2:] * torch.exp((delta[..., 2:] * 0.2).clamp(max=math.log(1000 / 16)))
            b = torch.cat([xy - wh / 2, xy + wh / 2], -1)
            b = torch.stack(
                [b[..., 0].clamp(0, W), b[..., 1].clamp(0, H), b[..., 2].clamp(0, W), b[..., 3].clamp(0, H)], -1
            )
            boxes.append(b)
            scores.append(score)
        return {"boxes": torch.cat(boxes, 1), "scores": torch.cat(scores, 1)}


class RoIPoolLoop(nn.Module):
    """Fast R-CNN: crops by Python integers, adaptive max pool, zeros for empty boxes."""

    def __init__(self, out=3, scale=0.5):
        super().__init__()
        self.out, self.scale = out, scale
        self.body = nn.Sequential(ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 8))
        self.fc = nn.Linear(8 * out * out, 16)
        self.cls, self.box = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, images, rois):
        feat = self.body(images)
        H, W = feat.size(2), feat.size(3)
        pooled = []
        for b, x1, y1, x2, y2 in rois.tolist():
            l, t = max(int(x1 * self.scale), 0), max(int(y1 * self.scale), 0)
            r, d = min(math.ceil(x2 * self.scale), W), min(math.ceil(y2 * self.scale), H)
            if r <= l or d <= t:
                pooled.append(feat.new_zeros(feat.size(1), self.out, self.out))
                continue
            pooled.append(F.adaptive_max_pool2d(feat[int(b), :, t:d, l:r], self.out))
        x = F.relu(self.fc(torch.stack(pooled).flatten(1)))
        return self.cls(x), self.box(x)


def _rois(seed, n, batch, h, w, degenerate=False):
    u = ru(seed, n, 4)
    # odd multiples of 0.25 around integers, so int() and ceil() are far from an edge
    x1 = (u[:, 0] * w * 0.6).floor() + 0.7
    y1 = (u[:, 1] * h * 0.6).floor() + 0.7
    x2 = (x1 + 2 + u[:, 2] * w * 0.5).floor() + 0.3
    y2 = (y1 + 2 + u[:, 3] * h * 0.5).floor() + 0.3
    if degenerate:
        x2[n // 2] = -0.6
    b = torch.arange(n) % batch
    return torch.stack([b.float(), x1, y1, x2, y2], 1)


def cases():
    def det(seed, h, w, t):
        return {"image": rn(seed, 1, 3, h, w), "score_thres": torch.tensor(t)}

    def anc(seed, b, h, w):
        return {"images": rn(seed, b, 3, h, w)}

    def roi(seed, b, h, w, n, deg=False):
        return {"images": rn(seed, b, 3, h, w), "rois": _rois(seed, n, b, h, w, deg)}

    return {
        "GreedyNMSDetector": (
            build(GreedyNMSDetector, seed=11),
            det(1, 32, 48, 0.33),
            [det(2, 40, 32, 0.3), det(3, 48, 56, 0.25), det(4, 24, 36, 0.995)],
            [
                det(5, 36, 52, 0.3),
                det(6, 44, 28, 0.29),
                det(7, 28, 40, 0.26),
                det(8, 52, 44, 0.32),
                det(9, 28, 32, 0.995),
            ],
        ),
        "AnchorPyramidHead": (
            build(AnchorPyramidHead, seed=12),
            anc(1, 2, 32, 40),
            [anc(2, 1, 48, 32), anc(3, 3, 24, 16), anc(4, 2, 37, 51)],
            [anc(5, 3, 40, 56), anc(6, 1, 16, 24), anc(7, 4, 33, 46), anc(8, 2, 56, 24)],
        ),
        "RoIPoolLoop": (
            build(RoIPoolLoop, seed=13),
            roi(1, 2, 24, 32, 5),
            [roi(2, 3, 28, 20, 8, True), roi(3, 1, 34, 26, 3), roi(4, 2, 20, 40, 6, True)],
            [
                roi(5, 3, 30, 22, 7),
                roi(6, 2, 26, 38, 4, True),
                roi(7, 1, 22, 34, 9),
                roi(8, 4, 36, 24, 10, True),
                roi(9, 2, 18, 28, 5),
            ],
        ),
    }
