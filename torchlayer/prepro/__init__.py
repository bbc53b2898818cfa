"""Images made different, to learn more from them, and sequences made equally long.

Images are ``(H, W)``, ``(H, W, C)`` or batches ``(N, H, W, C)``. A NumPy array comes back as an array, a tensor as a
tensor on its device, computed there; nothing waits for a GPU. With ``is_random=True`` each image of a batch has draws
of its own. Functions that end in ``_multi`` give several images the same draws, such as a picture and its mask.

``rng`` is where random numbers come from: ``None`` is NumPy's global stream for arrays, as in TensorLayer, and torch's
global one of the device for tensors; an int is a seed; or a NumPy ``Generator`` or ``RandomState``, or a
``torch.Generator``. Without ``is_random`` it is not used.

Moved and picked pixels (``order=0``, crops, flips) keep their values and dtype. What lies between pixels or is computed
from them is floating point: the images' own dtype, or float32 for integers. Functions that make pixels brighter or
darker give integers back as such, rounded. No function changes what it is given, and no result shares memory with it.
"""

from .crop import crop as crop
from .crop import crop_multi as crop_multi
from .distort import crop_central_whiten_images as crop_central_whiten_images
from .distort import distorted_images as distorted_images
from .flip import flip_axis as flip_axis
from .flip import flip_axis_multi as flip_axis_multi
from .normalise import featurewise_norm as featurewise_norm
from .normalise import per_image_standardization as per_image_standardization
from .normalise import samplewise_norm as samplewise_norm
