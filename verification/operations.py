"""Runs GPU operations of PyTorch and writes what came out: `operations.py OUT.json`.

Each operation is named; its result is kept as the SHA-256 of the bytes, and as mean and standard deviation for those that
differ from run to run. Inputs come from seeds, so that two processes compute the same.
"""

import hashlib
import json
import sys

import torch
import torch.nn.functional as F

DEVICE = "cuda"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
results = {}


def record(name, operation):
    torch.manual_seed(7)
    try:
        out = operation()
        torch.cuda.synchronize()
    except Exception as error:
        results[name] = {"error": repr(error)[:300]}
        return
    out = out.detach().contiguous().cpu().reshape(-1)
    raw = out.view(torch.uint8) if out.dtype != torch.bool else out.to(torch.uint8)
    number = (out.abs() if out.is_complex() else out).double()
    results[name] = {
        "sha256": hashlib.sha256(raw.numpy().tobytes()).hexdigest(),
        "mean": float(number.abs().mean()),
        "std": float(number.std()) if number.numel() > 1 else 0.0,
    }


def random(*shape, dtype=torch.float32, seed=1):
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    return torch.randn(*shape, device=DEVICE, generator=generator).to(dtype)


def dense():
    for name, dtype in DTYPES.items():
        a, b = random(1024, 768, dtype=dtype), random(768, 512, dtype=dtype, seed=2)
        image, kernel = random(8, 32, 64, 64, dtype=dtype), random(64, 32, 3, 3, dtype=dtype, seed=2)
        heads = random(2, 8, 512, 64, dtype=dtype)
        record(f"matmul {name}", lambda: a @ b)
        record(f"batched matmul {name}", lambda: torch.bmm(random(16, 64, 96, dtype=dtype), random(16, 96, 32, dtype=dtype)))
        record(f"linear with bias {name}", lambda: F.linear(a, random(256, 768, dtype=dtype), random(256, dtype=dtype)))
        record(f"convolution {name}", lambda: F.conv2d(image, kernel, padding=1))
        record(f"strided convolution {name}", lambda: F.conv2d(image, kernel, stride=2))
        record(f"grouped convolution {name}", lambda: F.conv2d(image, random(32, 1, 5, 5, dtype=dtype), groups=32))
        record(f"transposed convolution {name}", lambda: F.conv_transpose2d(image, random(32, 16, 4, 4, dtype=dtype)))
        record(f"1d convolution {name}", lambda: F.conv1d(random(4, 16, 500, dtype=dtype), random(32, 16, 7, dtype=dtype)))
        record(f"3d convolution {name}", lambda: F.conv3d(random(2, 4, 16, 16, 16, dtype=dtype), random(8, 4, 3, 3, 3, dtype=dtype)))
        record(f"attention {name}", lambda: F.scaled_dot_product_attention(heads, heads, heads))
        record(f"causal attention {name}", lambda: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True))
        record(f"layer norm {name}", lambda: F.layer_norm(a, (768,)))
        record(f"group norm {name}", lambda: F.group_norm(image, 8))
        record(f"batch norm {name}", lambda: F.batch_norm(image, None, None, training=True))
        record(f"softmax {name}", lambda: torch.softmax(a, -1))
        record(f"gelu {name}", lambda: F.gelu(a))
        record(f"silu {name}", lambda: F.silu(a))
        record(f"max pool {name}", lambda: F.max_pool2d(image, 2))
        record(f"interpolate {name}", lambda: F.interpolate(image, scale_factor=1.5, mode="bilinear"))
        record(f"sort {name}", lambda: torch.sort(a, -1)[0])
        record(f"topk {name}", lambda: torch.topk(a, 9)[0])
        record(f"sum {name}", lambda: a.sum(0))
        record(f"embedding {name}", lambda: F.embedding(torch.arange(0, 1024, 5, device=DEVICE), a))


def algebra():
    square = random(256, 256)
    positive = square @ square.T + 256 * torch.eye(256, device=DEVICE)
    record("cholesky", lambda: torch.linalg.cholesky(positive))
    record("inverse", lambda: torch.linalg.inv(positive))
    record("solve", lambda: torch.linalg.solve(positive, square))
    record("singular values", lambda: torch.linalg.svdvals(square))
    record("eigenvalues", lambda: torch.linalg.eigvalsh(positive))
    record("qr", lambda: torch.linalg.qr(square)[1].abs())
    record("lu", lambda: torch.linalg.lu_factor(positive)[0])
    record("batched cholesky", lambda: torch.linalg.cholesky(positive[:32, :32].expand(20, 32, 32).contiguous()))
    record("least squares", lambda: torch.linalg.lstsq(positive, square)[0])
    record("double matmul", lambda: square.double() @ square.double())
    record("complex matmul", lambda: square.to(torch.complex64) @ square.to(torch.complex64))
    record("int8 matmul", lambda: torch._int_mm((square[:64, :64] * 9).to(torch.int8), (square[:64, :64] * 9).to(torch.int8)))
    record("fft", lambda: torch.fft.fft2(square))
    record("odd fft", lambda: torch.fft.rfftn(random(60, 70, 91)))
    record("inverse fft", lambda: torch.fft.irfft(random(16, 513).to(torch.complex64)))
    record("double fft", lambda: torch.fft.fft(random(33, 1001).double()))
    sparse = random(512, 512)
    sparse[sparse < 1] = 0
    record("sparse matmul", lambda: torch.sparse.mm(sparse.to_sparse_csr(), sparse))
    record("sparse coo matmul", lambda: torch.sparse.mm(sparse.to_sparse_coo(), sparse))
    record("cumulative sum", lambda: torch.cumsum(square, 0))
    record("index select", lambda: square.index_select(0, torch.arange(0, 256, 3, device=DEVICE)))
    record("scatter add", lambda: torch.zeros(256, 256, device=DEVICE).scatter_add(0, torch.arange(256, device=DEVICE).expand(256, 256), square))
    record("unique", lambda: torch.unique((square * 10).int()))
    record("nonzero", lambda: torch.nonzero(square > 1))
    record("histogram", lambda: torch.histc(square, 50))
    record("random normal", lambda: torch.randn(1000, device=DEVICE))
    record("random permutation", lambda: torch.randperm(1000, device=DEVICE))
    record("bernoulli", lambda: torch.bernoulli(torch.full((1000,), 0.3, device=DEVICE)))
    record("multinomial", lambda: torch.multinomial(torch.softmax(square, -1), 5))


def fp8():
    a, one = random(256, 256).to(torch.float8_e4m3fn), torch.tensor(1.0, device=DEVICE)
    return torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def training(compiled):
    model = torch.nn.TransformerEncoderLayer(128, 4, batch_first=True, dropout=0.0).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step = torch.compile(model) if compiled else model
    inputs = random(4, 32, 128)
    for _ in range(3):
        optimizer.zero_grad()
        step(inputs).square().mean().backward()
        optimizer.step()
    return step(inputs)


def recurrent(kind):
    return kind(64, 64, 2).to(DEVICE)(random(10, 4, 64))[0]


def ctc():
    scores = torch.log_softmax(random(50, 4, 20), -1)
    return F.ctc_loss(scores, torch.ones(4, 10, dtype=torch.long, device=DEVICE), torch.full((4,), 50), torch.full((4,), 10))


def mixed():
    with torch.autocast(DEVICE, torch.bfloat16):
        return F.linear(random(64, 128), random(32, 128)).relu()


def graph():
    a, out = random(64, 64), torch.empty(64, 64, device=DEVICE)
    torch.matmul(a, a, out=out)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        torch.matmul(a, a, out=out)
    captured.replay()
    return out


def main():
    dense()
    algebra()
    record("fp8 matmul", fp8)
    record("lstm", lambda: recurrent(torch.nn.LSTM))
    record("gru", lambda: recurrent(torch.nn.GRU))
    record("ctc loss", ctc)
    record("autocast", mixed)
    record("cuda graph", graph)
    record("training", lambda: training(False))
    record("compiled training", lambda: training(True))
    results["(torch)"] = {"file": torch.__file__, "version": torch.__version__, "gpu": torch.cuda.get_device_name()}
    json.dump(results, open(sys.argv[1], "w"), indent=1)


main()
