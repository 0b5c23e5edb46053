"""Operations of ONNX Runtime: `onnx_operations.py make DIR` writes a model for each (with the package onnx), and
`onnx_operations.py run DIR OUT.json` runs each on the GPU, where it may not fall back to the processor, and compares the result with
the processor's in single precision. `check` runs them on the processor alone.

`ORT_DISABLE_FLASH_ATTENTION=1 ORT_DISABLE_MEMORY_EFFICIENT_ATTENTION=1` leaves attention to the fused kernels, whose code lies bare
in `.rodata`.
"""

import itertools, json, os, sys
import numpy as np

UNARY = "Abs Neg Exp Log Sqrt Sin Cos Tanh Sigmoid Relu Erf Floor Ceil Round Reciprocal Softplus Softsign Elu Selu LeakyRelu HardSigmoid Gelu HardSwish".split()
BINARY = "Add Sub Mul Div Pow Max Min PRelu".split()
REDUCE = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceProd ReduceSumSquare".split()
LOGIC = "Equal Greater Less GreaterOrEqual LessOrEqual".split()

def cases():
    f = lambda *s: ("f", s)
    for op in UNARY:
        for t in ("float", "float16"):
            for shape in ((5, 7), (2, 3, 64, 65)):
                yield f"{op} {t} {shape}", "", op, [f(*shape)], {}, t, 1
    for op in BINARY + LOGIC:
        for t in ("float", "float16"):
            for shapes in (((5, 7), (5, 7)), ((2, 3, 64, 65), (65,)), ((4, 1, 6), (1, 5, 1))):
                if op == "PRelu" and shapes[0] == (4, 1, 6): continue
                yield f"{op} {t} {shapes}", "", op, [f(*s) for s in shapes], {}, t, "bool" if op in LOGIC else 1
    for op in REDUCE:
        for t in ("float", "float16"):
            for axes in ([-1], [0, 2], [1]):
                yield f"{op} {t} {axes}", "", op, [f(3, 5, 33), ("i", axes)], {"keepdims": 1}, t, 1
    for op in ("Softmax", "LogSoftmax", "ArgMax", "ArgMin"):
        for t in ("float", "float16"):
            for axis in (-1, 1):
                yield f"{op} {t} {axis}", "", op, [f(4, 50, 37)], {"axis": axis}, t, "int64" if op[:3] == "Arg" else 1
    for t, s in itertools.product(("float", "float16"), ((16, 32, 8), (100, 64, 72), (1, 512, 128), (128, 256, 384))):
        m, k, n = s
        yield f"MatMul {t} {s}", "", "MatMul", [f(m, k), f(k, n)], {}, t, 1
        yield f"MatMul batched {t} {s}", "", "MatMul", [f(3, m, k), f(3, k, n)], {}, t, 1
        yield f"Gemm {t} {s}", "", "Gemm", [f(m, k), f(n, k), f(n)], {"transB": 1}, t, 1
    for t in ("float", "float16"):
        for g, k, st in ((1, 3, 1), (1, 1, 1), (2, 3, 2), (8, 3, 1), (1, 5, 2)):
            yield f"Conv {t} g{g} k{k} s{st}", "", "Conv", [f(2, 8, 20, 20), f(16, 8 // g, k, k), f(16)], {"group": g, "strides": [st, st], "pads": [k // 2] * 4}, t, 1
        yield f"ConvTranspose {t}", "", "ConvTranspose", [f(2, 8, 10, 10), f(8, 4, 3, 3)], {"strides": [2, 2]}, t, 1
        for op in ("MaxPool", "AveragePool"):
            yield f"{op} {t}", "", op, [f(2, 8, 20, 20)], {"kernel_shape": [3, 3], "strides": [2, 2]}, t, 1
        yield f"GlobalAveragePool {t}", "", "GlobalAveragePool", [f(2, 8, 20, 20)], {}, t, 1
        yield f"BatchNormalization {t}", "", "BatchNormalization", [f(2, 8, 9, 9), f(8), f(8), f(8), ("p", (8,))], {}, t, 1
        yield f"InstanceNormalization {t}", "", "InstanceNormalization", [f(2, 8, 9, 9), f(8), f(8)], {}, t, 1
        yield f"LayerNormalization {t}", "", "LayerNormalization", [f(4, 17, 96), f(96), f(96)], {"axis": -1}, t, 1
        yield f"Transpose {t}", "", "Transpose", [f(3, 4, 5, 6)], {"perm": [2, 0, 3, 1]}, t, 1
        yield f"Concat {t}", "", "Concat", [f(3, 4), f(3, 5)], {"axis": 1}, t, 1
        yield f"Gather {t}", "", "Gather", [f(30, 8), ("i", [3, 7, 0, 29])], {"axis": 0}, t, 1
        yield f"GatherElements {t}", "", "GatherElements", [f(4, 3), ("i", [[0, 1, 2], [3, 2, 1]])], {"axis": 0}, t, 1
        yield f"GatherND {t}", "", "GatherND", [f(4, 3, 2), ("i", [[0, 1], [3, 2]])], {}, t, 1
        yield f"ScatterND {t}", "", "ScatterND", [f(8, 3), ("i", [[0], [3]]), f(2, 3)], {}, t, 1
        yield f"ScatterElements {t}", "", "ScatterElements", [f(4, 3), ("i", [[0, 1, 2]]), f(1, 3)], {"axis": 0}, t, 1
        yield f"Slice {t}", "", "Slice", [f(9, 8), ("i", [1]), ("i", [8]), ("i", [0]), ("i", [2])], {}, t, 1
        yield f"Expand {t}", "", "Expand", [f(3, 1, 5), ("i", [3, 4, 5])], {}, t, 1
        yield f"Tile {t}", "", "Tile", [f(3, 5), ("i", [2, 3])], {}, t, 1
        yield f"Pad {t}", "", "Pad", [f(3, 5), ("i", [1, 2, 3, 0])], {}, t, 1
        yield f"CumSum {t}", "", "CumSum", [f(3, 50), ("i0", 1)], {}, "float", 1
        yield f"Resize {t}", "", "Upsample9", [f(1, 2, 5, 5)], {}, t, 1
        yield f"Trilu {t}", "", "Trilu", [f(9, 9)], {"upper": 0}, t, 1
        yield f"DepthToSpace {t}", "", "DepthToSpace", [f(1, 8, 4, 4)], {"blocksize": 2}, t, 1
        yield f"Einsum {t}", "", "Einsum", [f(3, 4, 5), f(3, 5, 6)], {"equation": "bij,bjk->bik"}, t, 1
        yield f"Clip {t}", "", "ClipC", [f(9, 9)], {}, t, 1
        yield f"Where {t}", "", "WhereC", [f(9, 9), f(9, 9)], {}, t, 1
        yield f"TopK {t}", "", "TopKC", [f(4, 50)], {}, t, 1
        for op in ("LSTM", "GRU", "RNN"):
            n = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
            yield f"{op} {t}", "", op, [f(6, 2, 8), f(1, n * 16, 8), f(1, n * 16, 16)], {"hidden_size": 16}, t, 1
        ms = "com.microsoft"
        yield f"SkipLayerNormalization {t}", ms, "SkipLayerNormalization", [f(2, 8, 64), f(2, 8, 64), f(64), f(64)], {}, t, 1
        yield f"BiasGelu {t}", ms, "BiasGelu", [f(2, 8, 64), f(64)], {}, t, 1
        yield f"FastGelu {t}", ms, "FastGelu", [f(2, 8, 64), f(64)], {}, t, 1
        yield f"QuickGelu {t}", ms, "QuickGelu", [f(2, 8, 64)], {}, t, 1
        yield f"SimplifiedLayerNormalization {t}", "", "SimplifiedLayerNormalization", [f(4, 17, 96), f(96)], {"axis": -1}, t, 1
        yield f"FusedMatMul {t}", ms, "FusedMatMul", [f(4, 17, 96), f(4, 40, 96)], {"transB": 1, "alpha": 0.5}, t, 1
        for s, heads, size in itertools.product((32, 64, 96, 128, 256, 384, 512, 700), (2, 12), (32, 64, 128)):
            if heads == 12 and (s not in (128, 384, 512) or size == 128): continue
            h = heads * size
            yield f"MultiHeadAttention {t} s{s} n{heads} d{size}", ms, "MultiHeadAttention", [f(2, s, h)] * 3, {"num_heads": heads}, t, 1
            yield f"MultiHeadAttention causal {t} s{s} n{heads} d{size}", ms, "MultiHeadAttention", [f(2, s, h)] * 3, {"num_heads": heads, "unidirectional": 1}, t, 1
            yield f"MultiHeadAttention cross {t} s{s} n{heads} d{size}", ms, "MultiHeadAttention", [f(2, s, h), f(2, 77, h), f(2, 77, h)], {"num_heads": heads}, t, 1
            if h <= 768 and size != 128:
                yield f"Attention {t} s{s} n{heads} d{size}", ms, "Attention", [f(2, s, h), f(h, 3 * h), f(3 * h)], {"num_heads": heads}, t, 1
                yield f"Attention mask {t} s{s} n{heads} d{size}", ms, "Attention", [f(2, s, h), f(h, 3 * h), f(3 * h), ("l", (s, s // 2 + 1))], {"num_heads": heads}, t, 1

def model(domain, op, inputs, attributes, kind, out):
    from onnx import TensorProto as T, helper as h, numpy_helper as nh
    dtype = T.FLOAT if kind == "float" else T.FLOAT16
    graph_inputs, names, fixed, nodes = [], [], [], []
    for i, (k, v) in enumerate(inputs):
        name = f"x{i}"; names.append(name)
        if k in ("f", "p"): graph_inputs.append(h.make_tensor_value_info(name, dtype, list(v)))
        elif k == "i": fixed.append(nh.from_array(np.array(v, np.int64), name))
        elif k == "i0": fixed.append(nh.from_array(np.array(v, np.int64), name))
        elif k == "l": fixed.append(nh.from_array(np.array(v, np.int32), name))
    outputs = ["y"]
    half = np.float32 if kind == "float" else np.float16
    if op == "ClipC":
        op = "Clip"; fixed += [nh.from_array(np.array(-0.5, half), "lo"), nh.from_array(np.array(0.5, half), "hi")]; names += ["lo", "hi"]
    elif op == "WhereC":
        op = "Where"; nodes.append(h.make_node("Greater", names, ["c"])); names = ["c"] + names
    elif op == "TopKC":
        op = "TopK"; fixed.append(nh.from_array(np.array([5], np.int64), "k")); names.append("k"); outputs = ["y", "z"]
    elif op == "Upsample9":
        op = "Resize"; fixed.append(nh.from_array(np.array([1, 1, 2, 2], np.float32), "s")); names += ["", "s"]; attributes = {"mode": "linear"}
    nodes.append(h.make_node(op, names, outputs, domain=domain, **attributes))
    kinds = {1: dtype, "bool": T.BOOL, "int64": T.INT64}
    graph = h.make_graph(nodes, "g", graph_inputs, [h.make_tensor_value_info("y", kinds[out], None)], fixed)
    return h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 20), h.make_opsetid("com.microsoft", 1)])

def make(where):
    import onnx
    os.makedirs(where, exist_ok=True)
    listed = []
    for i, (name, domain, op, inputs, attributes, kind, out) in enumerate(cases()):
        pair = []
        for k in dict.fromkeys((kind, "float")):
            path = f"{i}-{k}.onnx"; pair.append(path)
            open(f"{where}/{path}", "wb").write(model(domain, op, inputs, attributes, k, out).SerializeToString())
        listed.append({"name": name, "kind": kind, "models": pair, "inputs": [list(v) for k, v in inputs if k in ("f", "p")], "names": [f"x{i}" for i, (k, v) in enumerate(inputs) if k in ("f", "p")], "positive": [k == "p" for k, v in inputs if k in ("f", "p")], "op": op})
    json.dump(listed, open(f"{where}/list.json", "w"))

def run(where, out, gpu=True):
    import onnxruntime as ort
    ort.set_default_logger_severity(4)
    results = {}
    for i, case in enumerate(json.load(open(f"{where}/list.json"))):
        rng = np.random.default_rng(i)
        scale = 0.1 if "Attention" in case["name"] or "Gemm" in case["name"] or "MatMul" in case["name"] else 1.0
        arrays = [rng.standard_normal(s).astype(np.float32) * scale for s in case["inputs"]]
        arrays = [np.abs(a) + 0.1 if p or case["op"] in ("Log", "Sqrt", "Pow", "ReduceLogSumExp", "ReduceProd") else a for a, p in zip(arrays, case["positive"])]
        if case["op"] == "Reciprocal" or case["op"] == "Div": arrays = [np.sign(a) * (np.abs(a) + 0.3) for a in arrays]
        arrays = [a.astype(np.float16).astype(np.float32) for a in arrays]
        def ask(path, providers, dtype):
            options = ort.SessionOptions(); options.log_severity_level = 4; options.intra_op_num_threads = 2
            if providers[0] != "CPUExecutionProvider": options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            session = ort.InferenceSession(f"{where}/{path}", options, providers=providers)
            return session.run(["y"], {n: a.astype(dtype) for n, a in zip(case["names"], arrays)})[0], session.get_providers()[0]
        try:
            want, _ = ask(case["models"][-1], ["CPUExecutionProvider"], np.float32)
        except Exception as error:
            results[case["name"]] = {"reference": str(error)[:200]}; want = None
        if not gpu: continue
        try:
            got, provider = ask(case["models"][0], [("CUDAExecutionProvider", {"use_tf32": "0"})] , np.float32 if case["kind"] == "float" else np.float16)
            result = results.setdefault(case["name"], {})
            result["provider"] = provider
            if want is not None:
                difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
                result["error"] = float(np.nanmax(difference / (1 + np.abs(want.astype(np.float64)))))
            result["finite"] = bool(np.isfinite(got.astype(np.float64)).all())
        except Exception as error:
            results.setdefault(case["name"], {})["failed"] = str(error)[:300]
    json.dump(results, open(out, "w"))
    failed = {n: r["failed"] for n, r in results.items() if "failed" in r}
    far = {n: r["error"] for n, r in results.items() if r.get("error", 0) > (2e-2 if "float16" in n else 2e-4)}
    print(len(results), "operations;", len(failed), "failed;", len(far), "far;", sum("reference" in r for r in results.values()), "without reference;", sum(r.get("provider") != "CUDAExecutionProvider" and "failed" not in r for r in results.values()), "not on the GPU")
    for n, r in list(failed.items())[:12]: print("FAILED", n, r)
    for n, r in list(far.items())[:20]: print("FAR", n, r)

if sys.argv[1] == "make": make(sys.argv[2])
elif sys.argv[1] == "check": run(sys.argv[2], sys.argv[3], gpu=False)
else: run(sys.argv[2], sys.argv[3])
