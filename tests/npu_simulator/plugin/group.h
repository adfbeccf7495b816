// A group of ranks that share memory: joining, meeting at a barrier, and noticing who is missing.
//
// The memory is an anonymous file (memfd) which the others open through /proc/<pid>/fd/<n>. It has no name in /dev/shm,
// so nothing can be left behind however the ranks end, and a container's small /dev/shm does not limit it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "paddle/phi/backends/device_ext.h"

namespace npu_simulator {

constexpr size_t kSlotBytes = 2 << 20;  // what one rank puts in at a time; longer tensors go in several rounds
constexpr size_t kMailBytes = 1 << 20;  // the same for one pair of ranks
constexpr size_t kIdBytes = 64;

// What goes wrong between ranks: its text is for the user.
struct GroupError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a rank does: the ranks of one round must agree on every field.
struct Call {
  enum Kind : uint32_t { kJoin, kAllReduce, kBroadcast, kReduce, kAllGather, kReduceScatter, kSend, kReceive };
  Kind kind = kJoin;
  uint32_t dtype = 0;
  uint64_t count = 0;  // elements
  uint32_t op = 0;
  uint32_t root = 0;

  bool operator==(const Call& other) const;
  std::string ToString() const;
};

size_t BytesOf(C_DataType dtype);

// Paces a wait: yields at first, then sleeps, and says when to look whether the others still live.
class Patience {
 public:
  Patience();
  // Returns true about every 50 ms.
  bool Wait();
  void Restart();
  // Whether NPU_SIMULATOR_TIMEOUT seconds (60 by default) have passed.
  bool IsOver() const;
  static double Limit();

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_, checked_;
  int turns_ = 0;
};

// One direction between two ranks: `full` says whose turn it is.
struct alignas(64) Mailbox {
  std::atomic<uint32_t> full;
  Call call;
  uint64_t bytes;
};

class Group {
 public:
  // Writes the text by which others find the memory that this process makes for a new group.
  static void MakeId(char* id, size_t size);

  // Returns when all `size` ranks have joined. Throws GroupError.
  Group(const char* id, size_t size, size_t rank);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  size_t size() const { return size_; }
  size_t rank() const { return rank_; }
  const std::string& name() const { return name_; }

  // Where to put what the next Exchange shares.
  char* OwnSlot() { return SlotOf(rank_, round_ + 1); }
  // Waits until every rank has come with the same call; throws GroupError if one does not. The slots of all may then
  // be read until the next but one Exchange: they are doubled, which saves a second barrier.
  void Exchange(const Call& call);
  const char* Slot(size_t rank) const { return SlotOf(rank, round_); }

  Mailbox& Box(size_t from, size_t to);
  char* BoxData(size_t from, size_t to);

  // Throws GroupError if one of `ranks` has ended or left, or if patience is over.
  void CheckPresence(const std::vector<size_t>& ranks, const Patience& patience, const Call& call) const;
  [[noreturn]] void Fail(const Call& call, const std::string& what) const;

 private:
  struct alignas(64) Member {
    std::atomic<int> process;
    int trainer;
    uint64_t process_start;  // tells a process from a later one with the same number
    std::atomic<uint64_t> round;
    std::atomic<bool> left;
    Call calls[2];
  };

  void Map(const char* id);
  void Join();
  std::string Describe(size_t rank) const;
  char* SlotOf(size_t rank, uint64_t round) const;
  template <typename Predicate>
  void WaitForAll(const Call& call, Predicate present);

  const size_t size_, rank_;
  uint64_t round_ = 0;
  std::string name_;
  size_t bytes_ = 0;
  char* memory_ = nullptr;
  Member* members_ = nullptr;
  Mailbox* boxes_ = nullptr;
  char *slots_ = nullptr, *box_data_ = nullptr;
};

}  // namespace npu_simulator
