"""The engine's metrics page, under vLLM's names."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from simulator.engine import Engine

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@dataclass(slots=True)
class Histogram:
    """Counts by boundary, and the sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.total += value
        self.counts[next((i for i, edge in enumerate(_SECONDS) if value <= edge), len(_SECONDS))] += 1


@dataclass(slots=True)
class EngineMetrics:
    """What the page says beside the engine's own state."""

    first_token: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)
    started: float = field(default_factory=time.time)

    def render(self, engine: Engine, model: str, adapters_at_once: int = 0) -> str:
        """Prometheus text; ``adapters_at_once``: of LoRA adapters, 0 for an engine that serves none."""
        labels = f'engine="0",model_name="{model}"'
        totals = engine.totals
        lines = [
            f"vllm:num_requests_running{{{labels}}} {len(engine.running)}",
            f"vllm:num_requests_waiting{{{labels}}} {len(engine.waiting)}",
            f"vllm:kv_cache_usage_perc{{{labels}}} {engine.cache.usage}",
            f"vllm:prefix_cache_queries_total{{{labels}}} {totals.prefix_queries}",
            f"vllm:prefix_cache_hits_total{{{labels}}} {totals.prefix_hits}",
            f"vllm:prompt_tokens_total{{{labels}}} {totals.prompt_tokens + totals.prefix_hits}",
            f"vllm:prompt_tokens_cached_total{{{labels}}} {totals.prefix_hits}",
            f"vllm:generation_tokens_total{{{labels}}} {totals.generated_tokens}",
            f"vllm:num_preemptions_total{{{labels}}} {totals.preemptions}",
            f"process_start_time_seconds {self.started:.3f}",
            f'vllm:cache_config_info{{block_size="{engine.profile.block_size}",num_gpu_blocks="{engine.cache.capacity}"}} 1',
        ]
        if adapters_at_once:
            running, waiting = (
                ",".join(sorted({one.adapter for one in some if one.adapter}))
                for some in (engine.running, engine.waiting)
            )
            of_adapters = (
                f'max_lora="{adapters_at_once}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
            )
            lines.append(f"vllm:lora_requests_info{{{of_adapters}}} {time.time()}")
        for name, histogram in (
            ("vllm:time_to_first_token_seconds", self.first_token),
            ("vllm:inter_token_latency_seconds", self.inter_token),
            ("vllm:e2e_request_latency_seconds", self.end_to_end),
        ):
            total = 0
            for edge, count in zip((*map(str, _SECONDS), "+Inf"), histogram.counts, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{labels},le="{edge}"}} {total}')
            lines += [f"{name}_sum{{{labels}}} {histogram.total}", f"{name}_count{{{labels}}} {total}"]
        return "\n".join(lines) + "\n"
