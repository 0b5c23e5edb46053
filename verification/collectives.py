"""Collectives between all GPUs of this machine through NCCL: `collectives.py OUT.json`."""

import hashlib
import json
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def work(rank, world, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=world)
    results = {}
    for name, dtype in {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64}.items():
        for size in (1_000, 4_000_000):
            def fresh():
                generator = torch.Generator(device="cuda").manual_seed(rank + 1)
                return (torch.randn(size, device="cuda", generator=generator) * 8).to(dtype)

            def keep(operation, tensor):
                torch.cuda.synchronize()
                raw = tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes()
                results[f"{operation} {name} {size}"] = {"sha256": hashlib.sha256(raw).hexdigest()}

            for operation in ("SUM", "MAX", "PRODUCT"):
                tensor = fresh()
                dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
                keep(f"all-reduce {operation.lower()}", tensor)
            tensor = fresh()
            dist.broadcast(tensor, 0)
            keep("broadcast", tensor)
            gathered = torch.empty(size * world, device="cuda", dtype=dtype)
            dist.all_gather_into_tensor(gathered, fresh())
            keep("all-gather", gathered)
            scattered = torch.empty(size // world, device="cuda", dtype=dtype)
            dist.reduce_scatter_tensor(scattered, fresh()[: size // world * world])
            keep("reduce-scatter", scattered)
            exchanged = torch.empty(size // world * world, device="cuda", dtype=dtype)
            dist.all_to_all_single(exchanged, fresh()[: size // world * world])
            keep("all-to-all", exchanged)
    dist.barrier()
    if rank == 0:
        results["(torch)"] = {"file": torch.__file__, "gpus": world}
        json.dump(results, open(out, "w"), indent=1)
    dist.destroy_process_group()


if __name__ == "__main__":
    world = torch.cuda.device_count()
    mp.spawn(work, args=(world, sys.argv[1]), nprocs=world)
