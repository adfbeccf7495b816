#include "group.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace npu_simulator {
namespace {

constexpr int kYields = 2000;
constexpr std::chrono::microseconds kNap{50};
constexpr std::chrono::milliseconds kCheckEvery{50};
constexpr double kDefaultTimeout = 60;  // seconds

// Start time of a process in clock ticks since boot, 0 if it has ended (a zombie has, too).
uint64_t StartOf(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return 0;
  // The second field is the program's name in brackets, which may hold spaces and brackets itself.
  std::istringstream fields(line.substr(std::min(line.size(), line.rfind(')') + 1)));
  std::string state, field;
  fields >> state;
  if (state == "Z" || state == "X") return 0;
  for (int i = 4; i <= 22; ++i) fields >> field;  // proc(5): starttime is field 22
  return std::strtoull(field.c_str(), nullptr, 10);
}

size_t RoundToPage(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  return (bytes + page - 1) / page * page;
}

const char* NameOf(C_DataType dtype) {
  static const char* const kNames[] = {"undefined", "bool",    "uint8",   "uint16",   "uint32",    "uint64",
                                       "int8",      "int16",   "int32",   "int64",    "float16",   "float32",
                                       "float64",   "bfloat16", "complex64", "complex128"};
  return dtype <= COMPLEX128 ? kNames[dtype] : "unknown";
}

}  // namespace

size_t BytesOf(C_DataType dtype) {
  switch (dtype) {
    case BOOL: case UINT8: case INT8: return 1;
    case UINT16: case INT16: case FLOAT16: case BFLOAT16: return 2;
    case UINT32: case INT32: case FLOAT32: return 4;
    case UINT64: case INT64: case FLOAT64: case COMPLEX64: return 8;
    case COMPLEX128: return 16;
    default: throw GroupError("a tensor of undefined dtype cannot be sent");
  }
}

bool Call::operator==(const Call& other) const {
  return kind == other.kind && dtype == other.dtype && count == other.count && op == other.op && root == other.root;
}

std::string Call::ToString() const {
  static const char* const kKinds[] = {"join",           "all_reduce", "broadcast", "reduce", "all_gather",
                                       "reduce_scatter", "send",       "recv"};
  static const char* const kOps[] = {"sum", "avg", "max", "min", "prod"};
  if (kind == kJoin) return kKinds[kind];
  std::string text = std::string(kKinds[kind]) + " of " + std::to_string(count) + " " + NameOf(C_DataType(dtype));
  if (kind == kAllReduce || kind == kReduce || kind == kReduceScatter) text += std::string(" (") + kOps[op] + ")";
  if (kind == kBroadcast || kind == kReduce) text += " with root " + std::to_string(root);
  return text;
}

Patience::Patience() : start_(Clock::now()), checked_(start_) {}

void Patience::Restart() {
  start_ = Clock::now();
  turns_ = 0;
}

bool Patience::Wait() {
  if (++turns_ < kYields) {
    sched_yield();
    return false;
  }
  std::this_thread::sleep_for(kNap);
  const auto now = Clock::now();
  if (now - checked_ < kCheckEvery) return false;
  checked_ = now;
  return true;
}

bool Patience::IsOver() const { return std::chrono::duration<double>(Clock::now() - start_).count() > Limit(); }

double Patience::Limit() {
  const char* value = std::getenv("NPU_SIMULATOR_TIMEOUT");
  const double seconds = value ? std::atof(value) : 0;
  return seconds > 0 ? seconds : kDefaultTimeout;
}

void Group::MakeId(char* id, size_t size) {
  const int file = memfd_create("npu_simulator", MFD_CLOEXEC);
  if (file < 0) throw GroupError(std::string("no shared memory: ") + std::strerror(errno));
  std::memset(id, 0, size);
  std::snprintf(id, size, "%d.%d", getpid(), file);
}

Group::Group(const char* id, size_t size, size_t rank) : size_(size), rank_(rank), name_(id) {
  Map(id);
  Join();
}

Group::~Group() {
  members_[rank_].left = true;
  munmap(memory_, bytes_);
}

void Group::Map(const char* id) {
  int process = 0, number = 0;
  if (std::sscanf(id, "%d.%d", &process, &number) != 2) throw GroupError("the group's id is unreadable: " + name_);
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(number);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) Fail(Call{}, "rank 0 (process " + std::to_string(process) + ") has ended");
  const size_t members = RoundToPage(size_ * sizeof(Member)), boxes = RoundToPage(size_ * size_ * sizeof(Mailbox));
  const size_t slots = 2 * size_ * kSlotBytes;
  bytes_ = members + boxes + slots + size_ * size_ * kMailBytes;
  // Every rank sets the same size; new memory is zero, and pages that no one touches cost nothing.
  const bool sized = ftruncate(file, static_cast<off_t>(bytes_)) == 0;
  void* memory = sized ? mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const std::string reason = std::strerror(errno);
  close(file);
  if (memory == MAP_FAILED) Fail(Call{}, "no shared memory: " + reason);
  memory_ = static_cast<char*>(memory);
  members_ = reinterpret_cast<Member*>(memory_);
  boxes_ = reinterpret_cast<Mailbox*>(memory_ + members);
  slots_ = memory_ + members + boxes;
  box_data_ = slots_ + slots;
}

void Group::Join() {
  Member& self = members_[rank_];
  const char* trainer = std::getenv("PADDLE_TRAINER_ID");
  self.trainer = trainer ? std::atoi(trainer) : static_cast<int>(rank_);
  self.process_start = StartOf(getpid());
  self.process.store(getpid(), std::memory_order_release);
  WaitForAll(Call{}, [](const Member& member) { return member.process.load(std::memory_order_acquire) != 0; });
  int process = 0, number = 0;
  std::sscanf(name_.c_str(), "%d.%d", &process, &number);
  if (process == getpid()) close(number);  // all have mapped the memory
}

template <typename Predicate>
void Group::WaitForAll(const Call& call, Predicate present) {
  Patience patience;
  const auto absent = [&](size_t rank) { return !present(members_[rank]); };
  for (size_t rank = 0; rank < size_; ++rank) {
    while (absent(rank)) {
      if (!patience.Wait()) continue;
      std::vector<size_t> missing;
      for (size_t other = 0; other < size_; ++other) {
        if (absent(other)) missing.push_back(other);
      }
      try {
        CheckPresence(missing, patience, call);
      } catch (const GroupError&) {
        // A rank may have come and then ended properly since it was found missing.
        if (std::any_of(missing.begin(), missing.end(), absent)) throw;
      }
    }
  }
}

void Group::Exchange(const Call& call) {
  const uint64_t round = ++round_;
  members_[rank_].calls[round % 2] = call;
  members_[rank_].round.store(round, std::memory_order_release);
  WaitForAll(call, [round](const Member& member) { return member.round.load(std::memory_order_acquire) >= round; });
  for (size_t rank = 0; rank < size_; ++rank) {
    const Call& other = members_[rank].calls[round % 2];
    if (!(other == call)) Fail(call, Describe(rank) + " calls " + other.ToString());
  }
}

void Group::CheckPresence(const std::vector<size_t>& ranks, const Patience& patience, const Call& call) const {
  std::string missing;
  for (size_t rank : ranks) {
    const Member& member = members_[rank];
    const int process = member.process;
    if (member.left) Fail(call, Describe(rank) + " has left the group");
    if (process && StartOf(process) != member.process_start) Fail(call, Describe(rank) + " has ended");
    missing += (missing.empty() ? "" : ", ") + Describe(rank);
  }
  if (missing.empty() || !patience.IsOver()) return;
  std::ostringstream limit;
  limit << Patience::Limit();
  Fail(call, "waited " + limit.str() + " s (NPU_SIMULATOR_TIMEOUT) in vain for " + missing);
}

std::string Group::Describe(size_t rank) const {
  const Member& member = members_[rank];
  const std::string name = "rank " + std::to_string(rank);
  if (!member.process) return name + " (has not joined)";
  return name + " (trainer " + std::to_string(member.trainer) + ", process " + std::to_string(member.process) + ")";
}

void Group::Fail(const Call& call, const std::string& what) const {
  throw GroupError(call.ToString() + " on rank " + std::to_string(rank_) + " of group " + name_ + " (" +
                   std::to_string(size_) + " ranks): " + what);
}

char* Group::SlotOf(size_t rank, uint64_t round) const { return slots_ + (2 * rank + round % 2) * kSlotBytes; }

Mailbox& Group::Box(size_t from, size_t to) { return boxes_[from * size_ + to]; }

char* Group::BoxData(size_t from, size_t to) { return box_data_ + (from * size_ + to) * kMailBytes; }

}  // namespace npu_simulator
