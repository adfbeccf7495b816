#include "runtime/onnx_step.h"

#include <algorithm>

namespace glm {

namespace {

constexpr float kMasked = -30000.0f;  // far below any score, as in glm/model/attention.py

}  // namespace

// A call's inputs and outputs beside the cache; the binding has their addresses.
struct OnnxStep::Call {
    explicit Call(OrtSession* session) : binding(session) {}

    OnnxCall binding;
    std::vector<std::int64_t> ids, positions, last;
    std::vector<std::int32_t> lengths;
    std::int32_t total = 0;
    std::vector<float> bias, logits;
};

// Keys and values of all layers: [L, 2, slots, K, C, D].
struct OnnxStep::ArrayCache : Cache {
    ArrayCache(int slot_count, int positions, std::int64_t layers, std::int64_t heads, std::int64_t head_dim)
        : Cache(slot_count, positions),
          part(static_cast<std::size_t>(heads * positions * head_dim)),
          array(zeros(static_cast<std::size_t>(2 * layers * slot_count) * part)) {}

    // What layer `layer` has of one slot's keys (0) or values (1): [K, C, D].
    float* at(std::int64_t layer, int kind, int slot) const {
        return array.get() + (static_cast<std::size_t>(2 * layer + kind) * static_cast<std::size_t>(slots) +
                              static_cast<std::size_t>(slot)) *
                                 part;
    }

    const std::size_t part;
    FloatArray array;
    std::map<int, std::unique_ptr<Call>> steps;  // by B, how a step of the first B slots is bound
};

OnnxStep::OnnxStep(const RuntimeOptions& options) : session_(options.model_file, options.cpu_threads) {
    const auto& inputs = session_.inputs();
    const auto& outputs = session_.outputs();
    for (const auto& [name, shape] : inputs) layers_ += name.rfind("past_key_", 0) == 0;
    const auto keys = inputs.find("past_key_0"), last = inputs.find("last");
    const auto logits = outputs.find("logits");
    const bool is_step = layers_ > 0 && inputs.count("seqlens_k") && logits != outputs.end() && last != inputs.end() &&
                         keys != inputs.end() && keys->second.size() == 4 && !logits->second.empty();
    if (!is_step || keys->second[1] < 1 || keys->second[3] < 1 || logits->second.back() < 1)
        fail(options.model_file.string(), " is no step graph: export the model with --format onnx");
    capacity = options.capacity;
    vocab_size = logits->second.back();
    heads_ = keys->second[1];
    head_dim_ = keys->second[3];
    any_columns_ = last->second.size() == 2;  // before format version 5 it was [B]
    bidirectional_ = inputs.count("bias") > 0;
    // A graph without positions takes the position that a token is read into.
    if (const auto pos = inputs.find("pos"); pos != inputs.end() && pos->second.size() == 3) {
        takes_positions_ = true;
        position_rows = pos->second[1];
    }
}

OnnxStep::~OnnxStep() = default;

std::int64_t OnnxStep::cache_bytes(int slots, int max_length) const {
    return 4 * 2 * layers_ * slots * heads_ * max_length * head_dim_;
}

std::unique_ptr<Cache> OnnxStep::new_cache(int slots, int max_length) {
    return std::make_unique<ArrayCache>(slots, max_length, layers_, heads_, head_dim_);
}

std::unique_ptr<OnnxStep::Call> OnnxStep::bind(ArrayCache& cache, int slot, int count, int tokens, int total) const {
    auto call = std::make_unique<Call>(session_.get());
    OnnxCall& binding = call->binding;
    const std::int64_t rows = count;
    call->ids.resize(static_cast<std::size_t>(count * tokens));
    call->positions.resize(static_cast<std::size_t>(count * position_rows * tokens));
    call->lengths.resize(static_cast<std::size_t>(count));
    call->last.assign(static_cast<std::size_t>(count), tokens - 1);
    call->logits.resize(static_cast<std::size_t>(count * vocab_size));
    call->total = total;
    binding.bind("ids", true, call->ids.data(), {rows, tokens});
    if (takes_positions_) binding.bind("pos", true, call->positions.data(), {rows, position_rows, tokens});
    binding.bind("seqlens_k", true, call->lengths.data(), {rows});
    binding.bind("total", true, &call->total, {});
    if (any_columns_)
        binding.bind("last", true, call->last.data(), {rows, 1});
    else
        binding.bind("last", true, call->last.data(), {rows});
    if (bidirectional_) {
        call->bias.resize(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(total));
        binding.bind("bias", true, call->bias.data(), {1, 1, tokens, total});
    }
    if (any_columns_)
        binding.bind("logits", false, call->logits.data(), {rows, 1, vocab_size});
    else
        binding.bind("logits", false, call->logits.data(), {rows, vocab_size});
    const std::vector<std::int64_t> shape = {rows, heads_, cache.max_length, head_dim_};
    for (std::int64_t layer = 0; layer < layers_; ++layer)
        for (const int kind : {0, 1}) {
            const std::string name = (kind ? "value_" : "key_") + std::to_string(layer);
            binding.bind("past_" + name, true, cache.at(layer, kind, slot), shape);
            binding.bind("present_" + name, false, cache.at(layer, kind, slot), shape);
        }
    return call;
}

const float* OnnxStep::read(Cache& cache, const Chunk& chunk) {
    const int count = static_cast<int>(chunk.ids.size()), end = chunk.start + count;
    prompt_ = bind(static_cast<ArrayCache&>(cache), chunk.slot, 1, count, end);
    std::copy(chunk.ids.begin(), chunk.ids.end(), prompt_->ids.begin());
    if (takes_positions_) std::copy(chunk.positions.begin(), chunk.positions.end(), prompt_->positions.begin());
    prompt_->lengths[0] = end - 1;
    for (std::size_t i = 0; i < prompt_->bias.size(); ++i) {  // a token sees the prefix, and what stands before it
        const int place = static_cast<int>(i) % end, token = chunk.start + static_cast<int>(i) / end;
        prompt_->bias[i] = place < chunk.prefix_length || place <= token ? 0.0f : kMasked;
    }
    prompt_->binding.run();
    return prompt_->logits.data();
}

const float* OnnxStep::decode(Cache& cache, const std::vector<std::int64_t>& ids,
                              const std::vector<std::int64_t>& positions, const std::vector<std::int64_t>& lengths) {
    check_step(cache, lengths);
    auto& own = static_cast<ArrayCache&>(cache);
    const int count = static_cast<int>(ids.size());
    std::unique_ptr<Call>& call = own.steps[count];
    // The total is the capacity, at every step: each slot sees its own length.
    if (!call) call = bind(own, 0, count, 1, cache.max_length);
    std::copy(ids.begin(), ids.end(), call->ids.begin());
    if (takes_positions_) std::copy(positions.begin(), positions.end(), call->positions.begin());
    std::copy(lengths.begin(), lengths.end(), call->lengths.begin());
    call->binding.run();
    return call->logits.data();
}

void OnnxStep::copy(Cache& to, const std::vector<int>& slots, const Cache& of, const std::vector<int>& sources,
                    int first, int end) {
    auto& target = static_cast<ArrayCache&>(to);
    const auto& source = static_cast<const ArrayCache&>(of);
    const auto width = static_cast<std::size_t>((end - first) * head_dim_);
    const auto place = [&](const Cache& cache, std::int64_t head) {
        return static_cast<std::size_t>((head * cache.max_length + first) * head_dim_);
    };
    std::vector<float> moved(slots.size() * width);  // read before anything is written, so slots may change places
    for (std::int64_t layer = 0; layer < layers_; ++layer)
        for (const int kind : {0, 1})
            for (std::int64_t head = 0; head < heads_; ++head) {
                for (std::size_t i = 0; i < sources.size(); ++i)
                    std::copy_n(source.at(layer, kind, sources[i]) + place(source, head), width, &moved[i * width]);
                for (std::size_t i = 0; i < slots.size(); ++i)
                    std::copy_n(&moved[i * width], width, target.at(layer, kind, slots[i]) + place(target, head));
            }
}

}  // namespace glm
