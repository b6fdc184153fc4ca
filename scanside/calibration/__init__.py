"""INT8 and FP16 by measurement: data, ranges, Q/DQ placement, sensitivity, lint (workshop; ONNX only, no torch)."""
