// Step graphs that return new keys and values instead of writing them (glm/export/paddle_step.py, onnx/column_cache.py):
// the cache lies here, the graph reads it where it lies, and what is new is written into it (glm/runtime/columns.py).
#pragma once

#include <set>

#include "runtime/graph_module.h"
#include "runtime/memory.h"
#include "runtime/step.h"

namespace glm {

// What a step graph takes and gives, as far as it has to be known.
struct GraphShapes {
    std::set<std::string> inputs;
    std::vector<std::string> past;  // names of the inputs of the cache, keys and values by turns, or latents
    std::int64_t heads = 0, head_dim = 0, vocab_size = 0, position_rows = 0;
};

// A graph that a runtime has loaded.
class Graph {
public:
    Graph(const glm_graph_table& table, const RuntimeOptions& options);  // throws Error
    ~Graph() { table_.close(graph_); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void set(const std::string& name, const std::vector<std::int64_t>& data, const std::vector<int>& shape);
    void set(const std::string& name, const float* data, const std::vector<int>& shape);
    void run();

    // An output of so many numbers. Throws Error where it has others.
    const float* output(int place, std::int64_t count);

    // Of a runtime that tells. Throws Error where it is no step graph.
    GraphShapes shapes(const fs::path& model_file);

private:
    struct End {  // an input or output
        std::string name;
        std::vector<int> shape;
    };
    std::vector<End> ends(bool output);

    void require_ok(int status, const glm_graph_error& error, const std::string& doing) const;

    const glm_graph_table& table_;
    glm_graph* graph_ = nullptr;
};

// Of the program's JSON, for Paddle's predictor tells nothing before it has run. Throws Error.
GraphShapes paddle_graph_shapes(const fs::path& model_file);

class ColumnsStep : public StepRuntime {
public:
    ColumnsStep(std::unique_ptr<Graph> graph, GraphShapes shapes);

    std::int64_t cache_bytes(int slots, int max_length) const override;
    std::unique_ptr<Cache> new_cache(int slots, int max_length) override;
    const float* decode(Cache& cache, const std::vector<std::int64_t>& ids, const std::vector<std::int64_t>& positions,
                        const std::vector<std::int64_t>& lengths) override;
    void copy(Cache& to, const std::vector<int>& slots, const Cache& of, const std::vector<int>& sources, int first,
              int end) override;

private:
    struct Store;

    // As much is read at once as the scores have room for.
    const float* read(Cache& cache, const Chunk& chunk) override;

    // Logits of `count` sequences of `tokens` new ones; their keys and values go into slots from `slot` on.
    const float* run(Store& store, int slot, int count, int tokens, const std::vector<std::int64_t>& ids,
                     const std::vector<std::int64_t>& positions, const std::vector<std::int64_t>& lengths,
                     std::int64_t prefix_length);
    void write(Store& store, int slot, int count, int tokens, const std::vector<std::int64_t>& starts);

    std::unique_ptr<Graph> graph_;
    GraphShapes shapes_;
    std::vector<float> read_;  // what a prompt has read so far, of all layers
};

}  // namespace glm
