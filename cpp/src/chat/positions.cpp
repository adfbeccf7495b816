#include "chat/positions.h"

#include <algorithm>

#include "base/error.h"

namespace glm {

namespace {

// The column of the mask that the answer fills.
std::int64_t blank_column(const std::vector<Id>& ids, const std::vector<Id>& masks, bool ranked) {
    auto found = ids.end();
    for (const Id mask : masks) {
        const auto place = std::find(ids.begin(), ids.end(), mask);
        if (place == ids.end()) continue;
        if (ranked) return place - ids.begin();
        found = std::min(found, place);
    }
    if (found == ids.end()) throw Error("a prompt without mask token: take export and tokenizer from one model");
    return found - ids.begin();
}

}  // namespace

std::vector<std::int64_t> Positions::of(const std::vector<Id>& ids, int prefix_length) const {
    const std::size_t count = ids.size();
    std::vector<std::int64_t> places(rows() * count);
    for (std::size_t i = 0; i < count; ++i) places[i] = static_cast<std::int64_t>(i);
    if (!blank || !inside_blank) return places;
    const std::int64_t column = blank_column(ids, masks, ranked);
    for (std::size_t i = prefix_length; i < count; ++i) {
        places[i] = column;
        places[count + i] = static_cast<std::int64_t>(i) - prefix_length + 1;
    }
    return places;
}

std::int64_t Positions::longest(std::int64_t source, std::int64_t target) const {
    if (!blank) return source + target - 1;
    return inside_blank ? std::max(source - 1, target) : source - 1 + target;
}

}  // namespace glm
