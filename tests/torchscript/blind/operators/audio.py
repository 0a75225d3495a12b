import math

import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import assemble, rand, randn
from tests.torchscript.blind.operators._nputil import mel_bank

N_FFT = 64
HOP = 16
LEVELS = 32


class KeywordSpotter(nn.Module):
    """Log-mel front end (torch.stft) and a small temporal convnet."""

    def __init__(self, n_mels=12, n_words=7):
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT))
        self.register_buffer("mel", torch.from_numpy(mel_bank(n_mels, N_FFT // 2 + 1)))
        self.conv1 = nn.Conv1d(n_mels, 16, 3, padding=1)
        self.conv2 = nn.Conv1d(16, 16, 3, padding=2, dilation=2)
        self.head = nn.Linear(32, n_words)

    def forward(self, wav):
        spec = torch.stft(wav, N_FFT, HOP, window=self.window, center=True, pad_mode="reflect", return_complex=True)
        power = spec.abs() ** 2
        feats = torch.log1p(torch.matmul(self.mel, power))
        feats = feats - feats.mean(dim=-1, keepdim=True)
        h = F.relu(self.conv1(feats))
        h = F.relu(self.conv2(h)) + h
        pooled = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        return self.head(pooled)


class SpectralGate(nn.Module):
    """Denoise by a soft gate in the frequency domain, FFT padded to a power of two."""

    def __init__(self):
        super().__init__()
        self.sharp = nn.Parameter(torch.tensor(1.5))
        self.tilt = nn.Parameter(torch.tensor(0.3))

    def forward(self, wav):
        n = wav.shape[-1]
        size = 1 << (int(n) - 1).bit_length()
        spec = torch.fft.rfft(wav, n=size)
        mag = spec.abs()
        floor = torch.quantile(mag, 0.35, dim=-1, keepdim=True)
        freq = torch.fft.rfftfreq(size, d=1.0 / 8000.0) / 4000.0
        gate = torch.sigmoid(self.sharp * (mag / floor - 1.0) - self.tilt * freq)
        clean = torch.fft.irfft(torch.polar(mag * gate, spec.angle()), n=size)
        return clean[..., :n], gate.mean(dim=-1)


class LoudnessLeveler(nn.Module):
    """Bring a clip to a target level, then a learned limiter; silence passes through."""

    TARGET_DB = -20.0
    MAX_GAIN = 12.0

    def __init__(self):
        super().__init__()
        self.knee = nn.Parameter(torch.tensor([0.8]))
        self.tone = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, wav):
        rms = math.sqrt(float(wav.pow(2).mean()))
        if rms < 1e-3:
            return wav, torch.tensor(0.0)
        gain = self.TARGET_DB - 20.0 * math.log10(rms)
        gain = max(-self.MAX_GAIN, min(self.MAX_GAIN, gain))
        y = wav * 10.0 ** (gain / 20.0)
        y = y + self.tone(y.unsqueeze(1)).squeeze(1)
        peak = y.abs().max().item()
        if peak > 1.0:
            y = torch.tanh(y / self.knee) * self.knee
        return y, torch.tensor(gain)


class DitherQuantizer(nn.Module):
    """Codec front end that adds triangular dither before it rounds."""

    def __init__(self):
        super().__init__()
        self.shape = nn.Conv1d(1, 4, 9, padding=4)
        self.back = nn.Conv1d(4, 1, 9, padding=4)

    def forward(self, wav):
        z = torch.tanh(self.shape(wav.unsqueeze(1)))
        dither = torch.rand_like(z) - torch.rand_like(z)
        q = torch.round(z * LEVELS + dither) / LEVELS
        return self.back(q).squeeze(1)


IMPOSSIBLE = {"DitherQuantizer"}


def _wav(s, b, t, level=0.1):
    n = torch.arange(t).float()
    f = 0.01 + 0.1 * rand(s, b, 1)
    return {"wav": level * (torch.sin(2 * math.pi * f * n) + 0.5 * randn(s + 1, b, t))}


def cases():
    return {
        "KeywordSpotter": assemble(
            KeywordSpotter,
            lambda s, b, t: _wav(s, b, t, 1.0),
            (2, 400),
            [(1, 333), (4, 640), (3, 512)],
            [(5, 450), (1, 601), (2, 377), (3, 700), (6, 352)],
            101,
        ),
        "SpectralGate": assemble(
            SpectralGate,
            _wav,
            (2, 200),
            [(1, 129), (3, 300), (5, 90)],
            [(4, 150), (2, 257), (1, 411), (3, 100), (2, 512)],
            102,
        ),
        "LoudnessLeveler": assemble(
            LoudnessLeveler,
            _wav,
            (2, 160, 0.1),
            [(1, 200, 0.0002), (3, 120, 2.2), (2, 90, 0.004), (4, 300, 0.03)],
            [(2, 210, 0.2), (1, 140, 0.0001), (5, 100, 2.5), (3, 256, 0.006), (4, 180, 0.05)],
            103,
        ),
        "DitherQuantizer": assemble(
            DitherQuantizer, _wav, (2, 100), [(1, 140), (3, 81)], [(4, 120), (2, 95), (1, 200), (5, 64)], 104
        ),
    }
