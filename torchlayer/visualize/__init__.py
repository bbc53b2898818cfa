"""Pictures of weights, images, embeddings, learning curves and confusions.

Every function draws on a figure of its own, which no window, no notebook and no other thread knows. With
``saveable=True`` it writes one file and returns its ``Path``; with ``saveable=False`` it writes nothing and returns the
``matplotlib.figure.Figure``, to be changed further, shown in a notebook, or dropped. With ``ax=`` it draws in axes that
you have made, writes nothing, and returns their figure.

``name`` is a path. Its suffix picks the format (``.pdf .png .svg .jpg``); without one of these, ``.pdf`` is added, as
in the original. Missing folders are made, and the file appears whole or not at all. ``second`` and ``fig_idx`` are
accepted, so that the original's calls still run, and unused: no window opens, no figure is numbered.

Arrays and tensors are welcome alike, on any device, with or without a gradient.
Needs ``pip install torchlayer[vis]``; matplotlib and scikit-learn are imported by the first picture that needs them.
"""

from .curves import curves as curves
from .embedding import tsne_embedding as tsne_embedding
from .embedding import umap_embedding as umap_embedding
from .heat import attention as attention
from .heat import confusion as confusion
from .mosaic import CNN2d as CNN2d
from .mosaic import W as W
from .mosaic import frame as frame
from .mosaic import images2d as images2d
