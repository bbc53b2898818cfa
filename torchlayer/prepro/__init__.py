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

from .affine import rotation as rotation
from .affine import rotation_multi as rotation_multi
from .affine import shear as shear
from .affine import shear_multi as shear_multi
from .affine import shift as shift
from .affine import shift_multi as shift_multi
from .affine import zoom as zoom
from .affine import zoom_multi as zoom_multi
from .colour import brightness as brightness
from .colour import brightness_multi as brightness_multi
from .colour import channel_shift as channel_shift
from .colour import channel_shift_multi as channel_shift_multi
from .colour import constant as constant
from .colour import constant_multi as constant_multi
from .colour import contrast as contrast
from .colour import contrast_multi as contrast_multi
from .colour import random_brightness as random_brightness
from .colour import random_contrast as random_contrast
from .crop import crop as crop
from .crop import crop_multi as crop_multi
from .distort import crop_central_whiten_images as crop_central_whiten_images
from .distort import distorted_images as distorted_images
from .drop import drop as drop
from .elastic import elastic_transform as elastic_transform
from .elastic import elastic_transform_multi as elastic_transform_multi
from .flip import flip_axis as flip_axis
from .flip import flip_axis_multi as flip_axis_multi
from .matrix import apply_transform as apply_transform
from .matrix import transform_matrix_offset_center as transform_matrix_offset_center
from .morphology import binary_dilation as binary_dilation
from .morphology import binary_erosion as binary_erosion
from .morphology import dilation as dilation
from .morphology import erosion as erosion
from .normalise import featurewise_norm as featurewise_norm
from .normalise import per_image_standardization as per_image_standardization
from .normalise import samplewise_norm as samplewise_norm
from .pictures import array_to_img as array_to_img
from .projective import projective_transform_by_points as projective_transform_by_points
from .remap import remap as remap
from .resize import imresize as imresize
from .sequences import pad_sequences as pad_sequences
from .sequences import process_sequences as process_sequences
from .sequences import sequences_add_start_id as sequences_add_start_id
from .sequences import sequences_get_mask as sequences_get_mask
from .swirl import swirl as swirl
from .swirl import swirl_multi as swirl_multi
from .threads import threading_data as threading_data
from .whitening import get_zca_whitening_principal_components_img as get_zca_whitening_principal_components_img
from .whitening import zca_whitening as zca_whitening
