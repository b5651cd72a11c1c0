"""Forms of a convolution and of its two gradients, each fast for some sizes; `table` chooses among them.

A form is a function of two arrays and a `Geometry`: `NAME_output(x, kernel, geometry)`,
`NAME_input(y, kernel, geometry)` for the input gradient and `NAME_kernel(x, y, geometry)` for the kernel
gradient. Shapes: x is [images, *spatial, channels], kernel is [*window, channels / groups, filters], and y,
the output or its cotangent, is [images, *spatial, filters].
"""
