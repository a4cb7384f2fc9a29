"""The side of other JAX libraries: factories that return a `Task`, as their own users would write.

They run in an environment that has jaxflow too, so that both sides have one jax.
"""
