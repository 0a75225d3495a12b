import scipy.ndimage
import torch
from torch import Tensor


def smooth(x: Tensor) -> Tensor:
    rows = x.detach().numpy()  # expect: numpy-in-forward=error
    blurred = scipy.ndimage.uniform_filter(rows, size=3)  # expect: non-torch-call=error
    return torch.from_numpy(blurred)  # expect: captured-constant=error, numpy-in-forward=warning
