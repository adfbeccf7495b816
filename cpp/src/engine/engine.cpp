#include "engine/engine.h"

#include <algorithm>

#include "base/error.h"

namespace glm {

// A request between its first slot and its last token.
struct Engine::Sequence {
    Sequence(std::size_t request_place, const Request& asked, std::unique_ptr<Search> searched, std::vector<int> taken)
        : place(request_place), request(asked), search(std::move(searched)), slots(std::move(taken)) {}

    const std::size_t place;
    const Request& request;
    std::unique_ptr<Search> search;
    std::vector<int> slots;
    int read = 0;                              // positions of its prompt that are read
    int prefix_length = 0;                     // tokens of it that see each other
    std::vector<std::int64_t> last_positions;  // [P] of its last token

    // What the slots have read in common, and of one beam all that it has read.
    std::vector<Id> ids() const {
        std::vector<Id> all(request.ids.begin(), request.ids.begin() + read);
        const std::vector<Id>& written = search->tokens();
        if (search->beams() == 1 && !written.empty()) all.insert(all.end(), written.begin(), written.end() - 1);
        return all;
    }
};

Engine::Engine(StepRuntime& runtime, Positions positions, std::vector<Id> ends, EngineOptions options)
    : runtime_(runtime),
      positions_(std::move(positions)),
      ends_(std::move(ends)),
      options_(options),
      slots_(runtime, options.memory_limit) {}

Engine::~Engine() = default;

void Engine::run(const std::vector<Request>& requests, std::size_t batch_size, const Finished& finished) {
    if (requests.empty()) return;
    reserve(requests, batch_size);
    try {
        std::size_t next = 0;
        while (next < requests.size() || !decoding_.empty()) {
            const bool room = next < requests.size() && decoding_.size() < batch_size &&
                              requests[next].config.num_beams <= slots_.free_count();
            if (!room) {
                decode(finished);
                continue;
            }
            const Request& request = requests[next];
            auto search = make_search(request.config, ends_, request.ids, static_cast<std::int64_t>(next % batch_size));
            std::vector<int> taken = slots_.open(request.ids, search->beams());
            auto sequence = std::make_unique<Sequence>(next++, request, std::move(search), std::move(taken));
            const float* logits = read(*sequence);
            start(std::move(sequence), logits, finished);
        }
    } catch (...) {
        decoding_.clear();
        slots_.release();
        throw;
    }
}

void Engine::reserve(const std::vector<Request>& requests, std::size_t batch_size) {
    std::vector<std::int64_t> beams;
    std::int64_t longest = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        if (requests[i].ids.empty())
            fail_usage("prompt ", i + 1, " of ", requests.size(), " is empty: give it at least one token");
        beams.push_back(requests[i].config.num_beams);
        const auto prompt = static_cast<std::int64_t>(requests[i].ids.size());
        // No sum of what a user may ask for overflows.
        longest = std::max(longest, prompt + std::min<std::int64_t>(requests[i].config.max_length, 1 << 30) - 1);
    }
    std::sort(beams.rbegin(), beams.rend());
    std::int64_t slots = 0;
    for (std::size_t i = 0; i < std::min(batch_size, beams.size()); ++i) slots += std::min<std::int64_t>(beams[i], 1 << 20);
    if (beams[0] > (1 << 20)) fail_usage("num_beams is ", beams[0], ": choose fewer beams");
    slots_.reserve(slots, longest, beams[0]);
}

const float* Engine::read(Sequence& sequence) {
    const std::vector<Id>& ids = sequence.request.ids;
    const int count = static_cast<int>(ids.size()), rows = positions_.rows(), slot = sequence.slots[0];
    sequence.prefix_length = positions_.prompt_prefix(ids);
    const std::vector<std::int64_t> places = positions_.of(ids, sequence.prefix_length);
    for (int row = 0; row < rows; ++row)
        sequence.last_positions.push_back(places[static_cast<std::size_t>(row * count + count - 1)]);
    prompt_tokens_ += count;
    const float* logits = nullptr;
    while (sequence.read < count) {
        const int held = slots_.extend(slot, ids);
        reused_tokens_ += held - sequence.read;
        const int size = sequence.prefix_length > 0 ? count : options_.chunk, end = std::min(held + size, count);
        Chunk chunk{slot, held, sequence.prefix_length, {ids.begin() + held, ids.begin() + end}, {}};
        for (int row = 0; row < rows; ++row)
            chunk.positions.insert(chunk.positions.end(), places.begin() + row * count + held,
                                   places.begin() + row * count + end);
        logits = runtime_.prefill(slots_.cache(), chunk);
        sequence.read = end;
        slots_.note(slot, ids, static_cast<std::size_t>(end), sequence.prefix_length == 0);
    }
    return logits;
}

void Engine::start(std::unique_ptr<Sequence> owned, const float* logits, const Finished& finished) {
    decoding_.push_back(std::move(owned));
    Sequence& sequence = *decoding_.back();
    for (std::size_t beam = 0; beam < sequence.slots.size(); ++beam) move(slots_.start(sequence.slots[beam]));
    slots_.share(sequence.slots, sequence.request.ids, sequence.prefix_length == 0);
    advance(sequence, logits, true);
    settle(finished);
}

void Engine::decode(const Finished& finished) {
    const auto rows = static_cast<std::size_t>(positions_.rows());
    const auto step = positions_.step();
    std::size_t count = 0;
    for (const auto& sequence : decoding_) count += sequence->slots.size();
    std::vector<std::int64_t> ids(count), places(count * rows), lengths(count);
    for (const auto& sequence : decoding_) {
        Search& search = *sequence->search;
        const std::vector<int> sources = search.take_sources();
        std::vector<int> moved, from;
        for (std::size_t beam = 0; beam < sources.size(); ++beam)
            if (sources[beam] != static_cast<int>(beam)) {
                moved.push_back(sequence->slots[beam]);
                from.push_back(sequence->slots[static_cast<std::size_t>(sources[beam])]);
            }
        const int first = static_cast<int>(sequence->request.ids.size());
        const int end = static_cast<int>(slots_.length(sequence->slots[0]));
        if (!moved.empty() && first < end) runtime_.copy(slots_.cache(), moved, slots_.cache(), from, first, end);
        for (std::size_t beam = 0; beam < sequence->slots.size(); ++beam) {
            const auto slot = static_cast<std::size_t>(sequence->slots[beam]);
            ids[slot] = search.tokens(static_cast<int>(beam)).back();
            for (std::size_t row = 0; row < rows; ++row)
                places[slot * rows + row] = sequence->last_positions[row] + search.step() * step[row];
        }
    }
    for (std::size_t slot = 0; slot < count; ++slot) lengths[slot] = slots_.length(static_cast<int>(slot));
    const float* logits = runtime_.decode(slots_.cache(), ids, places, lengths);
    for (std::size_t slot = 0; slot < count; ++slot) ++slots_.length(static_cast<int>(slot));
    const auto width = static_cast<std::size_t>(runtime_.vocab_size);
    std::vector<float> rows_of_beams;
    for (const auto& sequence : decoding_) {
        if (sequence->slots.size() == 1) {
            advance(*sequence, logits + static_cast<std::size_t>(sequence->slots[0]) * width, true);
            continue;
        }
        rows_of_beams.clear();
        for (const int slot : sequence->slots) {
            const float* row = logits + static_cast<std::size_t>(slot) * width;
            rows_of_beams.insert(rows_of_beams.end(), row, row + width);
        }
        advance(*sequence, rows_of_beams.data(), false);
    }
    settle(finished);
}

void Engine::advance(Sequence& sequence, const float* logits, bool shared) {
    Search& search = *sequence.search;
    search.advance(logits, static_cast<std::size_t>(runtime_.vocab_size), shared);
    if (search.beams() == 1 && sequence.request.on_token && sequence.request.on_token(search.tokens().back()))
        search.finished = true;
}

void Engine::settle(const Finished& finished) {
    Sequences gone;
    for (auto& sequence : decoding_)
        if (sequence->search->finished) gone.push_back(std::move(sequence));
    if (gone.empty()) return;
    decoding_.erase(std::remove(decoding_.begin(), decoding_.end(), nullptr), decoding_.end());
    leave(gone);
    for (const auto& sequence : gone) finished(sequence->place, sequence->search->result());
}

void Engine::leave(const Sequences& gone) {
    std::vector<int> slots;
    for (const auto& sequence : gone)
        for (const int slot : sequence->slots) {
            // A slot that has noted nothing holds what means something in its own sequence alone.
            if (!slots_.prefix(slot).empty()) slots_.prefix(slot) = sequence->ids();
            slots.push_back(slot);
        }
    move(slots_.close(slots));
}

void Engine::move(const Slots::Moved& moved) {
    for (const auto& sequence : decoding_)
        for (int& slot : sequence->slots)
            if (const auto found = moved.find(slot); found != moved.end()) slot = found->second;
}

}  // namespace glm
