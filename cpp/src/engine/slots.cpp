#include "engine/slots.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

int common_prefix(const std::vector<Id>& ids, std::size_t count, const std::vector<Id>& prefix) {
    std::size_t same = 0;
    while (same < std::min(count, prefix.size()) && ids[same] == prefix[same]) ++same;
    return static_cast<int>(same);
}

}  // namespace

int Slots::free_count() const { return static_cast<int>(std::count(in_use_.begin(), in_use_.end(), 0)); }

void Slots::reserve(std::int64_t slots, std::int64_t max_length, std::int64_t least) {
    if (max_length > runtime_.capacity)
        fail_usage("prompt and output need ", max_length, " positions of the cache, and it ends at ",
                   runtime_.capacity, ": shorten the prompt or choose a smaller max_length");
    if (!fits(least, max_length))
        fail_usage(least, " slot(s) of ", max_length, " positions need ",
                   grouped(runtime_.cache_bytes(static_cast<int>(least), static_cast<int>(max_length))),
                   " bytes of key/value cache, and the limit is ", grouped(*memory_limit_),
                   ": raise it, or choose fewer beams or a smaller max_length");
    while (slots > least && !fits(slots, max_length)) --slots;
    if (!cache_ || slots > cache_->slots || max_length > cache_->max_length) grow(slots, max_length);
}

bool Slots::fits(std::int64_t slots, std::int64_t max_length) const {
    return !memory_limit_ ||
           runtime_.cache_bytes(static_cast<int>(slots), static_cast<int>(max_length)) <= *memory_limit_;
}

void Slots::grow(std::int64_t slots, std::int64_t max_length) {
    std::unique_ptr<Cache> old = std::move(cache_);
    std::vector<std::vector<Id>> prefixes = std::move(prefixes_);
    const std::vector<std::int64_t> used = std::move(last_used_);
    std::size_t longest = 0;
    for (const auto& prefix : prefixes) longest = std::max(longest, prefix.size());
    if (old != nullptr) {  // prefixes move over where the limit allows both caches for that moment
        const std::int64_t wider = std::max<std::int64_t>(slots, old->slots);
        const std::int64_t longer = std::max<std::int64_t>(max_length, old->max_length);
        const std::int64_t both = runtime_.cache_bytes(static_cast<int>(wider), static_cast<int>(longer)) +
                                  runtime_.cache_bytes(old->slots, old->max_length);
        if (longest > 0 && (!memory_limit_ || both <= *memory_limit_)) {
            slots = wider;
            max_length = longer;
        } else {
            old.reset();
        }
    }
    release();
    const auto count = static_cast<std::size_t>(slots);
    cache_ = runtime_.new_cache(static_cast<int>(slots), static_cast<int>(max_length));
    prefixes_.resize(count);
    lengths_.assign(count, 0);
    last_used_.assign(count, 0);
    in_use_.assign(count, 0);
    if (old == nullptr) return;
    std::vector<int> kept(static_cast<std::size_t>(old->slots));
    std::iota(kept.begin(), kept.end(), 0);
    runtime_.copy(*cache_, kept, *old, kept, 0, static_cast<int>(longest));
    for (std::size_t slot = 0; slot < kept.size(); ++slot) {
        lengths_[slot] = static_cast<std::int64_t>(prefixes[slot].size());
        prefixes_[slot] = std::move(prefixes[slot]);
        last_used_[slot] = used[slot];
    }
}

void Slots::release() {
    cache_.reset();
    prefixes_.clear();
    lengths_.clear();
    last_used_.clear();
    in_use_.clear();
    active_ = 0;
}

Slots::Longest Slots::longest_prefix(const std::vector<Id>& ids) const {
    Longest best{-1, 0};
    bool best_free = false;
    for (int slot = 0; slot < count(); ++slot) {
        const auto place = static_cast<std::size_t>(slot);
        const int length = common_prefix(ids, ids.size() - 1, prefixes_[place]);
        const bool is_free = !in_use_[place];
        if (length > best.length || (length == best.length && is_free && !best_free)) {
            best = {length, slot};
            best_free = is_free;
        }
    }
    return best;
}

std::vector<int> Slots::open(const std::vector<Id>& ids, int count_wanted) {
    const Longest longest = longest_prefix(ids);
    std::vector<int> free;
    for (int slot = 0; slot < count(); ++slot)
        if (!in_use_[static_cast<std::size_t>(slot)]) free.push_back(slot);
    std::stable_sort(free.begin(), free.end(), [this](int one, int other) {  // the empty ones, then the oldest
        const bool a = !prefix(one).empty(), b = !prefix(other).empty();
        return a != b ? a < b : last_used_[static_cast<std::size_t>(one)] < last_used_[static_cast<std::size_t>(other)];
    });
    const auto source = std::find(free.begin(), free.end(), longest.slot);
    if (longest.length > 0 && source != free.end()) {
        free.erase(source);
        // What was read beside the common part would be lost: worth it where that is little, or nothing else is.
        if (2 * static_cast<std::size_t>(longest.length) >= prefix(longest.slot).size() ||
            count_wanted > static_cast<int>(free.size()))
            free.insert(free.begin(), longest.slot);
    }
    free.resize(static_cast<std::size_t>(count_wanted));
    for (const int slot : free) {
        const int kept = slot == longest.slot && slot == free[0] ? longest.length : 0;
        prefix(slot).resize(static_cast<std::size_t>(kept));
        length(slot) = kept;
        in_use_[static_cast<std::size_t>(slot)] = 1;
    }
    return free;
}

int Slots::extend(int slot, const std::vector<Id>& ids) {
    const Longest longest = longest_prefix(ids);
    if (longest.length > length(slot)) {
        if (longest.slot != slot) {
            runtime_.copy(*cache_, {slot}, *cache_, {longest.slot}, static_cast<int>(length(slot)), longest.length);
            touch({longest.slot});
        }
        note(slot, ids, static_cast<std::size_t>(longest.length), true);
    }
    return static_cast<int>(length(slot));
}

void Slots::note(int slot, const std::vector<Id>& ids, std::size_t count, bool keep) {
    prefix(slot).assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(keep ? count : 0));
    length(slot) = static_cast<std::int64_t>(count);
}

Slots::Moved Slots::start(int slot) {
    const int first = active_++;
    return slot != first ? exchange(first, slot) : Moved{};
}

void Slots::share(const std::vector<int>& slots, const std::vector<Id>& ids, bool keep) {
    if (slots.size() > 1) {
        const std::vector<int> others(slots.begin() + 1, slots.end());
        runtime_.copy(*cache_, others, *cache_, std::vector<int>(others.size(), slots[0]), 0,
                      static_cast<int>(ids.size()));
    }
    for (const int slot : slots) note(slot, ids, ids.size(), keep);
}

Slots::Moved Slots::close(const std::vector<int>& slots) {
    touch(slots);
    std::vector<char> gone(in_use_.size(), 0);
    int closed = 0;
    for (const int slot : slots) {
        in_use_[static_cast<std::size_t>(slot)] = 0;
        length(slot) = static_cast<std::int64_t>(prefix(slot).size());
        if (slot < active_) {
            gone[static_cast<std::size_t>(slot)] = 1;
            ++closed;
        }
    }
    const int end = active_;
    active_ -= closed;
    Moved moved;
    int mover = active_;
    for (int gap = 0; gap < active_; ++gap) {
        if (!gone[static_cast<std::size_t>(gap)]) continue;
        while (mover < end && gone[static_cast<std::size_t>(mover)]) ++mover;
        exchange(gap, mover);
        moved[mover++] = gap;
    }
    return moved;
}

Slots::Moved Slots::exchange(int one, int other) {
    std::vector<int> to, of;
    std::int64_t longest = 0;
    for (const auto& [target, source] : {std::pair(one, other), std::pair(other, one)})
        if (length(source) > 0) {
            to.push_back(target);
            of.push_back(source);
            longest = std::max(longest, length(source));
        }
    if (!to.empty()) runtime_.copy(*cache_, to, *cache_, of, 0, static_cast<int>(longest));
    const auto a = static_cast<std::size_t>(one), b = static_cast<std::size_t>(other);
    std::swap(prefixes_[a], prefixes_[b]);
    std::swap(lengths_[a], lengths_[b]);
    std::swap(in_use_[a], in_use_[b]);
    std::swap(last_used_[a], last_used_[b]);
    return {{other, one}, {one, other}};
}

void Slots::touch(const std::vector<int>& slots) {
    ++uses_;
    for (const int slot : slots) last_used_[static_cast<std::size_t>(slot)] = uses_;
}

}  // namespace glm
