"""What a pass costs, in forward passes: the currency in which methods are compared.

In a layer y = W x the forward pass is one product of the size of W. A backward pass takes two, for
the gradients of x and of W; a pass of forward-mode differentiation takes three, for y and for the
tangents W x' and W' x. What gradient checkpointing computes a second time is not counted.
"""

BACKWARD = 2
FORWARD_MODE = 3
