"""Side-by-side measurements: jaxflow and its peers, on the same work, in alternation.

    python -m benchmarks [--only NAME ...] [--output FILE.json] [--quick] [--peer PYTHON]
                         [--rivals PYTHON]
    python -m benchmarks.gpu [--output FILE.json] [--tiny] [--peer PYTHON]

Each side of a case is a worker, a process under an interpreter of its own, so that neither's thread
pool or memory weighs on the other and the two may run under different Pythons. A case names one
factory for each side: of `ours`, and of `peers` (PyTorch) or `rivals` (other JAX libraries);
`timing` drives the two in turn, A B A B.
"""
