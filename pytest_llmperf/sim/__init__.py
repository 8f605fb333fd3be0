"""A simulator of a vLLM server: latencies that emerge from a scheduler, a KV cache and a step-time model.

``spec.SimSpec`` says what is simulated, ``server.serve`` serves it, ``virtual.open_loop`` and ``virtual.closed_loop``
run the same engine in virtual time.
"""
