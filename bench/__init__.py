"""recscale: a benchmark harness for scalable recommenders."""

__version__ = "0.1.0"
