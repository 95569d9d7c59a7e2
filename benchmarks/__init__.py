"""Speed and memory beside PyTorch, ONNX Runtime and OpenVINO: `python -m benchmarks`, from the repository's root.

harness.py    contenders, each a process of its own, measured in turn; worker.py is what runs in the process
machine.py    what the machine is, and what it can do at most
network.py    the cases, and the model in the other frameworks' form; torch_model.py, onnx_model.py
train_step.py, inference.py, kernels.py, growth.py, scaling.py      the benchmarks
tables.py     from results.json to the tables in the documents
record.py     no benchmark: whole training runs into RECORDS.md, `python -m benchmarks.record RUN ...`
crashes.py    no benchmark: runs killed at random moments and resumed, `python -m benchmarks.crashes`
"""
