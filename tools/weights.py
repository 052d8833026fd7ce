"""Weights of the zoo: python tools/weights.py list|info|download|import|verify|convert|export (--help says more).

The same as python -m backbones.weights, which needs no checkout.
"""

from backbones.weights.__main__ import run

if __name__ == "__main__":
    run()
