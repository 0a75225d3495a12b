"""Made-up inputs for the large models, one sample at a time and without batch dimension. NumPy only, no torch."""

from collections.abc import Iterator

import numpy as np

IMAGE_SIZE = 224
# BERT's vocabulary: its padding, the marks around a sequence, and the first of the ordinary words.
PAD, CLS, SEP, FIRST_WORD, VOCABULARY = 0, 101, 102, 1000, 30522


def images(count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``count`` samples ``pixel_values`` float32 [3, 224, 224], about -3..3, mean near 0.

    As in photographs, amplitude falls with spatial frequency, channels resemble each other, and brightness
    and contrast differ from image to image. The same seed gives the same images.
    """
    generator = np.random.default_rng(seed)
    vertical = np.fft.fftfreq(IMAGE_SIZE)[:, None]
    horizontal = np.fft.rfftfreq(IMAGE_SIZE)[None, :]
    frequency = np.sqrt(vertical**2 + horizontal**2)
    frequency[0, 0] = 1.0
    fall = 1.0 / frequency
    fall[0, 0] = 0.0  # The mean is drawn by itself, below.
    for _ in range(count):
        noise = generator.standard_normal((4, IMAGE_SIZE, IMAGE_SIZE))
        fields = np.fft.irfft2(np.fft.rfft2(noise) * fall, s=(IMAGE_SIZE, IMAGE_SIZE))
        fields /= fields.std(axis=(1, 2), keepdims=True)
        # One field of light that the channels share, and one of colour for each.
        pixels = fields[:1] * 0.9 + fields[1:] * 0.44
        contrast = generator.uniform(0.5, 1.2)
        brightness = generator.normal(0.0, 0.4) + generator.normal(0.0, 0.2, (3, 1, 1))
        yield {"pixel_values": np.clip(pixels * contrast + brightness, -3.0, 3.0).astype(np.float32)}


def tokens(count: int, length: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields ``count`` samples ``input_ids`` int64 [length], 0..30521, and ``attention_mask`` int64 [length], 0 or 1.

    Each is a mark, words, a mark, then padding to ``length`` (at least 2): half of ``length`` or more is real.
    Few words are frequent and many are rare, as in a language. The same seed gives the same tokens.
    """
    generator = np.random.default_rng(seed)
    words = VOCABULARY - FIRST_WORD
    for _ in range(count):
        real = int(generator.integers(max(2, length // 2), length + 1))
        # The logarithm of a word's rank is uniform: frequency falls as one over the rank.
        rank = np.exp(generator.uniform(0.0, np.log(words), real - 2)).astype(np.int64)
        input_ids = np.full(length, PAD, np.int64)
        input_ids[:real] = np.concatenate([[CLS], FIRST_WORD + np.minimum(rank, words) - 1, [SEP]])
        yield {"input_ids": input_ids, "attention_mask": (np.arange(length) < real).astype(np.int64)}
