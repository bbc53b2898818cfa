"""Sphinx configuration: ``python -m sphinx -n -W -b html docs docs/_build/html``, from the root, without a network."""

from sphinx.pycode.parser import VariableCommentPicker

from torchlayer._version import __version__
from torchlayer.layers import Layer
from torchlayer.layers._two_inputs import _TwoInputLayer
from torchlayer.layers.dynamic import Dynamic

project = "torchlayer"
release = __version__
copyright = "the torchlayer contributors"
html_title = f"{project} {release}"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
myst_heading_anchors = 3

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "ignore-module-all": True,
}
autodoc_inherit_docstrings = False  # else every layer repeats what nn.Module says about forward
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_custom_sections = ["Shape", "Reference"]
napoleon_use_param = False  # "acc, cost: ..." is one line about two arguments
napoleon_use_rtype = False

# Pages say what to pass. Overloads and Layer.__new__, which autodoc would show instead, say what a call returns.
VariableCommentPicker.is_overload = lambda self, decorators: False
del Layer.__new__, _TwoInputLayer.__new__, Dynamic.__new__


def show_network(app, what, name, obj, options, signature, returns):
    """To a type checker a layer takes no network: `Layer.__new__` took it. To a reader it is the first argument."""
    if signature and "layer: None = None" in signature:
        return signature.replace("layer: None = None", "layer=None"), returns
    return None


def show_public_base(app, name, obj, options, bases):
    """What a class takes from a private one is its own business; the page names what stands behind both."""
    for i, base in enumerate(bases):
        while base.__name__.startswith("_") or "._" in base.__module__:
            base = base.__bases__[0]
        bases[i] = base


def setup(app):
    app.connect("autodoc-process-signature", show_network)
    app.connect("autodoc-process-bases", show_public_base)


nitpick_ignore_regex = [
    (r"py:class", r"torchlayer\.layers\._.*"),  # a private file, named in an annotation
    # other projects, whose pages would have to be downloaded to be linked to
    ("py:.*", r"(torch|numpy|np|matplotlib|collections|concurrent|pathlib|random|os|re)\..*"),
    # names in annotations that autodoc cannot evaluate, since one of them is only imported for type checkers; a TypeVar
    ("py:class", r"Axes|Figure|Image|Path|Shape|Tensor|.*\.T"),
]
