"""recscale: a benchmark harness for scalable recommenders.

import recscale

frame = recscale.run("gowalla", models=["ease[l2=80]", "popularity"], protocol="fixed")   # a DataFrame of records
model = recscale.model("ease", l2=500).fit(matrix)                                        # any scipy matrix (U, I)
scores = model.score(matrix[:10])                                                         # (10, I) float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "dataset", "evaluate", "explain", "model", "records", "report", "run", "split"]

if TYPE_CHECKING:
    from recscale.api import dataset, evaluate, explain, model, records, report, run, split


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for, so that `import recscale` is instant."""
    if name in __all__:
        from recscale import api

        return getattr(api, name)
    raise AttributeError(f"module 'recscale' has no attribute {name!r}")
