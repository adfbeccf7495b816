// What a Paddle step graph takes and gives, read from its program's JSON.
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "export/json_file.h"
#include "runtime/columns_step.h"

namespace glm {

namespace {

using nlohmann::json;

// The attributes of an operator by name.
std::map<std::string, json> attributes(const json& op) {
    std::map<std::string, json> found;
    for (const json& each : op.at("A")) found[each.at("N").get<std::string>()] = each.at("AT").at("D");
    return found;
}

void read_input(const json& op, GraphShapes& shapes) {
    std::map<std::string, json> entry = attributes(op);
    const std::string name = entry["name"].get<std::string>();
    const auto shape = entry["shape"].get<std::vector<std::int64_t>>();
    shapes.inputs.insert(name);
    if (name == "position_ids") shapes.position_rows = shape.at(1);
    if (name.rfind("past_", 0) != 0) return;
    shapes.past.push_back(name);
    shapes.heads = shape.at(1);
    shapes.head_dim = shape.at(3);
    if (const std::string dtype = entry["dtype"].get<std::string>(); dtype != "float32")
        fail("its cache is ", dtype, ", and this program computes in float32: export with --dtype float32, or use "
             "infer_generation.py");
}

}  // namespace

GraphShapes paddle_graph_shapes(const fs::path& model_file) {
    if (!fs::is_regular_file(model_file))
        fail(model_file.string(), " is missing: export the model with --format paddle");
    const std::string advice = "export the model again";
    const json program = parse_object(read_file(model_file, advice), model_file, advice);
    GraphShapes shapes;
    std::vector<std::vector<std::int64_t>> outputs;
    try {
        for (const json& op : program.at("program").at("regions").at(0).at("blocks").at(0).at("ops")) {
            const json& name = op.at("#");
            if (name == "1.data") read_input(op, shapes);
            if (name == "1.fetch")
                outputs.push_back(op.at("O").at(0).at("TT").at("D").at(1).get<std::vector<std::int64_t>>());
        }
    } catch (const Error& error) {
        fail(model_file.string(), ": ", error.what());
    } catch (const std::exception& error) {  // of JSON that is another, or of a shape that is too short
        fail(model_file.string(), " is damaged (", on_one_line(error.what()), "): ", advice);
    }
    if (shapes.past.empty() || outputs.size() != 2 || outputs[0].empty() || shapes.heads < 1 || shapes.head_dim < 1)
        fail(model_file.string(), " is no step graph: give the file whose name ends in .step.json");
    shapes.vocab_size = outputs[0].back();
    return shapes;
}

}  // namespace glm
