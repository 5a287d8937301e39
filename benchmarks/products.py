"""What a CPU without bfloat16 products does instead, against what torch does: products in bfloat16,
and exponentials next to nothing, of which a long context is full.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._claim import claim
from benchmarks._shapes import median_s
from model.products import has_bfloat16_products, linear
from model.running import LOG2_E

CASES = {
    "2b_slice": (2048, 2048, 6144, 5.0),
    "nano_slice": (8192, 128, 384, 8.0),
    "2b_token": (1, 2048, 6144, 0.9),
}
"""Rows, inputs, outputs, goal."""
SCORES, MOST_UNDER = (4, 512, 1024), 200.0
"""A block of attention, and how far its scores lie below their peak at most."""


def products() -> None:
    for name, (rows, inputs, outputs, goal) in CASES.items():
        torch.manual_seed(0)
        x, weight = (torch.randn(n, inputs).bfloat16() for n in (rows, outputs))

        def ours(x: Tensor = x, w: Tensor = weight) -> Tensor:
            return linear(x, w)

        def library(x: Tensor = x, w: Tensor = weight) -> Tensor:
            return F.linear(x, w)

        times = median_s(ours), median_s(library)
        exact = x[:16].double() @ weight.double().mT
        errors = [float((made()[:16] - exact).norm() / exact.norm()) for made in (ours, library)]
        print(
            f"{name}: {times[0] * 1e3:.1f} and {times[1] * 1e3:.1f} ms on "
            f"{torch.get_num_threads()} threads; error {errors[0]:.3e} and {errors[1]:.3e}"
        )
        claim(f"products_speed_{name}", times[1] / times[0], goal)
        claim(f"products_error_{name}", errors[0] / errors[1], 1.005, at_most=True)


def exponentials() -> None:
    torch.manual_seed(0)
    under = torch.rand(SCORES) * -MOST_UNDER
    block = torch.empty(SCORES)

    def ours() -> Tensor:
        return torch.exp2(torch.mul(under, LOG2_E, out=block), out=block)

    def library() -> Tensor:
        return torch.exp(under, out=block)

    times = median_s(ours), median_s(library)
    error = float((ours().double() - under.double().exp()).abs().max())
    print(f"exponentials: {times[0] * 1e3:.1f} and {times[1] * 1e3:.1f} ms, error {error:.1e} of 1")
    claim("exponentials_speed", times[1] / times[0], 5.0)
    claim("exponentials_error", error, 1e-5, at_most=True)


def main() -> None:
    exponentials()
    if has_bfloat16_products():
        print("this CPU has bfloat16 products: projections are torch's own")
    else:
        products()


if __name__ == "__main__":
    main()
