"""Dense prediction and vision transformers whose control flow follows the image size."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import ConvBNAct, FeedForward, build, rearrange, rn


# ---------------------------------------------------------------- Swin
def window_partition(x, ws):
    return rearrange(x, "b (h p) (w q) c -> (b h w) (p q) c", p=ws, q=ws)


def window_reverse(win, ws, H, W):
    B = int(win.shape[0] / (H * W / ws / ws))
    x = win.view(B, H // ws, W // ws, ws, ws, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class WindowBlock(nn.Module):
    def __init__(self, dim, heads, ws, shift):
        super().__init__()
        self.heads, self.ws, self.shift = heads, ws, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, 2 * dim)
        self.table = nn.Parameter(torch.randn((2 * ws - 1) ** 2, heads) * 0.5)
        c = torch.stack(torch.meshgrid(torch.arange(ws), torch.arange(ws), indexing="ij")).flatten(1)
        rel = (c[:, :, None] - c[:, None, :]).permute(1, 2, 0) + ws - 1
        self.register_buffer("rel_index", rel[..., 0] * (2 * ws - 1) + rel[..., 1])

    def attn_mask(self, H, W, ws, shift):
        img = torch.zeros(1, H, W, 1)
        cuts = (slice(0, -ws), slice(-ws, -shift), slice(-shift, None))
        cnt = 0
        for h in cuts:
            for w in cuts:
                img[:, h, w, :] = cnt
                cnt += 1
        m = window_partition(img, ws).squeeze(-1)
        m = m.unsqueeze(1) - m.unsqueeze(2)
        return m.masked_fill(m != 0, -100.0).masked_fill(m == 0, 0.0)

    def forward(self, x):
        B, H, W, C = x.shape
        ws, shift = self.ws, self.shift
        short = x
        x = self.norm1(x)
        pad_b, pad_r = (ws - H % ws) % ws, (ws - W % ws) % ws
        if pad_b > 0 or pad_r > 0:
            x = F.pad(x, (0, 0, 0, pad_r, 0, pad_b))
        Hp, Wp = x.shape[1], x.shape[2]
        if min(Hp, Wp) <= ws:
            shift = 0
        if shift > 0:
            x = torch.roll(x, (-shift, -shift), (1, 2))
            mask = self.attn_mask(Hp, Wp, ws, shift)
        else:
            mask = None
        win = window_partition(x, ws)
        Bw, N, _ = win.shape
        q, k, v = self.qkv(win).reshape(Bw, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        a = q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)
        a = a + self.table[self.rel_index.view(-1)].view(N, N, -1).permute(2, 0, 1)
        if mask is not None:
            nw = mask.shape[0]
            a = a.view(Bw // nw, nw, self.heads, N, N) + mask[None, :, None]
            a = a.view(-1, self.heads, N, N)
        win = self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(Bw, N, C))
        x = window_reverse(win, ws, Hp, Wp)
        if shift > 0:
            x = torch.roll(x, (shift, shift), (1, 2))
        x = short + x[:, :H, :W].contiguous()
        return x + self.ffn(self.norm2(x))


class SwinBlockNet(nn.Module):
    def __init__(self, dim=16, ws=4):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 2, 2)
        self.blocks = nn.ModuleList([WindowBlock(dim, 2, ws, 0), WindowBlock(dim, 2, ws, ws // 2)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        for b in self.blocks:
            x = b(x)
        x = self.norm(x)
        return self.head(x.mean((1, 2))), x.permute(0, 3, 1, 2)


# ---------------------------------------------------------------- segmentation
class SlidingWindowSegmenter(nn.Module):
    """mmseg slide_inference around a small encoder-decoder."""

    def __init__(self, classes=4, crop=24, stride=16):
        super().__init__()
        self.classes, self.crop, self.stride = classes, crop, stride
        self.enc = nn.Sequential(ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 12, 3, 2))
        self.context = nn.Linear(12, 12)
        self.out = nn.Conv2d(12, classes, 1)

    def encode_decode(self, x):
        f = self.enc(x)
        f = f * self.context(f.mean((2, 3))).sigmoid()[:, :, None, None]
        return F.interpolate(self.out(f), size=x.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, img):
        b, _, h, w = img.size()
        hg = max(h - self.crop + self.stride - 1, 0) // self.stride + 1
        wg = max(w - self.crop + self.stride - 1, 0) // self.stride + 1
        preds = img.new_zeros((b, self.classes, h, w))
        count = img.new_zeros((b, 1, h, w))
        for i in range(hg):
            for j in range(wg):
                y2, x2 = min(i * self.stride + self.crop, h), min(j * self.stride + self.crop, w)
                y1, x1 = max(y2 - self.crop, 0), max(x2 - self.crop, 0)
                p = self.encode_decode(img[:, :, y1:y2, x1:x2])
                preds += F.pad(p, (x1, w - x2, y1, h - y2))
                count[:, :, y1:y2, x1:x2] += 1
        assert (count == 0).sum() == 0
        return preds / count


class TiledSuperRes(nn.Module):
    """Real-ESRGAN style tile processing, mod padding, pixel shuffle."""

    def __init__(self, scale=2, tile=12, tile_pad=3, mod=2):
        super().__init__()
        self.scale, self.tile, self.tile_pad, self.mod = scale, tile, tile_pad, mod
        self.net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(12, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    @torch.no_grad()
    def forward(self, lq):
        _, _, h0, w0 = lq.shape
        ph = self.mod - h0 % self.mod if h0 % self.mod != 0 else 0
        pw = self.mod - w0 % self.mod if w0 % self.mod != 0 else 0
        x = F.pad(lq, (0, pw, 0, ph), "reflect")
        b, c, h, w = x.shape
        s = self.scale
        out = x.new_zeros((b, c, h * s, w * s))
        for ty in range(math.ceil(h / self.tile)):
            for tx in range(math.ceil(w / self.tile)):
                y1, x1 = ty * self.tile, tx * self.tile
                y2, x2 = min(y1 + self.tile, h), min(x1 + self.tile, w)
                yp1, xp1 = max(y1 - self.tile_pad, 0), max(x1 - self.tile_pad, 0)
                yp2, xp2 = min(y2 + self.tile_pad, h), min(x2 + self.tile_pad, w)
                t = self.net(x[:, :, yp1:yp2, xp1:xp2])
                oy, ox = (y1 - yp1) * s, (x1 - xp1) * s
                out[:, :, y1 * s : y2 * s, x1 * s : x2 * s] = t[:, :, oy : oy + (y2 - y1) * s, ox : ox + (x2 - x1) * s]
        return out[:, :, : h0 * s, : w0 * s]


class MultiScaleTTA(nn.Module):
    """Multi-scale, flipped and rotated (affine_grid) test-time augmentation."""

    def __init__(self, scales=(0.75, 1.0, 1.5), divisor=8):
        super().__init__()
        self.scales, self.divisor = scales, divisor
        self.net = nn.Sequential(ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 8, 3, 2), nn.Conv2d(8, 3, 1))

    def rotate(self, x, deg):
        a = math.radians(deg)
        theta = torch.tensor([[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]])
        grid = F.affine_grid(theta.expand(x.size(0), 2, 3), list(x.size()), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def forward(self, image):
        h, w = image.shape[-2:]
        total, n = 0, 0
        for s in self.scales:
            nh = int(math.ceil(h * s / self.divisor)) * self.divisor
            nw = int(math.ceil(w * s / self.divisor)) * self.divisor
            x = F.interpolate(image, size=(nh, nw), mode="bilinear", align_corners=False)
            views = [(lambda t: t, lambda t: t), (lambda t: t.flip(-1), lambda t: t.flip(-1))]
            if s == 1.0:
                views.append((lambda t: self.rotate(t, 10), lambda t: self.rotate(t, -10)))
            for fwd, bwd in views:
                p = F.interpolate(self.net(fwd(x)), size=(h, w), mode="bilinear", align_corners=False)
                total = total + bwd(p).softmax(1)
                n += 1
        return total / n


class InterpPosViT(nn.Module):
    """DINO ViT: bicubic position-embedding interpolation unless the size is the native one."""

    def __init__(self, img=16, patch=4, dim=16, heads=2):
        super().__init__()
        self.p, self.heads = patch, heads
        n = (img // patch) ** 2
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, n + 1, dim))
        self.block = nn.TransformerEncoderLayer(dim, heads, 32, 0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(dim)

    def interpolate_pos_encoding(self, x, w, h):
        npatch, N = x.shape[1] - 1, self.pos_embed.shape[1] - 1
        if npatch == N and w == h:
            return self.pos_embed
        cls_pos, pos = self.pos_embed[:, 0], self.pos_embed[:, 1:]
        dim, side = x.shape[-1], int(math.sqrt(N))
        w0, h0 = w // self.p + 0.1, h // self.p + 0.1
        pos = F.interpolate(
            pos.reshape(1, side, side, dim).permute(0, 3, 1, 2),
            scale_factor=(w0 / math.sqrt(N), h0 / math.sqrt(N)),
            mode="bicubic",
        )
        assert int(w0) == pos.shape[-2] and int(h0) == pos.shape[-1]
        pos = pos.permute(0, 2, 3, 1).view(1, -1, dim)
        return torch.cat((cls_pos.unsqueeze(0), pos), 1)

    def forward(self, pixel_values):
        B, _, w, h = pixel_values.shape
        assert w % self.p == 0 and h % self.p == 0, f"{w}x{h} is no multiple of {self.p}"
        x = self.proj(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(B, -1, -1), x), 1)
        x = x + self.interpolate_pos_encoding(x, w, h)
        x = self.norm(self.block(x))
        return x[:, 0], x[:, 1:]


class DeformAttnEncoder(nn.Module):
    """Deformable-DETR encoder layer with ms_deform_attn_core_pytorch by hand."""

    def __init__(self, dim=16, heads=2, points=3, levels=2):
        super().__init__()
        self.heads, self.points, self.levels = heads, points, levels
        self.inp = nn.ModuleList([nn.Conv2d(6, dim, 1), nn.Conv2d(10, dim, 1)])
        self.level_embed = nn.Parameter(torch.randn(levels, dim))
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    @staticmethod
    def reference_points(spatial_shapes):
        out = []
        for H, W in spatial_shapes:
            y, x = torch.meshgrid(
                torch.linspace(0.5, H - 0.5, int(H)) / H, torch.linspace(0.5, W - 0.5, int(W)) / W, indexing="ij"
            )
            out.append(torch.stack((x.reshape(-1), y.reshape(-1)), -1))
        return torch.cat(out)

    def core(self, value, shapes, loc, w):
        N, _, M, D = value.shape
        _, Lq, _, L, P, _ = loc.shape
        parts = value.split([int(h) * int(ww) for h, ww in shapes], dim=1)
        grids, sampled = 2 * loc - 1, []
        for lid, (h, ww) in enumerate(shapes):
            v = parts[lid].flatten(2).transpose(1, 2).reshape(N * M, D, int(h), int(ww))
            g = grids[:, :, :, lid].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(v, g, mode="bilinear", padding_mode="zeros", align_corners=False))
        w = w.transpose(1, 2).reshape(N * M, 1, Lq, L * P)
        o = (torch.stack(sampled, -2).flatten(-2) * w).sum(-1)
        return o.view(N, M * D, Lq).transpose(1, 2).contiguous()

    def forward(self, c4, c5):
        srcs, shapes = [], []
        for lvl, f in enumerate((c4, c5)):
            x = self.inp[lvl](f)
            shapes.append((x.shape[2], x.shape[3]))
            srcs.append(x.flatten(2).transpose(1, 2) + self.level_embed[lvl])
        src = torch.cat(srcs, 1)
        spatial = torch.as_tensor(shapes, dtype=torch.long)
        ref = self.reference_points(spatial)
        N, Lq, C = src.shape
        v = self.value(src).view(N, Lq, self.heads, C // self.heads)
        off = self.offsets(src).view(N, Lq, self.heads, self.levels, self.points, 2)
        w = self.weights(src).view(N, Lq, self.heads, -1).softmax(-1)
        norm = torch.stack([spatial[..., 1], spatial[..., 0]], -1)
        loc = ref[None, :, None, None, None, :] + off / norm[None, None, None, :, None, :]
        out = self.core(v, spatial, loc, w.view(N, Lq, self.heads, self.levels, self.points))
        return self.norm(src + self.out(out))


class AgreementCapsules(nn.Module):
    """Dynamic routing that stops once the coupling has settled."""

    def __init__(self, caps=4, dim=6, max_iters=8, tol=0.13):
        super().__init__()
        self.caps, self.dim, self.max_iters, self.tol = caps, dim, max_iters, tol
        self.primary = nn.Conv2d(1, 8, 3, 2)
        self.W = nn.Parameter(torch.randn(2, caps, 4, dim) * 0.6)

    @staticmethod
    def squash(s):
        n2 = (s * s).sum(-1, keepdim=True)
        return n2 / (1 + n2) * s / torch.sqrt(n2 + 1e-8)

    def forward(self, x):
        u = self.primary(x)
        B, _, h, w = u.shape
        u = self.squash(u.view(B, 2, 4, h * w).permute(0, 1, 3, 2))
        u_hat = torch.einsum("btnd,tcde->btnce", u, self.W).reshape(B, 2 * h * w, self.caps, self.dim)
        logits = torch.zeros(B, 2 * h * w, self.caps)
        prev = None
        for _ in range(self.max_iters):
            c = logits.softmax(-1)
            if prev is not None and (c - prev).abs().max().item() < self.tol:
                break
            v = self.squash((c.unsqueeze(-1) * u_hat).sum(1))
            logits = logits + (u_hat * v.unsqueeze(1)).sum(-1)
            prev = c
        return v, v.norm(dim=-1)


class SegmentVideoNet(nn.Module):
    """TSN frame sampling from Python arithmetic; short clips repeat their last frame."""

    def __init__(self, segments=4):
        super().__init__()
        self.n = segments
        self.frame = nn.Sequential(ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 12, 3, 2))
        self.diff = nn.Conv1d(12, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, clip):
        B, T = clip.shape[0], clip.shape[1]
        if T < self.n:
            pad = clip[:, -1:].expand(-1, self.n - T, -1, -1, -1)
            clip = torch.cat([clip, pad], 1)
            idx = list(range(self.n))
        else:
            tick = T / float(self.n)
            idx = [int(tick / 2.0 + tick * i) for i in range(self.n)]
        x = clip[:, idx]
        f = self.frame(x.flatten(0, 1)).mean((2, 3)).view(B, self.n, -1)
        t = self.diff(f.transpose(1, 2)).transpose(1, 2)
        return self.fc(F.relu(f + t).mean(1)), torch.tensor(idx)


def cases():
    def x(name, seed, *shape):
        return {name: rn(seed, *shape)}

    def d(seed, b, h, w, h2, w2):
        return {"c4": rn(seed, b, 6, h, w), "c5": rn(seed + 100, b, 10, h2, w2)}

    def cap(seed, b, h, w, s):
        return {"x": rn(seed, b, 1, h, w, scale=s)}

    return {
        "SwinBlockNet": (
            build(SwinBlockNet, seed=21),
            x("x", 1, 2, 3, 16, 24),
            [x("x", 2, 1, 3, 22, 18), x("x", 3, 3, 3, 8, 26), x("x", 4, 2, 3, 30, 16)],
            [
                x("x", 5, 3, 3, 20, 28),
                x("x", 6, 1, 3, 32, 24),
                x("x", 7, 4, 3, 8, 20),
                x("x", 8, 2, 3, 26, 34),
                x("x", 9, 1, 3, 16, 22),
            ],
        ),
        "SlidingWindowSegmenter": (
            build(SlidingWindowSegmenter, seed=22),
            x("img", 1, 1, 3, 40, 56),
            [x("img", 2, 2, 3, 24, 33), x("img", 3, 1, 3, 18, 47), x("img", 4, 3, 3, 57, 24)],
            [
                x("img", 5, 2, 3, 45, 39),
                x("img", 6, 1, 3, 20, 60),
                x("img", 7, 3, 3, 50, 28),
                x("img", 8, 2, 3, 33, 22),
            ],
        ),
        "TiledSuperRes": (
            build(TiledSuperRes, seed=23),
            x("lq", 1, 1, 3, 24, 20),
            [x("lq", 2, 2, 3, 13, 30), x("lq", 3, 1, 3, 10, 17), x("lq", 4, 3, 3, 31, 12)],
            [
                x("lq", 5, 1, 3, 25, 27),
                x("lq", 6, 3, 3, 18, 11),
                x("lq", 7, 2, 3, 36, 22),
                x("lq", 8, 1, 3, 15, 15),
                x("lq", 9, 1, 3, 9, 34),
            ],
        ),
        "MultiScaleTTA": (
            build(MultiScaleTTA, seed=24),
            x("image", 1, 1, 3, 24, 32),
            [x("image", 2, 2, 3, 30, 21), x("image", 3, 3, 3, 40, 27)],
            [
                x("image", 4, 2, 3, 36, 28),
                x("image", 5, 1, 3, 19, 45),
                x("image", 6, 3, 3, 32, 24),
                x("image", 7, 2, 3, 25, 25),
            ],
        ),
        "InterpPosViT": (
            build(InterpPosViT, seed=25),
            x("pixel_values", 1, 2, 3, 16, 16),
            [x("pixel_values", 2, 1, 3, 24, 16), x("pixel_values", 3, 3, 3, 20, 32), x("pixel_values", 4, 2, 3, 8, 32)],
            [
                x("pixel_values", 5, 3, 3, 32, 24),
                x("pixel_values", 6, 1, 3, 16, 16),
                x("pixel_values", 7, 2, 3, 28, 12),
                x("pixel_values", 8, 4, 3, 8, 28),
                x("pixel_values", 9, 2, 3, 20, 20),
            ],
        ),
        "DeformAttnEncoder": (
            build(DeformAttnEncoder, seed=26),
            d(1, 2, 6, 8, 3, 4),
            [d(2, 1, 9, 7, 5, 3), d(3, 3, 5, 10, 2, 6)],
            [d(4, 2, 8, 6, 4, 5), d(5, 1, 7, 11, 3, 7), d(6, 4, 10, 5, 6, 3), d(7, 3, 6, 9, 4, 4)],
        ),
        "AgreementCapsules": (
            build(AgreementCapsules, seed=27),
            cap(1, 2, 9, 11, 1.0),
            [cap(2, 1, 13, 7, 3.0), cap(3, 3, 7, 15, 0.2), cap(4, 2, 11, 9, 6.0)],
            [
                cap(5, 3, 9, 13, 0.4),
                cap(6, 1, 15, 9, 2.0),
                cap(7, 2, 7, 9, 4.0),
                cap(8, 4, 13, 11, 0.15),
                cap(9, 2, 11, 11, 1.5),
            ],
        ),
        "SegmentVideoNet": (
            build(SegmentVideoNet, seed=28),
            x("clip", 1, 2, 8, 3, 12, 16),
            [x("clip", 2, 1, 3, 3, 16, 13), x("clip", 3, 3, 11, 3, 10, 12), x("clip", 4, 2, 5, 3, 14, 18)],
            [
                x("clip", 5, 1, 13, 3, 12, 10),
                x("clip", 6, 3, 2, 3, 18, 16),
                x("clip", 7, 2, 6, 3, 11, 15),
                x("clip", 8, 4, 9, 3, 16, 14),
                x("clip", 9, 2, 4, 3, 13, 13),
            ],
        ),
    }
