"""NumPy and pure-Python routines that some models call from forward."""

import hashlib

import numpy as np


def mel_bank(n_mels, n_bins):
    """Triangular filters on a log-ish axis."""
    edges = np.round(np.geomspace(1.0, n_bins - 1, n_mels + 2)).astype(int)
    for i in range(1, len(edges)):
        edges[i] = max(edges[i], edges[i - 1] + 1)
    bank = np.zeros((n_mels, n_bins), dtype=np.float32)
    grid = np.arange(n_bins)
    for m in range(n_mels):
        lo, mid, hi = edges[m : m + 3]
        up = (grid - lo) / (mid - lo)
        down = (hi - grid) / (hi - mid)
        bank[m] = np.clip(np.minimum(up, down), 0.0, None)
    return bank


def dilate_erode(img, radius):
    """Grey dilation and erosion of [B, H, W] with a square window, edges repeated."""
    padded = np.pad(img, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    h, w = img.shape[1:]
    hi = np.full_like(img, -np.inf)
    lo = np.full_like(img, np.inf)
    for dy in range(2 * radius + 1):
        for dx in range(2 * radius + 1):
            view = padded[:, dy : dy + h, dx : dx + w]
            np.maximum(hi, view, out=hi)
            np.minimum(lo, view, out=lo)
    return hi, lo


def rolling_mean(y, width):
    """Centred moving average along the last axis."""
    half = width // 2
    pad = [(0, 0)] * (y.ndim - 1) + [(half + 1, half)]
    acc = np.cumsum(np.pad(y.astype(np.float64), pad, mode="edge"), axis=-1)
    return (acc[..., width:] - acc[..., :-width]) / width


def bucket_of(text, n):
    return int.from_bytes(hashlib.md5(text.encode("utf-8")).digest()[:4], "little") % n


def hungarian(cost):
    """Minimum-cost assignment of rows to columns (rows <= columns); list of columns."""
    n, m = len(cost), len(cost[0])
    inf = float("inf")
    u, v = [0.0] * (n + 1), [0.0] * (m + 1)
    match, way = [0] * (m + 1), [0] * (m + 1)
    for i in range(1, n + 1):
        match[0] = i
        j0 = 0
        dist = [inf] * (m + 1)
        used = [False] * (m + 1)
        while True:
            used[j0] = True
            i0, delta, j1 = match[j0], inf, 0
            for j in range(1, m + 1):
                if used[j]:
                    continue
                cur = cost[i0 - 1][j - 1] - u[i0] - v[j]
                if cur < dist[j]:
                    dist[j], way[j] = cur, j0
                if dist[j] < delta:
                    delta, j1 = dist[j], j
            for j in range(m + 1):
                if used[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    dist[j] -= delta
            j0 = j1
            if match[j0] == 0:
                break
        while j0:
            match[j0] = match[way[j0]]
            j0 = way[j0]
    out = [0] * n
    for j in range(1, m + 1):
        if match[j]:
            out[match[j] - 1] = j - 1
    return out
