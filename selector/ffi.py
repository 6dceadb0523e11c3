"""``tvm_ffi`` without torch, which it imports where it is installed: 2 s and 185 MB of a process that runs networks.

Where torch is imported already, or later, the two work together.  TVM's compiler imports torch by itself.
"""

import sys

_hide_torch = "torch" not in sys.modules and "tvm_ffi" not in sys.modules
if _hide_torch:
    sys.modules["torch"] = None  # type: ignore[assignment]  # whoever imports it gets an ImportError
try:
    import tvm_ffi
    import tvm_ffi.libinfo
finally:
    if _hide_torch:
        del sys.modules["torch"]

__all__ = ["tvm_ffi"]
