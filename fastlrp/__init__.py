"""fastlrp: layer-wise relevance propagation at hardware speed on CPUs."""

from importlib import import_module

try:
    import_module("._kernels", __name__)  # first, so that what is missing is said here
except ImportError as missing:
    raise ImportError(f"fastlrp's compiled part, fastlrp._kernels, cannot be loaded from {__path__[0]}: {missing}. If "
                      "these are the sources, build it there with `pip install -e .`, or start Python elsewhere with "
                      "fastlrp installed (`pip install .`).", name=f"{__name__}._kernels") from missing

from . import composites, datasets, rules, train, viz
from ._version import __version__
from .errors import FormatError, UnsupportedError
from .explain import Conservation, Explanation
from .io import load
from .io.lrp_toolbox import from_lrp_toolbox
from .io.onnx import from_onnx
from .io.sklearn import from_sklearn
from .io.torch import from_torch
from .layers import *  # noqa: F403  the layers are the package's vocabulary
from .layers import __all__ as _layers
from .network import Network
from .ops import cpu_info, get_num_threads, set_num_threads

__all__ = ["Conservation", "Explanation", "FormatError", "Network", "UnsupportedError", "__version__", "composites",
           "cpu_info", "datasets", "from_lrp_toolbox", "from_onnx", "from_sklearn", "from_torch", "get_num_threads",
           "load", "rules", "set_num_threads", "train", "viz", *_layers]
