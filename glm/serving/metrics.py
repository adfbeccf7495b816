"""Counters for Prometheus, under vLLM's names with `glm:` in place of `vllm:`, so that its dashboards fit."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from glm.serving.exchange import Record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_LONG = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# Of the engine's counters: name there → gauge, or counter.
_GAUGES = {
    "running": ("num_requests_running", "Texts that are being read or written."),
    "waiting": ("num_requests_waiting", "Texts that wait for a row."),
    "cache_usage": ("kv_cache_usage_perc", "Share of the cache's columns that rows in use hold; 1 is all."),
}
_COUNTERS = {
    "prompt_tokens": ("prefix_cache_queries", "Tokens of prompts that were looked up in the cache."),
    "reused_tokens": ("prefix_cache_hits", "Those of them that were there."),
    "drafts": ("spec_decode_num_drafts", "Drafts of prompt lookup."),
    "draft_tokens": ("spec_decode_num_draft_tokens", "Tokens of them."),
    "accepted_tokens": ("spec_decode_num_accepted_tokens", "Those of them that were right."),
}


class Metrics:
    """The counters of one server. Their only label is the model's name: others would grow with the requests.

    Args:
        model: its name.
    """

    def __init__(self, model: str):
        self._registry, self._model = CollectorRegistry(), model
        self._gauges = {key: self._made(Gauge, *entry) for key, entry in _GAUGES.items()}
        self._counters = {key: self._made(Counter, *entry) for key, entry in _COUNTERS.items()}
        self._counted = dict.fromkeys(_COUNTERS, 0.0)
        self._prompt = self._made(Counter, "prompt_tokens", "Tokens of prompts.")
        self._written = self._made(Counter, "generation_tokens", "Tokens that were written.")
        name, help_text = "glm:request_success", "Texts that ended, by how."
        self._success = Counter(name, help_text, ["model_name", "finished_reason"], registry=self._registry)
        self._first = self._made(Histogram, "time_to_first_token_seconds", "Arrival to first token.", _SECONDS)
        self._gap = self._made(Histogram, "inter_token_latency_seconds", "Between tokens of a text.", _SECONDS)
        self._queued = self._made(Histogram, "request_queue_time_seconds", "Of a text, in the queue.", _SECONDS)
        self._read = self._made(Histogram, "request_prefill_time_seconds", "To read a prompt.", _SECONDS)
        self._whole = self._made(Histogram, "e2e_request_latency_seconds", "Arrival to end.", _LONG)
        self._iteration = self._made(Histogram, "iteration_tokens_total", "Tokens an iteration wrote.", _TOKENS)

    def observe(self, record: Record) -> None:
        """Counts a request that has ended, however it did, but for one that was refused: nothing of it was read."""
        if not record.taken:
            return
        self._prompt.inc(record.usage.prompt)
        self._whole.observe(record.seconds)
        if record.first is not None:
            self._first.observe(record.first)
        for gap in record.gaps:
            self._gap.observe(gap)
        for finish in record.finishes:
            self._queued.observe(finish.queued)
            self._read.observe(finish.read)
        for reason in record.reasons:
            self._success.labels(self._model, reason).inc()

    def iteration(self, tokens: int) -> None:
        """Counts an iteration of the engine."""
        self._written.inc(tokens)
        self._iteration.observe(tokens)

    def text(self, stats: Mapping[str, float]) -> bytes:
        """Prometheus' text format.

        Args:
            stats: the engine's counters.
        """
        for key, gauge in self._gauges.items():
            gauge.set(stats.get(key, 0))
        for key, counter in self._counters.items():
            value = stats.get(key, 0)
            counter.inc(max(value - self._counted[key], 0))
            self._counted[key] = value
        return generate_latest(self._registry)

    def _made(self, kind, name: str, help_text: str, buckets=None):
        options = {} if buckets is None else {"buckets": buckets}
        return kind(f"glm:{name}", help_text, ["model_name"], registry=self._registry, **options).labels(self._model)
