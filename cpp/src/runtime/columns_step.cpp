#include "runtime/columns_step.h"

#include <algorithm>
#include <cmath>

namespace glm {

namespace {

constexpr std::int64_t kMostPairs = 256 * 8192;  // of new tokens and seen ones in one call: 8 MB of scores a head
constexpr std::int64_t kStep = 128;  // positions by which it grows; a runtime plans for every size that it meets

std::vector<int> as_ints(std::initializer_list<std::int64_t> sizes) {
    std::vector<int> shape;
    for (const std::int64_t size : sizes) shape.push_back(static_cast<int>(size));
    return shape;
}

// Tokens first … end of a chunk, behind those before them.
Chunk part_of(const Chunk& chunk, std::size_t first, std::size_t end) {
    const std::size_t count = chunk.ids.size(), rows = chunk.positions.size() / count;
    const auto ids = chunk.ids.begin();
    Chunk part{chunk.slot, chunk.start + static_cast<int>(first), 0, {ids + first, ids + end}, {}};
    for (std::size_t row = 0; row < rows; ++row) {
        const std::int64_t* places = &chunk.positions[row * count];
        part.positions.insert(part.positions.end(), places + first, places + end);
    }
    return part;
}

}  // namespace

Graph::Graph(const glm_graph_table& table, const RuntimeOptions& options) : table_(table) {
    glm_graph_error error{};
    const int status = table.open(options.model_file.c_str(), options.params_file.c_str(), options.cpu_threads, &graph_,
                                  &error);
    const std::string name = std::string(table.runtime).substr(0, std::string(table.runtime).find('\n'));
    require_ok(status, error, name + " cannot load " + options.model_file.string());
}

void Graph::require_ok(int status, const glm_graph_error& error, const std::string& doing) const {
    if (status != 0) fail(doing, ": ", on_one_line(error.text).substr(0, 300));
}

void Graph::set(const std::string& name, const std::vector<std::int64_t>& data, const std::vector<int>& shape) {
    glm_graph_error error{};
    require_ok(table_.set_int64(graph_, name.c_str(), data.data(), shape.data(), static_cast<int>(shape.size()), &error),
               error, "the graph's " + name);
}

void Graph::set(const std::string& name, const float* data, const std::vector<int>& shape) {
    glm_graph_error error{};
    require_ok(table_.set_float(graph_, name.c_str(), data, shape.data(), static_cast<int>(shape.size()), &error),
               error, "the graph's " + name);
}

void Graph::run() {
    glm_graph_error error{};
    require_ok(table_.run(graph_, &error), error, "the graph failed");
}

const float* Graph::output(int place, std::int64_t count) {
    glm_graph_error error{};
    const float* data = nullptr;
    std::size_t found = 0;
    require_ok(table_.output(graph_, place, &data, &found, &error), error, "the graph's output");
    if (static_cast<std::int64_t>(found) != count)
        fail("an output of the graph has ", found, " numbers instead of ", count, ": export the model again");
    return data;
}

std::vector<Graph::End> Graph::ends(bool output) {
    std::vector<End> found;
    int shape[GLM_GRAPH_MOST_DIMENSIONS], rank = 0;
    const char* name = nullptr;
    glm_graph_error error{};
    for (int place = 0; table_.describe(graph_, output, place, &name, shape, &rank, &error) == 0; ++place)
        found.push_back({name, {shape, shape + rank}});
    require_ok(*error.text != '\0', error, "the graph");
    return found;
}

GraphShapes Graph::shapes(const fs::path& model_file) {
    GraphShapes shapes;
    std::set<std::string> outputs;
    for (const End& end : ends(false)) {
        shapes.inputs.insert(end.name);
        if (end.name == "position_ids" && end.shape.size() == 3) shapes.position_rows = end.shape[1];
        if ((end.name != "past_key_0" && end.name != "past_latent_0") || end.shape.size() != 4) continue;
        shapes.heads = end.shape[1];
        shapes.head_dim = end.shape[3];
    }
    for (const End& end : ends(true)) {
        outputs.insert(end.name);
        if (end.name == "logits" && !end.shape.empty()) shapes.vocab_size = end.shape.back();
    }
    const std::vector<std::string> kinds = shapes.inputs.count("past_latent_0")
                                               ? std::vector<std::string>{"past_latent_"}
                                               : std::vector<std::string>{"past_key_", "past_value_"};
    for (int layer = 0; shapes.inputs.count(kinds[0] + std::to_string(layer)); ++layer)
        for (const std::string& kind : kinds) shapes.past.push_back(kind + std::to_string(layer));
    const bool is_step = shapes.inputs.size() == shapes.past.size() + 5 && shapes.heads > 0 && shapes.head_dim > 0 &&
                         shapes.position_rows > 0 && shapes.vocab_size > 0 &&
                         outputs == std::set<std::string>{"logits", "new"};
    if (!is_step)
        fail(model_file.string(),
             " is no step graph that gives new keys and values back, as its manifest says: export the model again");
    return shapes;
}

// Keys and values of all layers by turns, or latents: [parts, slots, K, C, D].
struct ColumnsStep::Store : Cache {
    Store(int slot_count, int positions, std::size_t part_count, std::int64_t heads, std::int64_t head_dim)
        : Cache(slot_count, positions),
          slot_size(static_cast<std::size_t>(heads * positions * head_dim)),
          array(zeros(part_count * static_cast<std::size_t>(slot_count) * slot_size)) {}

    // [K, C, D]
    float* at(std::size_t part, int slot) const {
        return array.get() + (part * static_cast<std::size_t>(slots) + static_cast<std::size_t>(slot)) * slot_size;
    }

    const std::size_t slot_size;
    FloatArray array;
};

ColumnsStep::ColumnsStep(std::unique_ptr<Graph> graph, GraphShapes shapes)
    : graph_(std::move(graph)), shapes_(std::move(shapes)) {
    vocab_size = shapes_.vocab_size;
    if (shapes_.inputs.count("position_ids")) position_rows = shapes_.position_rows;
}

std::int64_t ColumnsStep::cache_bytes(int slots, int max_length) const {
    return 4 * static_cast<std::int64_t>(shapes_.past.size()) * slots * shapes_.heads * max_length * shapes_.head_dim;
}

std::unique_ptr<Cache> ColumnsStep::new_cache(int slots, int max_length) {
    return std::make_unique<Store>(slots, max_length, shapes_.past.size(), shapes_.heads, shapes_.head_dim);
}

const float* ColumnsStep::read(Cache& cache, const Chunk& chunk) {
    auto& store = static_cast<Store&>(cache);
    const std::size_t tokens = chunk.ids.size();
    const int count = static_cast<int>(tokens), start = chunk.start;
    if (chunk.prefix_length == 0 && count > 1 && static_cast<std::int64_t>(count) * (start + count) > kMostPairs) {
        // The scores of all of it would take too much memory.
        read(store, part_of(chunk, 0, tokens / 2));
        return read(store, part_of(chunk, tokens / 2, tokens));
    }
    // Only what was read is worth the scores of a whole chunk; one hidden position stands for none.
    const std::int64_t seen = std::max(start, 1), width = seen * shapes_.head_dim;
    const auto part_size = static_cast<std::size_t>(shapes_.heads * width);
    read_.resize(shapes_.past.size() * part_size);
    for (std::size_t part = 0; part < shapes_.past.size(); ++part) {
        float* copied = &read_[part * part_size];
        for (std::int64_t head = 0; head < shapes_.heads; ++head)
            std::copy_n(store.at(part, chunk.slot) + head * store.max_length * shapes_.head_dim, width,
                        copied + head * width);
        graph_->set(shapes_.past[part], copied, as_ints({1, shapes_.heads, seen, shapes_.head_dim}));
    }
    return run(store, chunk.slot, 1, count, chunk.ids, chunk.positions, {start}, chunk.prefix_length);
}

const float* ColumnsStep::decode(Cache& cache, const std::vector<std::int64_t>& ids,
                                 const std::vector<std::int64_t>& positions,
                                 const std::vector<std::int64_t>& lengths) {
    check_step(cache, lengths);
    auto& store = static_cast<Store&>(cache);
    const int count = static_cast<int>(ids.size());
    // One row of one head lies in one piece, so no more of it is read than there is.
    const std::int64_t there = (std::max<std::int64_t>(lengths[0], 1) + kStep - 1) / kStep * kStep;
    const std::int64_t columns =
        count * shapes_.heads == 1 ? std::min<std::int64_t>(store.max_length, there) : store.max_length;
    for (std::size_t part = 0; part < shapes_.past.size(); ++part)
        graph_->set(shapes_.past[part], store.at(part, 0), as_ints({count, shapes_.heads, columns, shapes_.head_dim}));
    return run(store, 0, count, 1, ids, positions, lengths, 0);
}

const float* ColumnsStep::run(Store& store, int slot, int count, int tokens, const std::vector<std::int64_t>& ids,
                              const std::vector<std::int64_t>& positions, const std::vector<std::int64_t>& lengths,
                              std::int64_t prefix_length) {
    const auto rows = static_cast<std::size_t>(count);
    const auto set = [&](const std::string& name, const std::vector<std::int64_t>& data, const std::vector<int>& shape) {
        if (shapes_.inputs.count(name)) graph_->set(name, data, shape);
    };
    set("input_ids", ids, {count, tokens});
    set("position_ids", positions, as_ints({count, position_rows, tokens}));
    set("lengths", lengths, {count});
    const std::vector<std::int64_t> prefixes(rows, prefix_length), last(rows, tokens - 1);  // wanted until it has run
    set("prefix_length", prefixes, {count});
    set("last", last, {count, 1});
    graph_->run();
    write(store, slot, count, tokens, lengths);
    return graph_->output(0, count * vocab_size);
}

void ColumnsStep::write(Store& store, int slot, int count, int tokens, const std::vector<std::int64_t>& starts) {
    const auto parts = static_cast<std::int64_t>(shapes_.past.size());
    const std::int64_t width = tokens * shapes_.head_dim, size = parts * count * shapes_.heads * width;
    const float* from = graph_->output(1, size);  // [parts, B, K, T, D]
    // Hidden positions count 0 times, and 0 · nan would be nan in every later sequence of the slot.
    if (!std::all_of(from, from + size, [](float value) { return std::isfinite(value); }))
        throw Error(
            "the model's keys or values became nan or infinite (float32): its weights are damaged, or its numbers "
            "overflow: export it with --dtype bfloat16 or float32");
    for (std::size_t part = 0; part < shapes_.past.size(); ++part)
        for (int row = 0; row < count; ++row)
            for (std::int64_t head = 0; head < shapes_.heads; ++head, from += width)
                std::copy_n(from, width,
                            store.at(part, slot + row) +
                                (head * store.max_length + starts[static_cast<std::size_t>(row)]) * shapes_.head_dim);
}

void ColumnsStep::copy(Cache& to, const std::vector<int>& slots, const Cache& of, const std::vector<int>& sources,
                       int first, int end) {
    auto& target = static_cast<Store&>(to);
    const auto& source = static_cast<const Store&>(of);
    const auto width = static_cast<std::size_t>((end - first) * shapes_.head_dim);
    std::vector<float> moved(slots.size() * width);  // read before anything is written, so slots may change places
    for (std::size_t part = 0; part < shapes_.past.size(); ++part)
        for (std::int64_t head = 0; head < shapes_.heads; ++head) {
            for (std::size_t i = 0; i < sources.size(); ++i)
                std::copy_n(source.at(part, sources[i]) + (head * source.max_length + first) * shapes_.head_dim, width,
                            &moved[i * width]);
            for (std::size_t i = 0; i < slots.size(); ++i)
                std::copy_n(&moved[i * width], width,
                            target.at(part, slots[i]) + (head * target.max_length + first) * shapes_.head_dim);
        }
}

}  // namespace glm
