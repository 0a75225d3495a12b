"""Speech: mel front end, overlap-add vocoder, energy based trimming."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, rn


def mel_filters(n_mels, n_fft, sr):
    mel = lambda f: 2595 * math.log10(1 + f / 700)
    inv = lambda m: 700 * (10 ** (m / 2595) - 1)
    pts = [inv(mel(20) + i * (mel(sr / 2) - mel(20)) / (n_mels + 1)) for i in range(n_mels + 2)]
    bins = torch.arange(n_fft // 2 + 1) * sr / n_fft
    rows = []
    for i in range(1, n_mels + 1):
        up = (bins - pts[i - 1]) / (pts[i] - pts[i - 1])
        down = (pts[i + 1] - bins) / (pts[i + 1] - pts[i])
        rows.append(torch.minimum(up, down).clamp(min=0))
    return torch.stack(rows)


class MelFrontend(nn.Module):
    """Pre-emphasis, pad to whole hops, complex STFT, dynamic log floor (Whisper), CMVN, conv."""

    def __init__(self, n_fft=32, hop=8, n_mels=10, sr=1600):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft))
        self.register_buffer("mel", mel_filters(n_mels, n_fft, sr))
        self.conv = nn.Conv1d(n_mels, 12, 3, stride=2, padding=1)
        self.fc = nn.Linear(12, 4)

    def forward(self, wave):
        x = torch.cat([wave[:, :1], wave[:, 1:] - 0.97 * wave[:, :-1]], 1)
        rem = x.shape[-1] % self.hop
        if rem != 0:
            x = F.pad(x, (0, self.hop - rem))
        spec = torch.stft(x, self.n_fft, self.hop, window=self.window, return_complex=True)
        power = spec[..., :-1].abs() ** 2
        logm = torch.clamp(self.mel @ power, min=1e-10).log10()
        logm = torch.maximum(logm, logm.max().item() - torch.tensor(2.0))
        logm = (logm - logm.mean(-1, keepdim=True)) / (logm.std(-1, keepdim=True) + 1e-3)
        return logm, self.fc(F.gelu(self.conv(logm)).mean(-1))


class OverlapAddVocoder(nn.Module):
    """Predicts magnitude and phase, inverse rfft, overlap-add written as a loop."""

    def __init__(self, mels=8, n_fft=16, hop=4):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.pre = nn.Conv1d(mels, 16, 3, padding=1)
        self.out = nn.Conv1d(16, n_fft + 2, 1)
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, mel):
        y = self.out(F.leaky_relu(self.pre(mel), 0.1))
        mag, phase = y.chunk(2, dim=1)
        spec = torch.polar(mag.clamp(max=4).exp(), phase)
        frames = torch.fft.irfft(spec, n=self.n_fft, dim=1) * self.window[None, :, None]
        B, _, T = frames.shape
        wav = torch.zeros(B, (T - 1) * self.hop + self.n_fft)
        env = torch.zeros((T - 1) * self.hop + self.n_fft)
        for t in range(T):
            s = t * self.hop
            wav[:, s : s + self.n_fft] += frames[:, :, t]
            env[s : s + self.n_fft] += self.window**2
        cut = (self.n_fft - self.hop) // 2
        return (wav / env.clamp(min=1e-2))[:, cut : wav.shape[1] - cut]


class EnergyTrimmer(nn.Module):
    """Trims silence around the speech by frame energy, whole signal when all is quiet."""

    def __init__(self, frame=16, hop=8, db=-25.0):
        super().__init__()
        self.frame, self.hop, self.db = frame, hop, db
        self.conv = nn.Conv1d(1, 8, 16, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, signal):
        frames = signal.unfold(0, self.frame, self.hop)
        level = 10 * torch.log10(frames.pow(2).mean(-1) + 1e-8)
        voiced = torch.nonzero(level > self.db).flatten()
        if len(voiced) == 0:
            start, stop = 0, signal.shape[0]
        else:
            start = int(voiced[0]) * self.hop
            stop = int(voiced[-1]) * self.hop + self.frame
        x = signal[start:stop]
        peak = x.abs().max()
        if peak > 1.0:
            x = x / peak
        f = torch.relu(self.conv(x.view(1, 1, -1))).transpose(1, 2)
        y, h = self.rnn(f)
        return h[0, 0], x, torch.tensor([start, stop])


def cases():
    def w(seed, b, t, s=1.0):
        return {"wave": rn(seed, b, t, scale=s) * torch.linspace(0.1, 1, t)}

    def m(seed, b, t):
        return {"mel": rn(seed, b, 8, t)}

    def s(seed, n, a, b, gain):
        x = rn(seed, n, scale=1e-3)
        x[a:b] += rn(seed + 50, b - a, scale=gain)
        return {"signal": x}

    return {
        "MelFrontend": (
            build(MelFrontend, seed=51),
            w(1, 2, 160),
            [w(2, 1, 211, 0.3), w(3, 3, 130, 2.0), w(4, 2, 96)],
            [w(5, 1, 187), w(6, 3, 240, 0.5), w(7, 2, 101, 1.5), w(8, 4, 145)],
        ),
        "OverlapAddVocoder": (
            build(OverlapAddVocoder, seed=52),
            m(1, 2, 7),
            [m(2, 1, 12), m(3, 3, 5)],
            [m(4, 3, 9), m(5, 1, 6), m(6, 2, 15), m(7, 4, 10)],
        ),
        "EnergyTrimmer": (
            build(EnergyTrimmer, seed=53),
            s(1, 160, 40, 110, 0.3),
            [s(2, 200, 20, 150, 0.5), s(3, 96, 30, 60, 0.002), s(4, 130, 50, 100, 0.2)],
            [
                s(5, 180, 60, 130, 0.25),
                s(6, 140, 10, 90, 0.7),
                s(7, 112, 20, 40, 0.002),
                s(8, 220, 90, 200, 0.4),
                s(9, 150, 33, 77, 0.15),
            ],
        ),
    }
