"""TensorRT: plans built locally from verified graphs, kept in a private cache, and run on the CUDA layer.

One code path serves `tensorrt` 10.x and 11.x and `tensorrt_rtx`; `module` alone tells them apart. Networks are strongly
typed, so precision lives in the graph.
"""
